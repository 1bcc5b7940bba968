"""The stages that hold models: FindSegments, LabelSegments, and both of them in one worker.

As in `stages`, an exception becomes a column, and what is wrong with a worker is raised.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.config import LabelConfig, SegmentConfig
from pipeline.models.sensevoice.decoding import (
    Frames,
    Vocabulary,
    best_spoken,
    label_clip,
    restrict_languages,
)
from pipeline.models.sensevoice.packing import PackTooLarge, pack_by_length
from pipeline.models.vad.merging import merge_segments
from pipeline.schema import (
    BUNDLE,
    N_MELS,
    SAMPLE_RATE,
    SEGMENTED,
    WINDOW_FIELDS,
    RecordingError,
    Segment,
)
from pipeline.stages.decode import describe_error

if TYPE_CHECKING:  # torch takes seconds and 600 MB: only where a model is built
    from torch import Tensor

    from pipeline.models.sensevoice.model import Clip, Transcriber
    from pipeline.models.vad.load import Vad

Row = dict[str, Any]

# At most, of a forward pass. On a CPU its activations stay in cache: packs of 30 to 60 s are 5 to
# 10 % faster than of 120 (`jobs.benchmark model`). On a GPU, by arithmetic: a kernel should last
# for some 30 us, several times its launch.
_BATCH_S = {"cpu": 60.0, "cuda": 1200.0}


class Found(NamedTuple):
    """The segments of one window and the log-mel features of each, float32 (n_frames, 80)."""

    segments: list[Segment]
    clips: "list[Tensor]"


class FindSegments:
    """Window rows to segmented rows: features once, speech found, neighbours joined."""

    def __init__(
        self, load: Callable[[], "Vad"], config: SegmentConfig, device: str = "cpu"
    ) -> None:
        from pipeline.models import features

        self._features = features
        self._vad = load()
        self._config = config
        self._device = features.pick_device(device)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """One row at a time: memory holds the features of one window and no more."""
        for index in range(batch.num_rows):
            ((row, clips),) = self.find(batch.slice(index, 1))
            features = b"".join(clip.numpy().tobytes() for clip in clips)
            yield pa.Table.from_pylist([row | {"features": features}], schema=SEGMENTED)

    def find(self, batch: pa.Table) -> "list[tuple[Row, list[Tensor]]]":
        """Each row with its `segments`, and the features of these on this worker's device."""
        rows = batch.drop_columns("waveform").to_pylist(maps_as_pydicts="strict")
        good = [index for index, row in enumerate(rows) if not row["error_stage"]]
        waveforms = [np.frombuffer(_bytes_at(batch["waveform"], i), np.int16) for i in good]
        found: list[Found | BaseException] = [Found([], [])] * len(rows)
        for index, one in zip(good, self._hear(waveforms), strict=True):
            found[index] = one
        return [_with_segments(row, one) for row, one in zip(rows, found, strict=True)]

    def _hear(self, waveforms: Sequence[np.ndarray]) -> list[Found | BaseException]:
        """All together; after a failure each alone, so that it is known whose it is."""
        try:
            return list(self._find(waveforms))
        except (Exception, SystemExit) as error:
            if len(waveforms) == 1:
                return [error]
            return [one for waveform in waveforms for one in self._hear([waveform])]

    def _find(self, waveforms: Sequence[np.ndarray]) -> Iterator[Found]:
        log_mels = self._features.log_mels(waveforms, self._device)
        spoken = self._vad.find_speech(waveforms, log_mels)
        levels = self._features.loudness(log_mels)
        config = self._config
        for waveform, log_mel, intervals, level in zip(
            waveforms, log_mels, spoken, levels, strict=True
        ):
            segments = merge_segments(
                intervals,
                max_segment_s=config.max_segment_s,
                merge_length_s=config.merge_length_s,
                merge_gap_s=config.merge_gap_s,
                min_segment_s=config.min_segment_s,
                duration_s=len(waveform) / SAMPLE_RATE,
                loudness=level,  # a segment that is too long is cut in a pause
            )
            places = (self._features.clip_frames(one, len(log_mel)) for one in segments)
            yield Found(segments, [log_mel[place] for place in places])


def _with_segments(row: Row, found: Found | BaseException) -> "tuple[Row, list[Tensor]]":
    if isinstance(found, BaseException):
        return row | {"segments": []} | describe_error("segment", found), []
    segments = [
        {"start_s": segment.start_s, "end_s": segment.end_s, "n_frames": len(clip)}
        for segment, clip in zip(found.segments, found.clips, strict=True)
    ]
    return row | {"segments": segments}, found.clips


