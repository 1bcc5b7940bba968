"""Progress and outcome of a run. Plain data; knows nothing of screens."""

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pipeline.planning.plan import Plan
from pipeline.tables.run_records import RunInfo

if TYPE_CHECKING:
    from pipeline.stages.receipt import Receipt, StageState


class Phase(StrEnum):
    """What a run is doing; the values are shown to users."""

    STARTING_RAY = "starting Ray"
    LOADING_MODELS = "loading models"
    LABELLING = "labelling"


@dataclass(slots=True)
class Progress:
    """The progress of a run. Every call of `on_progress` gets the same, updated object."""

    run_id: str
    phase: Phase = Phase.STARTING_RAY
    n_planned: int = 0
    n_recordings: int = 0
    n_errors: int = 0
    n_segments: int = 0
    audio_s: float = 0.0
    seq: int = 0  # of the last commit
    errors: Counter[str] = field(default_factory=Counter)  # by error_type
    stages: Mapping[str, "StageState"] = field(default_factory=dict)  # by schema.STAGES
    first_labels: Mapping[str, "StageState"] = field(default_factory=dict)  # at the first label
    waits_for: str = ""  # e.g. "1 GPU (the cluster has 0)", "a worker of stage label"

    @property
    def doing(self) -> str:
        """What the run is doing, for people."""
        if self.waits_for and self.phase != Phase.LABELLING:
            return f"waiting for {self.waits_for}"
        return str(self.phase)

    @property
    def busy_s(self) -> dict[str, float]:
        """Seconds in the code of each stage since the first row was labelled."""
        return {name: state.busy_s - self._busy_before(name) for name, state in self.stages.items()}

    def _busy_before(self, stage: str) -> float:
        state = self.first_labels.get(stage)
        return state.busy_s if state else 0.0

    def add(self, receipt: "Receipt") -> None:
        """Count one more bundle."""
        self.n_recordings += receipt.n_recordings
        self.n_errors += receipt.n_errors
        self.errors.update(receipt.errors)
        self.n_segments += receipt.n_segments
        self.audio_s += receipt.audio_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did."""

    run: RunInfo
    plan: Plan
    progress: Progress
    n_adopted: int  # recordings of an earlier run that died before it could commit them
    n_unfinished: int  # planned recordings without a row after the run; the next run labels them
    label_wall_s: float  # first row to last, including starting Ray and loading models
    start_up_s: float = 0.0  # of these, until the first model was loaded
    first_label_s: float = 0.0  # of these, until the first row was labelled
    default: "DefaultLabels | None" = None  # if this run's labels are not what readers get


def speed(outcome: Outcome) -> float:
    """Audio seconds per second since the first model was loaded."""
    return outcome.progress.audio_s / max(outcome.label_wall_s - outcome.start_up_s, 1e-9)


@dataclass(frozen=True, slots=True)
class DefaultLabels:
    """The labels that readers get by default, when they are not those of this run."""

    fingerprint: str
    n_recordings: int
    n_uncovered: int  # of these, recordings that this run's fingerprint lacks
    n_of_run: int  # recordings that this run's fingerprint holds


def explain_default(default: DefaultLabels, root: str, fingerprint: str) -> str:
    """Two sentences: which labels readers get, and the command that changes it."""
    lacking = (
        f"; {default.n_uncovered:,} of them are not labelled under {fingerprint[:12]}"
        if default.n_uncovered
        else ""
    )
    return (
        f"Readers still get the {default.n_recordings:,} recordings under fingerprint "
        f"{default.fingerprint[:12]}{lacking}. The {default.n_of_run:,} recordings of this run's "
        f"settings are under {fingerprint[:12]}; to make them the default: "
        f"python -m jobs promote {shlex.quote(root)} {fingerprint[:12]}"
    )
