"""Any number of channels to one. Knows loudspeakers; nothing of files.

Two channels are averaged. Of surround sound the centre counts most and the bass channel (LFE) not
at all: speech is in the centre. The weights are those of ITU-R BS.775-3 (1, 0.7071, 0.5), scaled to
a sum of 1. Where the average of two channels cancels out (a channel with inverted polarity), the
louder one is taken from there on.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from pipeline.audio.streams import Floats

_CENTRE, _FRONT, _SIDE = 1.0, math.sqrt(0.5), 0.5
_WEIGHTS = {
    **{"FC": _CENTRE, "FL": _FRONT, "FR": _FRONT, "FLC": _FRONT, "FRC": _FRONT},
    **{"LFE": 0.0, "LFE2": 0.0},
}
# The order that WAV (dwChannelMask), FLAC and FFmpeg's native layouts share, by their number.
_USUAL = {
    3: ("FL", "FR", "FC"),
    4: ("FL", "FR", "BL", "BR"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
_CANCELLED = 1e-2  # power of the mix to that of its channels: 20 dB below
_AUDIBLE = 1e-8  # mean power of a block, -80 dBFS: below, there is nothing to cancel


@dataclass(slots=True)
class Downmix:
    """One recording's way to one channel; what it did is in `warnings`."""

    warnings: list[str] = field(default_factory=list)
    _louder: int | None = None  # the channel that is used alone

    def __call__(self, samples: Floats, at_s: float, names: tuple[str, ...] = ()) -> Floats:
        """(n_frames, channels) -> (n_frames,); `at_s` is where the block starts."""
        n_channels = samples.shape[1]
        if n_channels == 1:
            return samples[:, 0]
        if self._louder is not None and self._louder < n_channels:
            return samples[:, self._louder]
        mixed: Floats = samples @ weights_of(n_channels, names)
        power = np.square(samples).mean(axis=0)
        if power.max() > _AUDIBLE and np.square(mixed).mean() < _CANCELLED * power.mean():
            self._louder = int(power.argmax())
            self.warnings.append(
                f"the channels cancel each other out: from {at_s:.2f} s on only channel "
                f"{self._louder + 1} of {n_channels} is used"
            )
            return samples[:, self._louder]
        return mixed


def weights_of(n_channels: int, names: tuple[str, ...] = ()) -> Floats:
    """(n_channels,) How much each channel counts; their sum is 1."""
    names = names if len(names) == n_channels else _USUAL.get(n_channels, ())
    if n_channels <= 2 or not names:
        return np.full(n_channels, 1 / n_channels, np.float32)
    weights = np.array([_WEIGHTS.get(name, _SIDE) for name in names], np.float32)
    if not weights.any():
        return np.full(n_channels, 1 / n_channels, np.float32)
    scaled: Floats = (weights / weights.sum()).astype(np.float32)
    return scaled
