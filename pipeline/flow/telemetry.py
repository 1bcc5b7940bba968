"""A run's progress as Prometheus metrics, reported through Ray. Knows figures; measures only waits.

The driver reports nearly all metrics, from the receipts of finished bundles and from Ray Data's own
counts. Only the metrics of model batches are reported by the process that has the model. Every node
serves the metrics of its processes at http://NODE:METRICS_EXPORT_PORT/metrics, with "ray_" before
each name. configs/grafana/dashboard.json shows them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ray.util.metrics import Counter, Gauge

from pipeline.schema import STAGES
from pipeline.stages.receipt import StageStates

if TYPE_CHECKING:
    from pipeline.models.sensevoice.decoding import ClipOutput
    from pipeline.models.sensevoice.model import Clip, Transcriber

COUNTERS = {
    "sensevoice_recordings_planned_total": ("Recordings that a run planned to label", ()),
    "sensevoice_audio_seconds_total": ("Seconds of audio whose labels are stored", ()),
    "sensevoice_recordings_total": ("Finished recordings, by outcome: ok, error", ("outcome",)),
    "sensevoice_errors_total": ("Failed recordings, by error type", ("type",)),
    "sensevoice_segments_total": ("Labelled segments", ()),
    "sensevoice_stage_rows_total": ("Rows (recordings or windows) finished by a stage", ("stage",)),
    "sensevoice_stage_busy_seconds_total": (
        "Seconds in the code of a stage, summed over its workers",
        ("stage",),
    ),
    "sensevoice_stage_worker_seconds_total": (
        "Lifetime of the workers of a stage in seconds, summed; minus the busy seconds: waiting",
        ("stage",),
    ),
}
MODEL_COUNTERS = {
    "sensevoice_model_wait_seconds_total": (
        "Seconds that models and their GPUs waited between two model batches",
        (),
    ),
    "sensevoice_model_frames_total": (
        "Frames (10 ms) in model batches, by kind: speech; padding: frames missing to the longest "
        "clip of the batch (wasted work if attention is padded, as on some GPUs)",
        ("kind",),
    ),
}
# Ray drops a gauge after a scrape until it is set again, so use one only for what changes often.
GAUGES = {
    "sensevoice_last_commit": "Number of the newest commit that this run has made or read",
}


class RunFigures(Protocol):
    """What is reported of a run (runs.progress.Progress)."""

    n_planned: int
    n_recordings: int
    n_errors: int
    n_segments: int
    audio_s: float
    seq: int

    @property
    def errors(self) -> Mapping[str, int]: ...
    @property
    def stages(self) -> StageStates: ...


class SumOverRounds:
    """The sum of a figure that every round of a run counts from zero."""

    def __init__(self) -> None:
        self._before = self._last = 0.0

    def add(self, figure: float) -> float:
        """The sum so far; a figure below the previous one belongs to a new round."""
        if figure < self._last:
            self._before += self._last
        self._last = figure
        return self._before + figure


class Telemetry:
    """The metrics of one run. Needs a Ray session; call `update` from one thread only."""

    def __init__(self, run_id: str) -> None:
        run = {"run_id": run_id}
        self._counters = {
            name: Counter(name, text, (*tags, "run_id")).set_default_tags(run)
            for name, (text, tags) in COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(name, text, ("run_id",)).set_default_tags(run)
            for name, text in GAUGES.items()
        }
        self._reported: dict[tuple[str, str], float] = {}
        self._worker_s = {stage: SumOverRounds() for stage in STAGES}
        self._busy_s = {stage: SumOverRounds() for stage in STAGES}
        self._rows = {stage: SumOverRounds() for stage in STAGES}

    def update(self, progress: RunFigures) -> None:
        """Report what was added since the last call."""
        self._count("sensevoice_recordings_planned_total", progress.n_planned)
        self._count("sensevoice_audio_seconds_total", progress.audio_s)
        n_ok = progress.n_recordings - progress.n_errors
        self._count("sensevoice_recordings_total", n_ok, "outcome", "ok")
        self._count("sensevoice_recordings_total", progress.n_errors, "outcome", "error")
        for kind, n_errors in progress.errors.items():
            self._count("sensevoice_errors_total", n_errors, "type", kind)
        self._count("sensevoice_segments_total", progress.n_segments)
        for name, state in progress.stages.items():
            worker_s = self._worker_s[name].add(state.worker_s)
            n_rows = self._rows[name].add(state.n_rows)
            self._count("sensevoice_stage_rows_total", n_rows, "stage", name)
            # With two calls at a time, Ray counts the wait of one for the other as busy.
            busy_s = min(self._busy_s[name].add(state.busy_s), worker_s)
            self._count("sensevoice_stage_busy_seconds_total", busy_s, "stage", name)
            self._count("sensevoice_stage_worker_seconds_total", worker_s, "stage", name)
        self._gauges["sensevoice_last_commit"].set(progress.seq)

    def _count(self, name: str, total: float, tag: str = "", value: str = "") -> None:
        """Increase a counter to `total`; Prometheus counters only take increments."""
        step = total - self._reported.get((name, value), 0.0)
        if step > 0:
            self._counters[name].inc(step, {tag: value} if tag else {})
            self._reported[name, value] = total


class MeteredModel:
    """A Transcriber that reports how long it waits and how much padding its model batches have."""

    def __init__(self, load: "Callable[[], Transcriber]", run_id: str) -> None:
        self._model = load()
        self.vocabulary = self._model.vocabulary
        self._wait, self._frames = (
            Counter(name, text, (*tags, "run_id")).set_default_tags({"run_id": run_id})
            for name, (text, tags) in MODEL_COUNTERS.items()
        )
        self._ended = time.monotonic()

    def transcribe(
        self,
        clips: "Sequence[Clip]",
        languages: Sequence[str],
        use_itn: Sequence[bool],
        *wanted: "Sequence[Sequence[int]]",
    ) -> "list[ClipOutput]":
        lengths = [len(clip) for clip in clips]
        padding = max(lengths) * len(lengths) - sum(lengths)
        for counter, step, tags in (
            (self._wait, time.monotonic() - self._ended, {}),
            (self._frames, sum(lengths), {"kind": "speech"}),
            (self._frames, padding, {"kind": "padding"}),
        ):
            if step > 0:  # a counter refuses an increment of 0
                counter.inc(step, tags)
        try:
            return self._model.transcribe(clips, languages, use_itn, *wanted)
        finally:
            self._ended = time.monotonic()
