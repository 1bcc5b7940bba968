"""Windows to segments with their features: the stage with the VAD. Knows nothing of Ray."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.arrow import Row
from pipeline.audio.meter import N_LEVELS
from pipeline.config import SegmentConfig
from pipeline.models.vad.merging import merge_segments
from pipeline.schema import SAMPLE_RATE, SEGMENTED, Segment
from pipeline.stages.collect import collect
from pipeline.stages.error_rows import describe_error
from pipeline.stages.quality import measure_segments

if TYPE_CHECKING:  # torch takes seconds and 600 MB; only processes with a model import it
    from pipeline.models.features import LogMel
    from pipeline.models.vad.load import Vad


_QUIET_DBFS = -50.0  # a second that is louder is no silence; speech is 20 dB above that
_SILENCE_S = 1.0  # a shorter pause holds no event that the model was trained on


class SegmentedWindow(NamedTuple):
    """The segments of one window and the log-mel features of each, float32 (n_frames, 80)."""

    segments: list[Segment]
    clips: "list[LogMel]"
    silent: frozenset[Segment] = frozenset()  # those in which the VAD found no speech
    level_dbfs: float = -math.inf  # of the loudest second, if there is no segment
    speech: Sequence[Segment] = ()  # what the VAD found


class FindSegments:
    """Window rows to segmented rows: compute features, find speech, join neighbours."""

    def __init__(
        self, load: Callable[[], "Vad"], config: SegmentConfig, device: str = "cpu"
    ) -> None:
        from pipeline.models.device import pick_device

        self._vad = load()
        self._config = config
        self._device = pick_device(device)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """A long window at a time, so that only its features are in memory; short ones together."""
        seconds = batch["duration_s"].to_pylist()
        for places in collect(zip(seconds, range(batch.num_rows), strict=True)):
            found = self.find(batch.slice(places[0], len(places)))
            rows = [row | {"features": _join(clips)} for row, clips in found]
            yield pa.Table.from_pylist(rows, schema=SEGMENTED)

    def find(self, batch: pa.Table) -> "list[tuple[Row, list[LogMel]]]":
        """Each row with its `segments`, and their features on this worker's device."""
        rows = batch.drop_columns(["levels", "waveform"]).to_pylist(maps_as_pydicts="strict")
        good = [index for index, row in enumerate(rows) if not row["error_stage"]]
        waveforms = [np.frombuffer(bytes_at(batch["waveform"], i), np.int16) for i in good]
        found: list[SegmentedWindow | BaseException] = [SegmentedWindow([], [])] * len(rows)
        whole = [self._is_whole(rows[index]) for index in good]
        for index, segmented in zip(good, self._segment(waveforms, whole), strict=True):
            found[index] = segmented
        for index, waveform in zip(good, waveforms, strict=True):
            levels = np.frombuffer(bytes_at(batch["levels"], index), np.float32)
            rows[index]["quality"] = _quality(rows[index], waveform, levels, found[index])
        return [_with_segments(row, one) for row, one in zip(rows, found, strict=True)]

    def _is_whole(self, row: Row) -> bool:
        """Whether the row is a whole recording that is labelled without the VAD."""
        return bool(row["is_only"] and row["duration_s"] < self._config.whole_below_s)

    def _segment(
        self, waveforms: Sequence[np.ndarray], whole: Sequence[bool]
    ) -> list[SegmentedWindow | BaseException]:
        """All waveforms together; after a failure each alone, to find the one that fails."""
        try:
            return list(self._segment_together(waveforms, whole))
        except (Exception, SystemExit) as error:
            if len(waveforms) == 1:
                return [error]
            return [
                one
                for pair in zip(waveforms, whole, strict=True)
                for one in self._segment([pair[0]], [pair[1]])
            ]

    def _segment_together(
        self, waveforms: Sequence[np.ndarray], whole: Sequence[bool]
    ) -> Iterator[SegmentedWindow]:
        from pipeline.models.features import clip_frames, log_mels, loudness

        features = log_mels(waveforms, self._device)
        speech = self._find_speech(waveforms, features, whole)
        for waveform, log_mel, intervals, level in zip(
            waveforms, features, speech, loudness(features), strict=True
        ):
            segments = merge_segments(
                intervals,
                self._config,
                duration_s=len(waveform) / SAMPLE_RATE,
                loudness=level,  # a segment that is too long is cut in a pause
            )
            silent = self._silence(segments, len(waveform) / SAMPLE_RATE)
            segments = sorted([*segments, *silent], key=lambda segment: segment.start_s)
            clips = [log_mel[clip_frames(segment, len(log_mel))] for segment in segments]
            level_dbfs = -math.inf if segments else loudest_second_dbfs(waveform)
            yield SegmentedWindow(segments, clips, frozenset(silent), level_dbfs, intervals)

    def _silence(self, segments: Sequence[Segment], duration_s: float) -> list[Segment]:
        """The stretches between the segments, if they are to be labelled, too."""
        if self._config.silence == "skip":
            return []
        edges = [0.0, *(edge for one in segments for edge in (one.start_s, one.end_s)), duration_s]
        gaps = [Segment(*pair) for pair in zip(edges[::2], edges[1::2], strict=True)]
        rules = {"merge_length_s": 0.0, "min_segment_s": _SILENCE_S}
        return merge_segments(gaps, self._config.model_copy(update=rules), duration_s=duration_s)

    def _find_speech(
        self,
        waveforms: Sequence[np.ndarray],
        features: "Sequence[LogMel]",
        whole: Sequence[bool],
    ) -> list[list[Segment]]:
        """What the VAD finds; of whole recordings, all of it. The VAD does not see these."""
        asked = [place for place, is_whole in enumerate(whole) if not is_whole]
        found = [[Segment(0.0, len(waveform) / SAMPLE_RATE)] for waveform in waveforms]
        if asked:
            told = self._vad.find_speech(
                [waveforms[place] for place in asked], [features[place] for place in asked]
            )
            for place, intervals in zip(asked, told, strict=True):
                found[place] = list(intervals)
        return found


