"""How far up a recording's spectrum goes, and how steeply it ends. Pure.

Audio that was resampled from a lower rate, or compressed, has next to nothing above some frequency:
the spectrum falls there and does not come back. Speech alone falls by 10 to 32 dB.
"""

import math

import numpy as np
import numpy.typing as npt

from pipeline.audio.meter_kernel import Doubles

_WIDTH_HZ = 500.0  # the fall is measured over so much
_LOWEST_HZ = 2500.0  # lower edges are those of voices and instruments, not of a file
_EDGE_DB = 15.0  # a smaller fall is no edge: the spectrum goes up to half the sample rate
# Rounding to 16 bits adds this power to each sample. Added everywhere, it is the bottom of what can
# be measured, so digital silence above the edge has a finite depth.
_ROUNDING = 2.0**-30 / 12


def n_fft(rate_hz: int) -> int:
    """Samples of one spectrum: no longer than a hop of 100 ms."""
    return 1024 if rate_hz >= 10_240 else 256 if rate_hz < 5_120 else 512


def powers(frames: npt.NDArray[np.float32]) -> Doubles:
    """(n, n_fft) frames -> (n_fft // 2 + 1,) the sum of their power spectra, with a Hann window."""
    window = np.hanning(frames.shape[1]).astype(np.float32)
    spectra = np.fft.rfft(frames * window)
    total: Doubles = np.add(spectra.real**2, spectra.imag**2).sum(axis=0, dtype=np.float64)
    return total


def edge(power: Doubles, n_frames: int, rate_hz: int) -> tuple[float, float]:
    """(bandwidth_hz, bandwidth_drop_db) of `n_frames` spectra that `powers` added up.

    The bandwidth is the upper end of the largest fall over 500 Hz that is never made good above. It
    is half the sample rate if no fall is 15 dB. NaN, NaN without sound.
    """
    size = 2 * (len(power) - 1)
    floor = _ROUNDING * float(np.square(np.hanning(size)).sum())
    if n_frames == 0 or power.max() <= floor * n_frames:
        return math.nan, math.nan
    bin_hz = rate_hz / size
    width = max(1, round(_WIDTH_HZ / bin_hz))
    level_db = 10 * np.log10(power / n_frames + floor)
    # The loudest of what is at least `width` above; the last bins have the low pass of a converter.
    above = np.maximum.accumulate(level_db[::-1])[::-1][width:]
    falls = level_db[: len(above)] - above
    first = max(0, math.ceil(_LOWEST_HZ / bin_hz) - width)
    if first >= len(falls):
        return rate_hz / 2, 0.0
    place = first + int(falls[first:].argmax())
    drop_db = max(0.0, float(falls[place]))
    if drop_db < _EDGE_DB:
        return rate_hz / 2, drop_db
    return (place + width) * bin_hz, drop_db
