"""Loudness (ITU-R BS.1770-4) and its range (EBU Tech 3342) from hops of 100 ms. Pure.

A hop is (sum of squares of all channels after the K filter, frames): what is loud is decided on
means over several hops. All channels count alike.
"""

import math

import numpy as np

from pipeline.audio.meter_kernel import Doubles

_BLOCK = 4  # hops: 400 ms, a block of BS.1770; a new one starts with each hop
_SHORT_TERM = 30  # hops: 3 s, the blocks of EBU Tech 3342
_ABSOLUTE_LUFS = -70.0
_LOWEST_RATE_HZ = 3_500  # below, the shelf at 1,682 Hz has no place


def k_filters(rate_hz: int) -> Doubles:
    """(9,) The K filter's shelf and high pass for a sample rate, as meter_kernel takes them.

    The analogue prototypes of BS.1770's 48 kHz coefficients, found by De Man ("Evaluation of
    implementations of the EBU R128 loudness measurement", AES 2018), so that every rate has the
    same curve. Each filter is b0 b1 b2 a1 a2; the kernel takes b0, b1 - a1 b0, b2 - a2 b0, a1, a2
    of the shelf. Of the high pass b0 is 1, so it is not in the list.
    """
    k = math.tan(math.pi * 1681.974450955533 / max(rate_hz, _LOWEST_RATE_HZ))
    q, gain = 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    middle = gain**0.4996667741545416
    norm = 1 + k / q + k * k
    b0, b1 = (gain + middle * k / q + k * k) / norm, 2 * (k * k - gain) / norm
    b2 = (gain - middle * k / q + k * k) / norm
    a1, a2 = 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm
    k, q = math.tan(math.pi * 38.13547087602444 / rate_hz), 0.5003270373238773
    norm = 1 + k / q + k * k
    c1, c2 = 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm
    return np.array([b0, b1 - a1 * b0, b2 - a2 * b0, a1, a2, -2 - c1, 1 - c2, c1, c2])


def loudness_lufs(sums: Doubles, n_frames: Doubles) -> float:
    """Integrated loudness of hops (n_hops,), gated; of less than 0.4 s the plain mean. NaN: none.

    A last hop that is shorter than the others is in no block, as BS.1770 says.
    """
    whole = n_frames >= n_frames[:1].max(initial=0.0) - 1
    if np.count_nonzero(whole) < _BLOCK:
        return _lufs(float(sums.sum()), float(n_frames.sum()))
    power = _means(sums[whole], n_frames[whole], _BLOCK)
    loud = power[power > _power(_ABSOLUTE_LUFS)]
    if not loud.size:
        return math.nan
    loud = loud[loud > loud.mean() * 0.1]  # 10 LU below the mean
    return _lufs(float(loud.sum()), loud.size)


def loudness_range_lu(sums: Doubles, n_frames: Doubles) -> float:
    """The range between the 10th and the 95th percentile of short-term loudness. NaN: under 3 s."""
    if len(sums) < _SHORT_TERM:
        return math.nan
    power = _means(sums, n_frames, _SHORT_TERM)
    loud = power[power > _power(_ABSOLUTE_LUFS)]
    if not loud.size:
        return math.nan
    loud = loud[loud > loud.mean() * 0.01]  # 20 LU below the mean
    low, high = np.percentile(loud, (10, 95))
    return float(10 * np.log10(high / low))


def _means(sums: Doubles, n_frames: Doubles, n_hops: int) -> Doubles:
    """Mean power of each `n_hops` hops in a row. Summed anew for each: no small differences."""
    view = np.lib.stride_tricks.sliding_window_view
    means: Doubles = view(sums, n_hops).sum(axis=1) / view(n_frames, n_hops).sum(axis=1)
    return means


def _power(lufs: float) -> float:
    return math.pow(10, (lufs + 0.691) / 10)


def _lufs(total: float, n_frames: float) -> float:
    return 10 * math.log10(total / n_frames) - 0.691 if total > 0 else math.nan
