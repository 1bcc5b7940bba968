"""Check a decoding against limits, file header and wanted stretch. Decodes nothing.

A fault that makes the recording unusable raises RecordingError; others become warnings.
"""

import math
import sys
from dataclasses import dataclass, field

from pipeline.audio.meter import Meters
from pipeline.audio.streams import Stream
from pipeline.config import AudioConfig
from pipeline.errors import ErrorType, RecordingError
from pipeline.schema import FRAME, FRAME_LENGTH, SAMPLE_RATE

# Lossy codecs overshoot a little on loud music. More than this is a file of a wrong scale.
CLIPPED_SHARE = 0.001
_SLACK_S = 0.1  # lengths in headers are rounded, and codecs add or drop up to 0.1 s


# For audio that a run has labelled already: it can be exported and played, whatever its limits
# were. Decoding goes window by window.
WITHOUT_LIMITS = AudioConfig(
    window_s=60.0,
    max_duration_s=1e9,
    max_bytes=1 << 50,
    min_rate_hz=1,
    max_rate_hz=1 << 30,
    max_channels=1 << 15,
    min_decoded_share=0.0,
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a recording, in seconds from its start; a length of 0 means up to the end.

    `channel` is the only one that is wanted, from 1; 0: as configured. Raises
    RecordingError(BadRange) if there can be no such part.
    """

    offset_s: float = 0.0
    length_s: float = 0.0
    channel: int = 0

    def __post_init__(self) -> None:
        offset_s, length_s = self.offset_s, self.length_s
        if not (math.isfinite(offset_s) and offset_s >= 0 and math.isfinite(length_s)):
            raise RecordingError(ErrorType.BAD_RANGE, f"offset {offset_s} s, length {length_s} s")
        if length_s < 0 or 0 < length_s < 0.5 / SAMPLE_RATE:
            raise RecordingError(ErrorType.BAD_RANGE, f"length {length_s} s is not positive")

    @property
    def n_samples(self) -> int:
        """The length in samples at SAMPLE_RATE; the largest integer if it is up to the end."""
        return round(self.length_s * SAMPLE_RATE) or sys.maxsize


@dataclass(slots=True)
class Report:
    """What is known so far about the decoding of one stretch."""

    config: AudioConfig
    stretch: Stretch
    stream: Stream = field(default_factory=lambda: Stream(0, 0, "", 0.0))
    warnings: list[str] = field(default_factory=list)
    n_samples: int = 0  # decoded so far, at SAMPLE_RATE
    n_values: int = 0  # of all channels, as decoded
    n_clipped: int = 0  # of these, over full scale
    meters: Meters = field(default_factory=Meters)  # they are given every block

    def start(self, stream: Stream) -> None:
        """A decoder opened the file. Raises RecordingError if its header exceeds a limit."""
        self.stream = stream
        self.check_limits(stream.rate_hz, stream.channels)
        self._check_duration(self._expected_s if stream.total_s else self.stretch.length_s)

    def check_limits(self, rate_hz: int, channels: int) -> None:
        """The rate and channels of the header, or of a block: they may change inside a file.

        Raises RecordingError(BadRate, TooManyChannels). One frame of a damaged FLAC that says
        20 Hz would else become an hour of audio.
        """
        config = self.config
        if not config.min_rate_hz <= rate_hz <= config.max_rate_hz:
            limits = f"{config.min_rate_hz} to {config.max_rate_hz}"
            raise RecordingError(
                ErrorType.BAD_RATE, f"{rate_hz} Hz; audio.min/max_rate_hz allow {limits}"
            )
        if channels > config.max_channels:
            raise RecordingError(
                ErrorType.TOO_MANY_CHANNELS,
                f"{channels}; audio.max_channels allows {config.max_channels}",
            )

    def count(self, n_samples: int) -> None:
        """More samples were decoded. Raises RecordingError(TooLong)."""
        self.n_samples += n_samples
        self._check_duration(self._decoded_s)

    def count_clipped(self, n_clipped: int, n_values: int) -> None:
        """Some values were decoded; `n_clipped` of them are over full scale, which is cut off."""
        self.n_clipped += n_clipped
        self.n_values += n_values

    def fail(self, reason: str) -> None:
        """A decoder failed, either to open the file or after it had opened it."""
        if self.stream.codec:
            self.warnings.append(reason)

    def finish(self) -> None:
        """The stretch was decoded to its end. Raises RecordingError if too little came out."""
        self.warnings += self.stream.warnings
        self._check_length()
        self._check_damage()
        self._tell_changes()
        self._check_samples()
        self._check_end()

    @property
    def _decoded_s(self) -> float:
        return self.n_samples / SAMPLE_RATE

    @property
    def _left_s(self) -> float:
        """Seconds from the offset to the end of the file, as declared; 0 if not declared."""
        return self.stream.total_s - self.stretch.offset_s if self.stream.total_s else 0.0

    @property
    def _expected_s(self) -> float:
        """The length of the stretch, but not beyond the declared end of the file."""
        return min(self._left_s, self.stretch.length_s or math.inf)

    def _check_duration(self, duration_s: float) -> None:
        if duration_s > self.config.max_duration_s:
            limit = f"audio.max_duration_s allows {self.config.max_duration_s:.0f}"
            raise RecordingError(ErrorType.TOO_LONG, f"{duration_s:.0f} s; {limit}")

    def _check_length(self) -> None:
        decoded_s, expected_s = self._decoded_s, self._expected_s
        if expected_s - decoded_s <= _SLACK_S:
            return
        text = f"{decoded_s:.2f} s decoded of {expected_s:.2f} s that the file declares"
        if decoded_s - self.stream.bad_s < self.config.min_decoded_share * expected_s:
            raise RecordingError(ErrorType.TRUNCATED, text)
        self.warnings.append(text)

    def _check_damage(self) -> None:
        """Seconds that could not be decoded, against `min_decoded_share`."""
        allowed = 1 - self.config.min_decoded_share
        bad_s, decoded_s = self.stream.bad_s, self._decoded_s
        if self.stream.n_bad_packets:
            text = (
                f"{self.stream.n_bad_packets} packets ({bad_s:.2f} s of {decoded_s:.2f} s) could "
                "not be decoded; silence is in their place"
            )
            if bad_s > allowed * decoded_s:
                raise RecordingError(ErrorType.UNDECODABLE, text)
            self.warnings.append(text)
        if not self.stream.total_s and self.stream.unread_share > allowed:
            text = f"{self.stream.unread_share:.0%} of the file could not be read"
            raise RecordingError(ErrorType.TRUNCATED, text)

    def _tell_changes(self) -> None:
        is_complete = self._left_s and self._expected_s - self._decoded_s <= _SLACK_S
        # A chained Ogg declares the length of its last part only.
        is_known = is_complete and not self.stream.codec.startswith("ogg/")
        if self.stream.end_error and not is_known:  # else tags or padding behind the audio
            self.warnings.append(self.stream.end_error)
        if self.n_clipped > CLIPPED_SHARE * self.n_values:
            share = self.n_clipped / self.n_values
            self.warnings.append(f"{share:.1%} of the samples are over full scale; cut off there")
        if self.stream.gap_s:
            self.warnings.append(f"{self.stream.gap_s:.2f} s of gaps were filled with silence")

    def _check_samples(self) -> None:
        offset_s, total_s = self.stretch.offset_s, self.stream.total_s
        if not self.n_samples and offset_s:
            end = f" at {total_s:.3f} s" if total_s else ""
            text = f"offset {offset_s} s is beyond the end{end}"
            raise RecordingError(ErrorType.BAD_RANGE, text)
        if not self.n_samples:
            text = f"{self.stream.codec} file without samples"
            raise RecordingError(ErrorType.NO_SAMPLES, text)
        if self.n_samples < FRAME_LENGTH:
            text = f"{self._decoded_s * 1000:.1f} ms; one analysis frame is 25 ms"
            raise RecordingError(ErrorType.TOO_SHORT, text)

    def _check_end(self) -> None:
        length_s, left_s = self.stretch.length_s, self._left_s
        missing_s = length_s - self._decoded_s
        if missing_s > FRAME / SAMPLE_RATE and (not left_s or length_s > left_s):
            self.warnings.append(f"the range ends {missing_s:.2f} s after the file")
