"""An uploaded file to labelled segments, window by window, by the stages of a run.

Equal to a run by construction: the same functions decode, segment and label; only the model is
shared with other requests. Knows files and rows; nothing of HTTP.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pipeline.arrow import Row
from pipeline.config import Language, RunConfig
from pipeline.models.files import resolve_model_of, resolve_vad
from pipeline.serving.shared_model import OnBatch, RequestModel, SharedModel
from pipeline.stages.build import build_stages, without_measures
from pipeline.stages.label import LabelSegments
from pipeline.stages.one_file import planned_file, shown_segments
from pipeline.stages.segment import FindSegments
from pipeline.tables.run_records import RunInfo


class LabellingStopped(Exception):
    """The request was cancelled. asyncio would turn a CancelledError into the end of a task."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A part of a file: a window of it, or all of it. Error columns as in schema.BUNDLE."""

    segments: list[Row]  # schema.LABELLED_SEGMENT, as shown_segments gives them
    duration_s: float
    labelled_s: float
    warning: str
    error_stage: str
    error_type: str
    error_message: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for."""

    language: Language
    use_itn: bool


class Labelling:
    """The models of a service. Loading it takes seconds. Raises ModelError."""

    def __init__(
        self,
        config: RunConfig,
        on_batch: OnBatch = lambda n_clips, audio_s, took_s: None,
    ) -> None:
        config = without_measures(config)
        files = resolve_model_of(config)
        _, vad = resolve_vad(config)
        stages = build_stages(config, RunInfo("service", "", config.model, files.sha256, vad))
        self._config = config
        self._decode = stages.decode
        self._find = FindSegments(partial(stages.load_vad, "cpu"), config.segment)
        # Decoding and VAD take a core each; more at a time would slow the model down.
        self.cores = threading.Semaphore(config.service.front_threads)
        self.model = SharedModel(stages.load_model(), config.service.batch_s, on_batch)

    def open(self, wish: Wish) -> "FileLabelling":
        """What labels the file of one request; it can be cancelled from another thread."""
        label = self._config.label.model_copy(
            update={"language": wish.language, "use_itn": wish.use_itn}
        )
        model = self.model.open_request()
        return FileLabelling(
            self._decode, self._find, LabelSegments(lambda: model, label), self.cores, model
        )

    def close(self) -> None:
        """End the model's thread; cancel the requests under way before."""
        self.model.close()


class FileLabelling:
    """Labels the file of one request."""

    def __init__(
        self,
        decode: Callable[[pa.Table], Iterator[pa.Table]],
        find: FindSegments,
        label: LabelSegments,
        cores: threading.Semaphore,
        model: RequestModel,
    ) -> None:
        self._decode, self._find, self._label = decode, find, label
        self._cores, self._model = cores, model
        self._is_cancelled = threading.Event()

    def label(self, path: str) -> Iterator[Labelled]:
        """The parts of the file at this path, in the order of time. Raises LabellingStopped."""
        windows = self._decode(planned_file(path))
        while True:
            with self._cores:
                if self._is_cancelled.is_set():
                    raise LabellingStopped
                window = next(windows, None)
                found = list(self._find(window)) if window is not None else []
            if window is None:
                return
            for table in found:
                rows = self._label(table).to_pylist(maps_as_pydicts="strict")
                if self._is_cancelled.is_set():  # its clips have errors that are none of theirs
                    raise LabellingStopped
                yield from map(_part, rows)

    def cancel(self) -> None:
        """End it at its next step, and drop what waits for the model."""
        self._is_cancelled.set()
        self._model.cancel()


def _part(row: Row) -> Labelled:
    return Labelled(
        segments=shown_segments([row]),
        duration_s=row["duration_s"],
        labelled_s=row["labelled_s"],
        warning=row["warning"],
        error_stage=row["error_stage"],
        error_type=row["error_type"],
        error_message=row["error_message"],
    )
