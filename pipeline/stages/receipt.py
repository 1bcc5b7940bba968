"""What the stages report: a receipt per bundle, and how far each stage is. Plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one bundle contains."""

    n_recordings: int
    n_errors: int
    errors: Sequence[str]  # error_type of each failed window
    example: str  # error_message of the first of them
    n_segments: int
    audio_s: float
    fault: str = ""  # why the bundle could not be written; the run must stop


def receipt_of(row: Mapping[str, Any]) -> Receipt:
    """The receipt in a row that stages.write.write_rows returned."""
    return Receipt(**{field: row[field] for field in Receipt.__slots__})


@dataclass(frozen=True, slots=True)
class StageState:
    """How far a stage is."""

    n_rows: int  # output rows so far
    # Time in the stage's code, summed over its workers. With Ray a worker of "label" runs two calls
    # at once, and the wait of one for the other counts: this can be up to twice the true time.
    busy_s: float
    worker_s: float  # lifetime, summed over its workers (actors alive, or tasks running)


StageStates = Mapping[str, StageState]  # by schema.STAGES
