"""A run's progress as Prometheus metrics, through Ray. Knows figures, measures nothing itself.

Nearly all of it is told by the driver, from the receipts of finished bundles and from what Ray
Data counts. Only what happens between two passes of a model is told where the model is. Every node
serves what its processes report at http://NODE:METRICS_EXPORT_PORT/metrics, each name with "ray_"
before it. configs/grafana/dashboard.json draws them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ray.util.metrics import Counter, Gauge

from pipeline.schema import STAGES

if TYPE_CHECKING:
    from pipeline.models.sensevoice.decoding import ClipOutput
    from pipeline.models.sensevoice.model import Clip, Transcriber

COUNTERS = {
    "sensevoice_recordings_planned_total": ("Recordings that a run set out to label", ()),
    "sensevoice_audio_seconds_total": ("Seconds of audio whose labels are stored", ()),
    "sensevoice_recordings_total": ("Finished recordings by outcome: ok, error", ("outcome",)),
    "sensevoice_errors_total": ("Failed recordings by the type of their error", ("type",)),
    "sensevoice_segments_total": ("Labelled segments", ()),
    "sensevoice_stage_rows_total": ("Rows (recordings or windows) out of a stage", ("stage",)),
    "sensevoice_stage_busy_seconds_total": (
        "Seconds that all workers of a stage have spent in its code",
        ("stage",),
    ),
    "sensevoice_stage_worker_seconds_total": (
        "Seconds that all workers of a stage have lived; less the busy ones: waiting",
        ("stage",),
    ),
}
MODEL_COUNTERS = {
    "sensevoice_model_wait_seconds_total": (
        "Seconds that models, and their GPUs, have waited from one pass to the next",
        (),
    ),
    "sensevoice_model_frames_total": (
        "Frames (10 ms) in passes of models, by kind: speech; padding, what the clips lack to the "
        "longest of their pack, for which attention on a GPU works in vain (on a CPU nothing does)",
        ("kind",),
    ),
}
# Ray forgets a gauge once it was scraped, until it is set again: only for what changes often.
GAUGES = {
    "sensevoice_last_commit": "Number of the newest commit that this run has made or seen",
}


class Stage(Protocol):
    """What is told of a stage (watch.StageState)."""

    @property
    def n_rows(self) -> int: ...
    @property
    def busy_s(self) -> float: ...
    @property
    def worker_s(self) -> float: ...


class RunFigures(Protocol):
    """What is told of a run (Progress)."""

    n_planned: int
    n_recordings: int
    n_errors: int
    n_segments: int
    audio_s: float
    seq: int

    @property
    def errors(self) -> Mapping[str, int]: ...
    @property
    def stages(self) -> Mapping[str, Stage]: ...


class SumOverRounds:
    """A figure that every pass of a run counts from zero, added up over them."""

    def __init__(self) -> None:
        self._before = self._last = 0.0

    def add(self, figure: float) -> float:
        """The sum so far; a figure below the last one is of a new pass."""
        if figure < self._last:
            self._before += self._last
        self._last = figure
        return self._before + figure


class Telemetry:
    """The metrics of one run. Needs a Ray session; `update` belongs to one thread."""

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
        self._told: dict[tuple[str, str], float] = {}
        self._worker_s = {stage: SumOverRounds() for stage in STAGES}
        self._busy_s = {stage: SumOverRounds() for stage in STAGES}
        self._rows = {stage: SumOverRounds() for stage in STAGES}

    def update(self, progress: RunFigures) -> None:
        """Tell what has been added since the last call."""
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
            # With two calls at a time Ray counts a wait of one for the other as busy.
            busy_s = min(self._busy_s[name].add(state.busy_s), worker_s)
            self._count("sensevoice_stage_busy_seconds_total", busy_s, "stage", name)
            self._count("sensevoice_stage_worker_seconds_total", worker_s, "stage", name)
        self._gauges["sensevoice_last_commit"].set(progress.seq)

    def _count(self, name: str, total: float, tag: str = "", value: str = "") -> None:
        """Raise a counter to a total; Prometheus counters know only steps upwards."""
        step = total - self._told.get((name, value), 0.0)
        if step > 0:
            self._counters[name].inc(step, {tag: value} if tag else {})
            self._told[name, value] = total


class MeteredModel:
    """A model (sensevoice.Transcriber) that tells how long it waits and what its packs pad."""

    def __init__(self, load: "Callable[[], Transcriber]", run_id: str) -> None:
        self._model = load()
        self.vocabulary = self._model.vocabulary
        self._wait, self._frames = (
            Counter(name, text, (*tags, "run_id")).set_default_tags({"run_id": run_id})
            for name, (text, tags) in MODEL_COUNTERS.items()
        )
        self._ended = time.monotonic()

    def transcribe(
        self, clips: "Sequence[Clip]", languages: Sequence[str], use_itn: bool
    ) -> "list[ClipOutput]":
        lengths = [len(clip) for clip in clips]
        padding = max(lengths) * len(lengths) - sum(lengths)
        for counter, step, tags in (
            (self._wait, time.monotonic() - self._ended, {}),
            (self._frames, sum(lengths), {"kind": "speech"}),
            (self._frames, padding, {"kind": "padding"}),
        ):
            if step > 0:  # a counter refuses a step of nothing
                counter.inc(step, tags)
        try:
            return self._model.transcribe(clips, languages, use_itn)
        finally:
            self._ended = time.monotonic()
