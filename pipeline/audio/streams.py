"""What every decoder yields: an opened stream with its blocks of samples. Decodes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]  # (n_frames, channels) or (n_samples,), full scale 1


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive samples of one rate and channel layout."""

    rate_hz: int
    samples: Floats  # (n_frames, channels)
    channels: tuple[str, ...] = ()  # FFmpeg's names (FL, FR, FC, LFE, ...); (): unknown


@dataclass(slots=True)
class Stream:
    """An opened recording. `blocks` can be read once; the counts grow while it is read.

    All seconds count from the first sample of the audio stream. The blocks hold the time that the
    file's timestamps say: a gap between packets, or a packet that cannot be decoded, is silence of
    its length.
    """

    rate_hz: int
    channels: int
    codec: str
    total_s: float  # the length that the file declares; 0: unknown or only estimated
    start_offset_s: float = 0.0  # how much later this stream starts than the file does (video)
    n_audio_streams: int = 1
    audio_stream: int = 0  # which of them this is, from 0
    warnings: list[str] = field(default_factory=list)
    gap_s: float = 0.0  # silence that fills gaps between packets
    dtx_s: float = 0.0  # silence that a phone encoder did not transmit (DTX)
    bad_s: float = 0.0  # silence in place of packets that cannot be decoded
    n_bad_packets: int = 0
    end_error: str = ""  # the error that ended decoding before the end of the file
    unread_share: float = 0.0  # bytes of the file behind it
    blocks: Iterator[Block] = field(default_factory=lambda: iter(()))
