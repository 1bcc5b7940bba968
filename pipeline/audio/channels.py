"""Which channels of a recording become waveforms. Knows nothing of files or rates.

A stream is a waveform of its own: all channels mixed, or one of them. Its channel counts from 1;
0 stands for all channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.audio.downmix import Downmix
from pipeline.audio.streams import Floats
from pipeline.config import ChannelMode
from pipeline.errors import ErrorType, RecordingError
from pipeline.schema import SAMPLE_RATE

Waveform = npt.NDArray[np.int16]  # (n_samples,), mono, SAMPLE_RATE
Waveforms = npt.NDArray[np.int16]  # (n_samples, n_streams), SAMPLE_RATE

MIXED = 0  # the channel of a stream that stands for all channels

# Two channels are one signal where a second of their difference has less than this much of its
# power, or is below the step of 16 bits: lossy codecs store two equal channels not quite equally.
_SAME = 1e-5  # -50 dB; of AAC -51 dB was measured
_STEP = 1.0


@dataclass(slots=True)
class Selection:
    """The streams that are taken from one stretch of a recording. Holds what was chosen so far."""

    mode: ChannelMode = "mix"
    channel: int = 0  # the one that the manifest asks for; 0: by `mode`
    _n_channels: int = 0  # kept side by side; 0: not known before the first block
    _loudest: int = 0  # chosen in the first window
    _told: set[int] = field(default_factory=set)  # channels that repeat another one

    @property
    def n_streams(self) -> int:
        """How many there are, as far as is known: channels with the same signal count, too."""
        return max(1, self._n_channels) if self.mode == "split" else 1

    def keep(self, samples: Floats, at_s: float, names: tuple[str, ...], mix: Downmix) -> Floats:
        """(n_frames, channels) -> (n_frames, n): mixed or one channel (n is 1), or side by side.

        Raises RecordingError(BadChannel) if the wanted channel is not there, or if the number of
        channels changes in a file whose channels are kept side by side.
        """
        n_channels = samples.shape[1]
        if self.channel or self.mode == "first":
            return _one(samples, self.channel or 1)
        if self.mode == "mix":
            return mix(samples, at_s, names)[:, np.newaxis]
        self._n_channels = self._n_channels or n_channels
        if n_channels not in (1, self._n_channels):
            raise RecordingError(
                ErrorType.BAD_CHANNEL,
                f"{self._n_channels} channels become {n_channels} at {at_s:.2f} s; "
                "audio.channels: mix can label such a file",
            )
        return samples if n_channels == self._n_channels else samples.repeat(self._n_channels, 1)

    def streams(
        self, kept: Waveforms, n_channels: int, warnings: list[str]
    ) -> list[tuple[int, Waveform]]:
        """(channel, waveform) of each stream in a window of what `keep` gave, in int16.

        `n_channels` is that of the file. The loudest channel of the first window is taken for the
        whole stretch. Of channels with the same signal the first is a stream; if all have it, their
        mean.
        """
        if kept.shape[1] == 1:
            is_one = self.mode == "first" and n_channels > 1
            return [(self.channel or int(is_one), kept[:, 0])]
        if self.mode == "loudest":
            self._loudest = self._loudest or 1 + int(_power(kept).argmax())
            return [(self._loudest, np.ascontiguousarray(kept[:, self._loudest - 1]))]
        originals = originals_of(kept)
        self._tell(originals, warnings)
        found = sorted(set(originals))
        if len(found) == 1:
            return [(MIXED, _mean(kept))]
        return [(channel, np.ascontiguousarray(kept[:, channel - 1])) for channel in found]

    def _tell(self, originals: Sequence[int], warnings: list[str]) -> None:
        for channel, original in enumerate(originals, start=1):
            if channel != original and channel not in self._told:
                self._told.add(channel)
                warnings.append(f"channel {channel} has the signal of channel {original}")


def originals_of(kept: Waveforms) -> list[int]:
    """For each channel the first channel, from 1, that has the same signal: often itself."""
    originals: list[int] = []
    for channel in range(kept.shape[1]):
        same = (
            other + 1
            for other in dict.fromkeys(place - 1 for place in originals)
            if _is_same(kept[:, other], kept[:, channel])
        )
        originals.append(next(same, channel + 1))
    return originals


def _is_same(one: Waveform, other: Waveform) -> bool:
    """Whether no second of the two differs by more than codecs make of equal channels."""
    for start in range(0, len(one), SAMPLE_RATE):
        end = start + SAMPLE_RATE
        first, second = (part[start:end].astype(np.float32) for part in (one, other))
        difference = first - second
        allowed = max(_SAME * float(first @ first), _STEP * len(first))
        if float(difference @ difference) > allowed:
            return False
    return True


def _mean(kept: Waveforms) -> Waveform:
    """(n_samples,) The rounded mean of the channels, as a mix has it."""
    n_channels = kept.shape[1]
    total = kept.sum(axis=1, dtype=np.int32)
    mean: Waveform = ((2 * total + n_channels) // (2 * n_channels)).astype(np.int16)
    return mean


def _power(kept: Waveforms) -> Floats:
    """(n_streams,) The sum of squares of each."""
    power: Floats = np.einsum("ij,ij->j", kept, kept, dtype=np.float64).astype(np.float32)
    return power


def _one(samples: Floats, channel: int) -> Floats:
    n_channels = samples.shape[1]
    if channel > n_channels:
        have = "1 channel" if n_channels == 1 else f"{n_channels} channels"
        raise RecordingError(ErrorType.BAD_CHANNEL, f"channel {channel} of a file with {have}")
    return samples[:, channel - 1 : channel]
