"""The stages of a run in a plain loop, without Ray, each measured by a stopwatch.

Costs are CPU seconds (user and system), which other load on the machine changes little, and wall
seconds. Knows nothing of reports and of other people's software.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.planning.speed_report import StageSeconds
from pipeline.runs.execute import plan_run, prepare
from pipeline.schema import SAMPLE_RATE
from pipeline.stages.decode import decode_recordings
from pipeline.stages.label import LabelSegments
from pipeline.stages.segment import FindSegments
from pipeline.stages.write import write_rows
from pipeline.storage.store import open_store
from pipeline.tables.publisher import publish

if TYPE_CHECKING:
    from pipeline.models.sensevoice.decoding import ClipOutput
    from pipeline.models.sensevoice.model import Clip, Transcriber
    from pipeline.models.vad.load import Vad

STAGES = tuple(stage.name for stage in fields(StageSeconds))  # finer than schema.STAGES


@dataclass(slots=True)
class Cost:
    """Seconds that some work took."""

    cpu_s: float = 0.0
    wall_s: float = 0.0

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu_s - other.cpu_s, self.wall_s - other.wall_s)


@dataclass(slots=True)
class Stopwatch:
    """Adds up the cost of each stage."""

    costs: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            cost = self.costs[stage]
            cost.cpu_s += time.process_time() - cpu_s
            cost.wall_s += time.perf_counter() - wall_s


@dataclass(frozen=True, slots=True)
class KeptClip:
    """A clip and our text of it, to compare with the text of other software."""

    waveform: np.ndarray  # int16 (n_samples,)
    rich_text: str


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What the loop did and what it cost."""

    total: Cost
    stages: dict[str, Cost]  # by STAGES
    audio_s: float
    segment_s: float
    n_segments: int
    attention_fill: (
        float  # share of frames that are no padding, if clips were padded to the longest
    )
    kept_clips: list[KeptClip]
    n_bundles: int


class _TimedVad:
    """A VAD that is measured as "vad", apart from features and the joining of segments."""

    def __init__(self, vad: "Vad", stopwatch: Stopwatch) -> None:
        self._vad, self._stopwatch = vad, stopwatch

    def find_speech(self, waveforms: Sequence[np.ndarray], log_mels: Sequence[Any]) -> Any:
        with self._stopwatch("vad"):
            return self._vad.find_speech(waveforms, log_mels)


class _TimedModel:
    """A model that is measured as "model", apart from the building of labels."""

    def __init__(self, model: "Transcriber", stopwatch: Stopwatch) -> None:
        self.vocabulary = model.vocabulary
        self._model, self._stopwatch = model, stopwatch
        self.n_frames = self.n_grid_frames = 0

    def transcribe(
        self, clips: "Sequence[Clip]", languages: Sequence[str], use_itn: Sequence[bool]
    ) -> "list[ClipOutput]":
        lengths = [len(clip) for clip in clips]
        self.n_frames += sum(lengths)
        self.n_grid_frames += len(clips) * max(lengths)
        with self._stopwatch("model"):
            return self._model.transcribe(clips, languages, use_itn)


class Loop:
    """The stages of `flow` in this process. Loads the models once, outside the stopwatch."""

    def __init__(self, config: RunConfig) -> None:
        from pipeline.models.files import resolve_vad
        from pipeline.models.vad.load import load_vad
        from pipeline.stages.build import load_model

        self._config = config
        self._device = config.label.device if config.ray.segment_with_model else "cpu"
        self._vad = load_vad(resolve_vad(config)[0], config.segment, self._device)
        self._model = load_model(config, "")
        _, self._run_info = prepare(config)
        self._todo = plan_run(config, self._run_info).todo

    def run(self, n_kept_clips: int = 0) -> LoopResult:
        """Label all recordings, from reading their files to writing bundles."""
        config, stopwatch = self._config, Stopwatch()
        model = _TimedModel(self._model, stopwatch)
        find = FindSegments(lambda: _TimedVad(self._vad, stopwatch), config.segment, self._device)
        label = LabelSegments(lambda: model, config.label)
        write = partial(
            write_rows, root=config.output, options=config.storage_options, run=self._run_info
        )
        kept_clips: list[KeptClip] = []
        audio_s = segment_s = 0.0
        n_segments = n_bundles = 0
        with stopwatch("total"):
            for windows in self._row_batches(stopwatch):
                labelled = self._label(windows, find, label, stopwatch)
                with stopwatch("write"):
                    write(labelled)
                n_bundles += 1
                audio_s += float(np.sum(labelled["duration_s"]))
                segment_s += float(np.sum(labelled["labelled_s"]))
                n_segments += sum(map(len, labelled["segments"]))
                kept_clips += _cut_clips(windows, labelled, n_kept_clips - len(kept_clips))
        costs = stopwatch.costs
        costs["features"] -= costs["vad"]
        costs["labels"] -= costs["model"]
        return LoopResult(
            total=costs.pop("total"),
            stages={stage: costs[stage] for stage in STAGES},
            audio_s=audio_s,
            segment_s=segment_s,
            n_segments=n_segments,
            attention_fill=model.n_frames / max(1, model.n_grid_frames),
            kept_clips=kept_clips,
            n_bundles=n_bundles,
        )

    def publish(self) -> Cost:
        """Commit the bundles that were written."""
        stopwatch = Stopwatch()
        store = open_store(self._config.output, self._config.storage_options)
        with stopwatch("publish"):
            publish(store, self._run_info)
        return stopwatch.costs["publish"]

    def _label(
        self, windows: pa.Table, find: FindSegments, label: LabelSegments, stopwatch: Stopwatch
    ) -> pa.Table:
        """Like the segment and the label worker, or like FindAndLabelSegments in one worker."""
        if not self._config.ray.segment_with_model:
            with stopwatch("features"):
                segmented = pa.concat_tables(find(windows))
            with stopwatch("labels"):
                return label(segmented)
        with stopwatch("features"):
            found = find.find(windows)
        with stopwatch("labels"):
            clips = [clip for _, clips_of_row in found for clip in clips_of_row]
            return label.label([row for row, _ in found], clips)

    def _row_batches(self, stopwatch: Stopwatch) -> Iterator[pa.Table]:
        """Decoded windows, as many at a time as the flow gives to the model."""
        decoded = decode_recordings(
            self._todo,
            config=self._config.audio,
            options=self._config.storage_options,
            run_id=self._run_info.run_id,
            measure=self._config.quality.measure,
        )
        batch: list[pa.Table] = []
        batch_s = 0.0
        while True:
            with stopwatch("decode"):
                windows = next(decoded, None)
            if windows is not None:
                batch.append(windows)
                batch_s += float(np.sum(windows["duration_s"]))
            if batch and (windows is None or batch_s >= self._config.ray.batch_audio_s):
                yield pa.concat_tables(batch)
                batch, batch_s = [], 0.0
            if windows is None:
                return


def _cut_clips(windows: pa.Table, labelled: pa.Table, n_most: int) -> list[KeptClip]:
    clips: list[KeptClip] = []
    if n_most <= 0:
        return clips
    for waveform, segments, start_s in zip(
        windows["waveform"].to_pylist(),
        labelled["segments"].to_pylist(),
        labelled["window_start_s"].to_pylist(),
        strict=True,
    ):
        samples = np.frombuffer(waveform, np.int16)
        for segment in segments:
            first, last = (
                round((segment[key] - start_s) * SAMPLE_RATE) for key in ("start_s", "end_s")
            )
            clips.append(KeptClip(samples[first:last], segment["rich_text"]))
    return clips[:n_most]
