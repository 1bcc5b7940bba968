"""The inner loops of the meter, compiled: filters, sums and clipped runs. Knows no files.

Every sum grows by one sample at a time, so the values do not depend on how a stream is divided into
blocks.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

FULL_SCALE = 32767 / 32768  # the largest sample of a 16-bit file
N_CLIPPED = 3  # samples in a row at full scale; fewer are a peak that just fits

# Of each channel: four values of the filters, the samples in a row at full scale just now, and the
# sums of all samples and of their squares.
N_STATE = 7
RUN, SUM, SQUARES = 4, 5, 6
# Of each hop: sum of squares after the K filter, largest sample, clipped samples.
N_HOP = 3
K_SUM, PEAK, CLIPPED = 0, 1, 2

_SIGNATURE = "float64(float32[:,::1], int64[::1], float64[::1], float64[:,::1], float64[:,::1])"


@cache
def compiled_scan() -> Any:
    """`_scan`, compiled: three seconds once on a machine, then it is in numba's cache."""
    import numba  # 50 MB; only processes that label need it

    try:
        return numba.njit(_SIGNATURE, cache=True)(_scan)
    except RuntimeError:  # no directory that can be written: compiled once per process
        return numba.njit(_SIGNATURE)(_scan)


def _scan(samples: Any, ends: Any, filters: Any, state: Any, hops: Any) -> float:
    """Add whole hops of float32 (n_channels, n_frames); hop i ends before frame `ends[i]`.

    `filters` are those of loudness.k_filters. `state` (n_channels, N_STATE) and `hops` (n_hops,
    N_HOP), which is zero, are changed in place. Returns the sum of the products of the two
    channels, if there are two.
    """
    b0, p1, p2, a1, a2, q1, q2, c1, c2 = filters
    for channel in range(samples.shape[0]):
        s1, s2, s3, s4, run, total, squares = state[channel]
        start = 0
        for hop in range(len(ends)):
            end = ends[hop]
            k_sum = peak = 0.0  # `peak` is squared
            # One loop: the filters wait for their last value, and the sums are done meanwhile.
            for frame in range(start, end):
                x = np.float64(samples[channel, frame])
                square = x * x
                total += x
                squares += square
                if square > peak:
                    peak = square
                shelved = s1 + b0 * x
                s1, s2 = (s2 + p1 * x) - a1 * s1, p2 * x - a2 * s1
                y = s3 + shelved
                s3, s4 = (s4 + q1 * shelved) - c1 * s3, q2 * shelved - c2 * s3
                k_sum += y * y
            if k_sum < 1e-60:  # silence: numbers near zero would take a hundred times as long
                s1 = s2 = s3 = s4 = 0.0
            if peak >= FULL_SCALE * FULL_SCALE:
                for frame in range(start, end):
                    run = run + 1.0 if abs(samples[channel, frame]) >= FULL_SCALE else 0.0
                    if run >= N_CLIPPED:
                        hops[hop, CLIPPED] += N_CLIPPED if run == N_CLIPPED else 1.0
            else:
                run = 0.0
            hops[hop, K_SUM] += k_sum
            hops[hop, PEAK] = max(hops[hop, PEAK], np.sqrt(peak))
            start = end
        values = state[channel]
        values[0], values[1], values[2], values[3] = s1, s2, s3, s4
        values[RUN], values[SUM], values[SQUARES] = run, total, squares
    products = 0.0
    if samples.shape[0] == 2:
        for frame in range(ends[-1]):
            products += np.float64(samples[0, frame]) * np.float64(samples[1, frame])
    return products
