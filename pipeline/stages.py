"""The callables that Ray calls. Here, and nowhere else, an exception becomes a column.

Each takes a batch of rows and gives rows back: decode_recordings, FindSegments, LabelSegments,
write_rows. A bad recording becomes a row with an error, which the later stages hand on untouched;
what is wrong with a worker (a model that does not load) is raised and stops the run. SystemExit is
caught beside Exception because a library that calls sys.exit inside an actor hangs Ray (ray#62746).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.audio import decode
from pipeline.batching import PackTooLarge, pack_by_length
from pipeline.bundles import RunInfo, write_bundle
from pipeline.config import AudioConfig, LabelConfig, SegmentConfig
from pipeline.decoding import (
    Frames,
    Vocabulary,
    best_spoken,
    label_clip,
    restrict_languages,
)
from pipeline.redaction import public_uri, redact
from pipeline.schema import (
    BUNDLE,
    N_MELS,
    PLANNED_FIELDS,
    SAMPLE_RATE,
    SEGMENTED,
    WINDOW,
    WINDOW_FIELDS,
    RecordingError,
    Segment,
)
from pipeline.segmenting import merge_segments
from pipeline.storage import StoreError, open_store
from pipeline.versions import look_up_versions

if TYPE_CHECKING:  # torch takes seconds and 600 MB: only where a model is built, not to decode
    from pipeline.sensevoice import Transcriber
    from pipeline.vad_models import Vad

Row = dict[str, Any]

_NAMES = pa.list_(pa.string())


def decode_recordings(
    batch: pa.Table, *, config: AudioConfig, options: Mapping[str, Any], run_id: str
) -> Iterator[pa.Table]:
    """Planned rows to window rows, one at a time, so that memory holds one window and no more."""
    for row in batch.to_pylist(maps_as_pydicts="strict"):
        for window in _decode_one(row, config, options, run_id):
            yield pa.Table.from_pylist([window], schema=WINDOW)


def _decode_one(
    row: Row, config: AudioConfig, options: Mapping[str, Any], run_id: str
) -> Iterator[Row]:
    base = {
        **{name: row[name] for name, _ in PLANNED_FIELDS},
        "uri": public_uri(row["uri"]),  # what is written down opens nothing
        "attempt_id": _attempt_id(run_id, row["work_key"], row["version"]),
        "window_index": 0,
        "n_windows": 1,
        "window_start_s": row["offset_s"],
        "duration_s": 0.0,
        "sample_rate_hz": 0,
        "channels": 0,
        "codec": "",
        "warning": "",
        "waveform": b"",
    }
    if row["error_stage"]:
        yield base
        return
    try:
        version, n_bytes = _version_of(row["uri"], options)
        attempt_id = _attempt_id(run_id, row["work_key"], version)
        base |= {"attempt_id": attempt_id, "version": version, "bytes": n_bytes}
        for window in decode(
            row["uri"], config, options, offset_s=row["offset_s"], length_s=row["length_s"]
        ):
            if window.is_last and _version_of(row["uri"], options)[0] != version:
                raise RecordingError("ChangedWhileRead", "rewritten while it was read; run again")
            base |= {
                "window_index": window.index,
                "n_windows": window.index + 1 if window.is_last else 0,
                "window_start_s": window.start_s,
                "duration_s": len(window.waveform) / SAMPLE_RATE,
                "sample_rate_hz": window.sample_rate_hz,
                "channels": window.channels,
                "codec": window.codec,
                "warning": window.warning,
                "waveform": window.waveform.tobytes(),
            }
            yield dict(base)
            base |= {"window_index": window.index + 1, "n_windows": window.index + 2}
    except (Exception, SystemExit) as error:
        # The windows before the fault stand; this one closes the recording and carries the reason.
        yield {**base, "duration_s": 0.0, "waveform": b"", **describe_error("decode", error)}


def _attempt_id(run_id: str, work_key: str, version: str) -> str:
    """One name for all decodings that give the same windows.

    Ray replays a generator whose worker died and drops the windows that it already has, so the
    windows of both must fit together: named by what was read, not when.
    """
    text = f"{run_id}\x1f{work_key}\x1f{version}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _version_of(uri: str, options: Mapping[str, Any]) -> tuple[str, int]:
    """What the store says of the object now: the plan may be hours old."""
    try:
        return look_up_versions([uri], options)[0]
    except StoreError as error:
        raise RecordingError("StoreUnavailable", str(error)) from error


def describe_error(stage: str, error: BaseException) -> Row:
    """The three error columns of a row."""
    kind = error.kind if isinstance(error, RecordingError) else type(error).__name__
    message = redact(str(error) or repr(error))
    return {"error_stage": stage, "error_type": kind, "error_message": message[:2000]}


class FindSegments:
    """Window rows to segmented rows: features once, speech found, neighbours joined."""

    def __init__(self, load: Callable[[], "Vad"], config: SegmentConfig) -> None:
        from pipeline import features

        self._features = features
        self._vad = load()
        self._config = config

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for index in range(batch.num_rows):
            row = batch.slice(index, 1).drop_columns("waveform").to_pylist(maps_as_pydicts="strict")
            waveform = np.frombuffer(_bytes_at(batch["waveform"], index), np.int16)
            yield pa.Table.from_pylist([self._segment(row[0], waveform)], schema=SEGMENTED)

    def _segment(self, row: Row, waveform: np.ndarray) -> Row:
        nothing: Row = {"segments": [], "features": b""}
        if row["error_stage"]:
            return row | nothing
        try:
            return row | self._find(waveform)
        except (Exception, SystemExit) as error:
            return row | nothing | describe_error("segment", error)

    def _find(self, waveform: np.ndarray) -> Row:
        log_mel = self._features.log_mel(waveform)
        config = self._config
        segments = merge_segments(
            self._vad.find_speech(waveform, log_mel),
            max_segment_s=config.max_segment_s,
            merge_length_s=config.merge_length_s,
            merge_gap_s=config.merge_gap_s,
            min_segment_s=config.min_segment_s,
            duration_s=len(waveform) / SAMPLE_RATE,
            loudness=log_mel.mean(axis=1),  # a segment that is too long is cut in a pause
        )
        clip_frames = self._features.clip_frames
        clips = [log_mel[clip_frames(segment, len(log_mel))] for segment in segments]
        return {
            "segments": [
                {"start_s": segment.start_s, "end_s": segment.end_s, "n_frames": len(clip)}
                for segment, clip in zip(segments, clips, strict=True)
            ],
            "features": np.concatenate(clips).tobytes() if clips else b"",
        }


class LabelSegments:
    """Segmented rows to bundle rows: the clips of all rows are heard together, packed by length."""

    def __init__(self, load: Callable[[], "Transcriber"], config: LabelConfig) -> None:
        self._model = load()
        self._config = config
        self._max_frames = int(config.batch_s * 100)  # of a pass; halved when memory is short

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.drop_columns("features").to_pylist(maps_as_pydicts="strict")
        clips: list[np.ndarray] = []
        languages: list[str] = []
        for index, row in enumerate(rows):
            features = np.frombuffer(_bytes_at(batch["features"], index), np.float32)
            ends = np.cumsum([segment["n_frames"] for segment in row["segments"]], dtype=int)
            clips += np.split(features.reshape(-1, N_MELS), ends)[:-1]
            languages += [row["language"] or self._config.language] * len(row["segments"])
        heard = iter(self._hear(clips, languages))
        labelled = [self._finish(row, [next(heard) for _ in row["segments"]]) for row in rows]
        return pa.Table.from_pylist(labelled, schema=BUNDLE)

    def _hear(
        self, clips: Sequence[np.ndarray], languages: Sequence[str]
    ) -> list[Frames | Exception]:
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
        self, clips: Sequence[np.ndarray], languages: Sequence[str]
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
        self, pack: Sequence[int], clips: Sequence[np.ndarray], languages: Sequence[str]
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


def write_rows(batch: pa.Table, *, root: str, options: Mapping[str, Any], run: RunInfo) -> pa.Table:
    """Bundle rows to one bundle in the store; gives back a receipt of one row."""
    key = write_bundle(open_store(root, options), run, batch)
    errors = np.array(batch["error_stage"].to_pylist()) != ""
    last = np.array(batch["n_windows"]) > 0
    return pa.table(
        {
            "bundle": [key],
            "n_recordings": [int(last.sum())],
            "n_errors": [int(errors.sum())],
            "errors": pa.array([batch.filter(errors)["error_type"].to_pylist()], _NAMES),
            "example": batch.filter(errors)["error_message"].to_pylist()[:1] or [""],
            "audio_s": [float(np.sum(batch["duration_s"]))],
            "n_segments": [sum(len(segments) for segments in batch["segments"].to_pylist())],
        }
    )


def _bytes_at(column: pa.ChunkedArray, index: int) -> pa.Buffer:
    """One value of a large_binary column, without copying it."""
    return column[index].as_buffer()