class LabelSegments:
    """Segmented rows to bundle rows: the clips of all rows are heard together, packed by length."""

    def __init__(self, load: Callable[[], "Transcriber"], config: LabelConfig) -> None:
        from pipeline.models.features import pick_device

        self._model = load()
        self._config = config
        batch_s = config.batch_s or _BATCH_S[pick_device(config.device).type]
        self._max_frames = int(batch_s * 100)  # of a pass; halved when memory is short

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.drop_columns("features").to_pylist(maps_as_pydicts="strict")
        clips: list[Clip] = []
        for index, row in enumerate(rows):
            features = np.frombuffer(_bytes_at(batch["features"], index), np.float32)
            ends = np.cumsum([segment["n_frames"] for segment in row["segments"]], dtype=int)
            clips += np.split(features.reshape(-1, N_MELS), ends)[:-1]
        return self.label(rows, clips)

    def label(self, rows: Sequence[Row], clips: "Sequence[Clip]") -> pa.Table:
        """Rows with `segments` to bundle rows; `clips` are the segments of all rows in order."""
        languages = [
            row["language"] or self._config.language for row in rows for _ in row["segments"]
        ]
        heard = iter(self._hear(clips, languages))
        labelled = [self._finish(row, [next(heard) for _ in row["segments"]]) for row in rows]
        return pa.Table.from_pylist(labelled, schema=BUNDLE)

    def _hear(self, clips: "Sequence[Clip]", languages: Sequence[str]) -> list[Frames | Exception]:
        """What was heard in each clip, or why nothing was; the second pass is for languages."""
        heard = self._transcribe(clips, languages)
        again: dict[int, tuple[str, np.ndarray]] = {}
        for index, frames in enumerate(heard):
            if self._config.allowed_languages and isinstance(frames, Frames):
                restricted = restrict_languages(frames, self._config.allowed_languages)
                heard[index] = replace(frames, language=restricted)
                if int(np.argmax(frames.language)) != int(np.argmax(restricted)):
                    again[index] = (best_spoken(restricted), restricted)
        # A clip whose language is not allowed is heard once more, told the best that is.
        prompts = [language for language, _ in again.values()]
        second = self._transcribe([clips[index] for index in again], prompts)
        for (index, (_, restricted)), frames in zip(again.items(), second, strict=True):
            if isinstance(frames, Frames):
                frames = replace(frames, language=restricted)
            heard[index] = frames
        return heard

    def _transcribe(
        self, clips: "Sequence[Clip]", languages: Sequence[str]
    ) -> list[Frames | Exception]:
        results: list[Frames | Exception] = [RuntimeError("not heard")] * len(clips)
        left = list(range(len(clips)))
        while left:
            lengths = [len(clips[index]) for index in left]
            packs = [[left[i] for i in p] for p in pack_by_length(lengths, self._max_frames)]
            left = []
            for n_done, pack in enumerate(packs):
                try:
                    heard = self._pass(pack, clips, languages)
                except PackTooLarge:  # later batches will be no smaller: this size is kept
                    self._max_frames = sum(len(clips[index]) for index in pack) // 2
                    left = [index for rest in packs[n_done:] for index in rest]
                    break
                for index, frames in zip(pack, heard, strict=True):
                    results[index] = frames
        return results

    def _pass(
        self, pack: Sequence[int], clips: "Sequence[Clip]", languages: Sequence[str]
    ) -> list[Frames | Exception]:
        """One forward pass; after a failure, halves, until the clip that does not go is alone.

        Raises PackTooLarge.
        """
        try:
            return list(
                self._model.transcribe(
                    [clips[index] for index in pack],
                    [languages[index] for index in pack],
                    self._config.use_itn,
                )
            )
        except (Exception, SystemExit) as error:
            if isinstance(error, PackTooLarge) and len(pack) > 1:
                raise
            if len(pack) == 1:
                return [RecordingError(type(error).__name__, str(error) or repr(error))]
            middle = len(pack) // 2
            halves = (pack[:middle], pack[middle:])
            return [one for half in halves for one in self._pass(half, clips, languages)]

    def _finish(self, row: Row, heard: Sequence[Frames | Exception]) -> Row:
        vocabulary: Vocabulary = self._model.vocabulary
        labels: list[Row] = []
        failed_s = 0.0 if not row["error_stage"] else row["duration_s"]
        for segment, frames in zip(row["segments"], heard, strict=True):
            place = Segment(segment["start_s"], segment["end_s"])
            if isinstance(frames, Exception):
                failed_s += place.duration_s
                row |= describe_error("label", frames)
                continue
            start_s = round(row["window_start_s"] + place.start_s, 3)
            end_s = round(row["window_start_s"] + place.end_s, 3)
            labels.append(label_clip(frames, vocabulary, start_s, end_s, self._config.use_itn))
        labelled_s = sum(
            segment["end_s"] - segment["start_s"]
            for segment, frames in zip(row["segments"], heard, strict=True)
            if isinstance(frames, Frames)
        )
        return {
            **{name: row[name] for name, _ in WINDOW_FIELDS},
            "labelled_s": labelled_s,
            "failed_s": failed_s,
            "silence_s": max(0.0, row["duration_s"] - labelled_s - failed_s),
            "segments": labels,
        }


class FindAndLabelSegments:
    """Window rows to bundle rows in one worker: features and VAD on the model's device, too.

    For GPUs that the CPUs beside them cannot feed: VAD costs 60 cores at 28,000x real time.
    """

    def __init__(
        self,
        load_vad: Callable[[], "Vad"],
        segment: SegmentConfig,
        load_model: Callable[[], "Transcriber"],
        label: LabelConfig,
    ) -> None:
        self._find = FindSegments(load_vad, segment, label.device)
        self._label = LabelSegments(load_model, label)

    def __call__(self, batch: pa.Table) -> pa.Table:
        found = self._find.find(batch)
        clips = [clip for _, clips_of_row in found for clip in clips_of_row]
        return self._label.label([row for row, _ in found], clips)


def _bytes_at(column: pa.ChunkedArray, index: int) -> pa.Buffer:
    """One value of a large_binary column, without copying it."""
    return column[index].as_buffer()
