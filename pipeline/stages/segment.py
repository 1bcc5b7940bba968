"""Windows to segments with their features: the stage that holds the VAD.

An exception becomes a column; what is wrong with a worker (a VAD that does not load) is raised.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.arrow import Row
from pipeline.config import SegmentConfig
from pipeline.models.vad.merging import merge_segments
from pipeline.schema import SAMPLE_RATE, SEGMENTED, Segment
from pipeline.stages.error_rows import describe_error

if TYPE_CHECKING:  # torch takes seconds and 600 MB: only where a model is built
    from pipeline.models.features import LogMel
    from pipeline.models.vad.load import Vad


class SegmentedWindow(NamedTuple):
    """The segments of one window and the log-mel features of each, float32 (n_frames, 80)."""

    segments: list[Segment]
    clips: "list[LogMel]"


class FindSegments:
    """Window rows to segmented rows: features once, speech found, neighbours joined."""

    def __init__(
        self, load: Callable[[], "Vad"], config: SegmentConfig, device: str = "cpu"
    ) -> None:
        from pipeline.models.device import pick_device

        self._vad = load()
        self._config = config
        self._device = pick_device(device)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """One row at a time: memory holds the features of one window and no more."""
        for index in range(batch.num_rows):
            ((row, clips),) = self.find(batch.slice(index, 1))
            features = b"".join(clip.numpy().tobytes() for clip in clips)
            yield pa.Table.from_pylist([row | {"features": features}], schema=SEGMENTED)

    def find(self, batch: pa.Table) -> "list[tuple[Row, list[LogMel]]]":
        """Each row with its `segments`, and the features of these on this worker's device."""
        rows = batch.drop_columns("waveform").to_pylist(maps_as_pydicts="strict")
        good = [index for index, row in enumerate(rows) if not row["error_stage"]]
        waveforms = [np.frombuffer(bytes_at(batch["waveform"], i), np.int16) for i in good]
        found: list[SegmentedWindow | BaseException] = [SegmentedWindow([], [])] * len(rows)
        for index, one in zip(good, self._segment(waveforms), strict=True):
            found[index] = one
        return [_with_segments(row, one) for row, one in zip(rows, found, strict=True)]

    def _segment(self, waveforms: Sequence[np.ndarray]) -> list[SegmentedWindow | BaseException]:
        """All together; after a failure each alone, so that it is known whose it is."""
        try:
            return list(self._segment_together(waveforms))
        except (Exception, SystemExit) as error:
            if len(waveforms) == 1:
                return [error]
            return [one for waveform in waveforms for one in self._segment([waveform])]

    def _segment_together(self, waveforms: Sequence[np.ndarray]) -> Iterator[SegmentedWindow]:
        from pipeline.models.features import clip_frames, log_mels, loudness

        features = log_mels(waveforms, self._device)
        spoken = self._vad.find_speech(waveforms, features)
        for waveform, log_mel, intervals, level in zip(
            waveforms, features, spoken, loudness(features), strict=True
        ):
            segments = merge_segments(
                intervals,
                self._config,
                duration_s=len(waveform) / SAMPLE_RATE,
                loudness=level,  # a segment that is too long is cut in a pause
            )
            places = (clip_frames(one, len(log_mel)) for one in segments)
            yield SegmentedWindow(segments, [log_mel[place] for place in places])


def _with_segments(row: Row, found: SegmentedWindow | BaseException) -> "tuple[Row, list[LogMel]]":
    if isinstance(found, BaseException):
        return row | {"segments": []} | describe_error("segment", found), []
    segments = [
        {"start_s": segment.start_s, "end_s": segment.end_s, "n_frames": len(clip)}
        for segment, clip in zip(found.segments, found.clips, strict=True)
    ]
    return row | {"segments": segments}, found.clips


def bytes_at(column: pa.ChunkedArray, index: int) -> pa.Buffer:
    """One value of a large_binary column, without copying it."""
    return column[index].as_buffer()
