"""Progress and outcome of a run. Plain data; knows nothing of screens."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pipeline.planning.plan import Plan
from pipeline.tables.run_records import RunInfo

if TYPE_CHECKING:
    from pipeline.flow.monitor import StageState
    from pipeline.flow.receipts import Receipt


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
