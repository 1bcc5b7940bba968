"""Segments to labels: a stage with the model, and one with VAD and model. Knows nothing of Ray."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.arrow import Row
from pipeline.config import LabelConfig, SegmentConfig
from pipeline.errors import ErrorType, RecordingError
from pipeline.models.sensevoice.alignment import align, tokens_of, wanted_tokens
from pipeline.models.sensevoice.decoding import ClipOutput, label_clip
from pipeline.models.sensevoice.packing import BatchedModel
from pipeline.models.sensevoice.words import TokenRun
from pipeline.schema import BUNDLE, FRAMES_PER_S, N_MELS, TEXT_COLUMNS, WINDOW_FIELDS, Segment
from pipeline.stages.error_rows import describe_error
from pipeline.stages.quality import measure_text
from pipeline.stages.segment import FindSegments, bytes_at

if TYPE_CHECKING:  # torch takes seconds and 600 MB; only processes with a model import it
    from pipeline.models.sensevoice.model import Clip, Transcriber
    from pipeline.models.vad.load import Vad

_NO_SPEECH = RecordingError(
    ErrorType.BAD_TEXT, "label.align: no speech was found for the text of the manifest"
)

# Most audio in a model batch. On a CPU its activations stay in cache: batches of 30 to 60 s are 5
# to 10 % faster than batches of 120 s (`jobs.benchmark model`). On an H100 batches of 1,200 s are
# 15 times as fast as those of 60 s, whose kernels take less time than their launches.
_BATCH_S = {"cpu": 60.0, "cuda": 1200.0}


def model_batch_s(config: LabelConfig) -> float:
    """The most seconds of audio in a model batch on this machine."""
    from pipeline.models.device import pick_device

    return config.batch_s or _BATCH_S[pick_device(config.device).type]


class LabelSegments:
    """Segmented rows to bundle rows; clips of different rows share model batches."""

    def __init__(self, load: Callable[[], "Transcriber"], config: LabelConfig) -> None:
        max_frames = int(model_batch_s(config) * FRAMES_PER_S)
        self._model = BatchedModel(load(), max_frames)
        self._config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.drop_columns("features").to_pylist(maps_as_pydicts="strict")
        clips: list[Clip] = []
        for index, row in enumerate(rows):
            features = np.frombuffer(bytes_at(batch["features"], index), np.float32)
            ends = np.cumsum([segment["n_frames"] for segment in row["segments"]], dtype=int)
            clips += np.split(features.reshape(-1, N_MELS), ends)[:-1]
        return self.label(rows, clips)

    def label(self, rows: Sequence[Row], clips: "Sequence[Clip]") -> pa.Table:
        """Rows with `segments` to bundle rows; `clips`: features of all segments, in order."""
        languages = [
            row["language"] or self._config.language for row in rows for _ in row["segments"]
        ]
        use_itn = [self._config.use_itn] * len(clips)
        allowed = self._config.allowed_languages
        texts = [self._text_of(row) for row in rows]
        wanted = [
            wanted_tokens([] if isinstance(text, Exception) else text)
            for row, text in zip(rows, texts, strict=True)
            for _ in row["segments"]
            if text is not None
        ]
        outputs = iter(self._model.transcribe(clips, languages, use_itn, allowed, wanted))
        contours = iter(self._contours(clips))
        labelled = []
        for row, text in zip(rows, texts, strict=True):
            of_row: list[ClipOutput | Exception] = [next(outputs) for _ in row["segments"]]
            found = self._aligned(of_row, text)
            done = self._finish(row, found, [next(contours) for _ in row["segments"]])
            if text is not None and not (row["segments"] or row["error_stage"]):
                done |= describe_error("label", _NO_SPEECH)
            labelled.append(done)
        return pa.Table.from_pylist(labelled, schema=BUNDLE)

    def _text_of(self, row: Row) -> list[int] | RecordingError | None:
        """The tokens of the text that is given for a row, or why there are none; None: no text."""
        if self._config.align == "none":
            return None
        if row["window_index"] or row["n_windows"] != 1:
            return RecordingError(
                ErrorType.BAD_TEXT,
                "label.align: the text is of a recording of several windows or channels; give it "
                "in parts, with offset_s and duration_s, or raise audio.window_s",
            )
        texts = (row["extra"].get(name) for name in TEXT_COLUMNS)
        try:
            return tokens_of(next(filter(None, texts), ""), self._model.vocabulary)
        except RecordingError as error:
            return error

    def _aligned(
        self,
        outputs: "Sequence[ClipOutput | Exception]",
        text: list[int] | RecordingError | None,
    ) -> "Sequence[tuple[ClipOutput | Exception, Sequence[TokenRun] | None]]":
        """Each output with the tokens of the given text in it; a text that cannot be fails all."""
        good = [output for output in outputs if isinstance(output, ClipOutput)]
        if text is None or not outputs or len(good) < len(outputs):
            return [(output, None) for output in outputs]
        try:
            if isinstance(text, RecordingError):
                raise text
            return [*zip(good, align(good, text, self._model.vocabulary), strict=True)]
        except RecordingError as error:
            return [(error, None) for _ in outputs]

    def _contours(self, clips: "Sequence[Clip]") -> "Sequence[np.ndarray | None]":
        """The loudness of each clip's frames, if words are placed by it."""
        if self._config.word_times == "peak":
            return [None] * len(clips)
        from pipeline.models.features import loudness

        on_host = [clip for clip in clips if isinstance(clip, np.ndarray)]
        on_device = [clip for clip in clips if not isinstance(clip, np.ndarray)]  # or all, or none
        return [np.asarray(clip.mean(axis=1)) for clip in on_host] or loudness(on_device)

    def _finish(
        self,
        row: Row,
        found: "Sequence[tuple[ClipOutput | Exception, Sequence[TokenRun] | None]]",
        contours: "Sequence[np.ndarray | None]",
    ) -> Row:
        vocabulary = self._model.vocabulary
        labels: list[Row] = []
        quality: list[Row] = []
        failed_s = 0.0 if not row["error_stage"] else row["duration_s"]
        for segment, (output, aligned), contour, of_audio in zip(
            row["segments"], found, contours, _quality_of(row), strict=True
        ):
            in_window = Segment(segment["start_s"], segment["end_s"])
            if isinstance(output, Exception):
                failed_s += in_window.duration_s
                row |= describe_error("label", output)
                continue
            start_s = round(row["window_start_s"] + in_window.start_s, 3)
            end_s = round(row["window_start_s"] + in_window.end_s, 3)
            label = label_clip(
                output, vocabulary, start_s, end_s, self._config.use_itn, contour, aligned
            )
            label = without_text_of_silence(label) if segment["is_silence"] else label
            labels.append(label)
            if of_audio:
                quality.append(of_audio | measure_text(label, of_audio["speech_s"]))
        labelled_s = sum(
            segment["end_s"] - segment["start_s"]
            for segment, (output, _) in zip(row["segments"], found, strict=True)
            if isinstance(output, ClipOutput)
        )
        return {
            **{name: row[name] for name, _ in WINDOW_FIELDS},
            "labelled_s": labelled_s,
            "failed_s": failed_s,
            "silence_s": max(0.0, row["duration_s"] - labelled_s - failed_s),
            "segments": labels,
            "quality": quality,
        }


def _quality_of(row: Row) -> list[Row] | list[None]:
    """What was measured of each segment; None if nothing was."""
    return row["quality"] or [None] * len(row["segments"])


def without_text_of_silence(label: Row) -> Row:
    """A segment in which the VAD found no speech: a text only if the model says that it is some."""
    tags = {event["event"] for event in label["events"] if event["source"] == "tag"}
    if label["language"] != "nospeech" and "speech" in tags:
        return label
    nothing = {"confidence": 0.0, "confidence_frames": None, "confidence_min": None}
    return label | nothing | {"text": "", "words": [], "n_tokens": 0}


class FindAndLabelSegments:
    """Window rows to bundle rows in one worker: features and VAD on the model's device, too.

    For machines whose CPUs are too slow for their GPU: VAD at 28,000x real time takes 60 cores.
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