def _join(clips: "Sequence[LogMel]") -> bytes:
    return b"".join(clip.numpy().tobytes() for clip in clips)


def _quality(
    row: Row, waveform: np.ndarray, levels: np.ndarray, found: SegmentedWindow | BaseException
) -> list[Row]:
    """One schema.QUALITY for each segment; none if the window was not measured."""
    if isinstance(found, BaseException) or not levels.size:
        return []
    start_s = row["window_start_s"] - row["offset_s"]
    hops = levels.reshape(-1, N_LEVELS)
    return measure_segments(waveform, hops, found.segments, found.speech, start_s)


def _with_segments(row: Row, found: SegmentedWindow | BaseException) -> "tuple[Row, list[LogMel]]":
    row = {"quality": [], **row}
    if isinstance(found, BaseException):
        return row | {"segments": []} | describe_error("segment", found), []
    segments = [
        {
            "start_s": segment.start_s,
            "end_s": segment.end_s,
            "n_frames": len(clip),
            "is_silence": segment in found.silent,
        }
        for segment, clip in zip(found.segments, found.clips, strict=True)
    ]
    if found.level_dbfs > _QUIET_DBFS:
        row = row | {"warning": _with_warning(row, found.level_dbfs)}
    return row | {"segments": segments}, found.clips


def _with_warning(row: Row, level_dbfs: float) -> str:
    start_s = row["window_start_s"]
    of_channel = f"channel {row['channel']}: " if row["channel"] else ""
    text = (
        f"{of_channel}no segment found from {start_s:.0f} to {start_s + row['duration_s']:.0f} s, "
        f"although the loudest second has {level_dbfs:.0f} dBFS"
    )
    return "; ".join(filter(None, [row["warning"], text]))


def loudest_second_dbfs(waveform: np.ndarray) -> float:
    """RMS of the loudest second of an int16 waveform (n_samples,), in dB; 0 dB: full scale."""
    n_half = SAMPLE_RATE // 2
    starts = range(0, max(1, len(waveform) - n_half), n_half)
    seconds = (waveform[start : start + SAMPLE_RATE].astype(np.float32) for start in starts)
    power = max((float(second @ second) / max(1, second.size) for second in seconds), default=0.0)
    return 10 * math.log10(power / 32768**2) if power else -math.inf


def bytes_at(column: pa.ChunkedArray, index: int) -> pa.Buffer:
    """One value of a large_binary column, without copying it."""
    return column[index].as_buffer()
