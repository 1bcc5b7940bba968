"""Results of the flow: a receipt per bundle, and Ray's errors in one line. Knows no stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ActorDiedError, RayTaskError

from pipeline.errors import RoundEnded, RunStopped


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one bundle contains."""

    n_recordings: int
    n_errors: int
    errors: Sequence[str]  # error_type of each failed window
    example: str  # error_message of the first of them
    n_segments: int
    audio_s: float


def receipt_of(row: Mapping[str, Any]) -> Receipt:
    """The receipt in a row that stages.write.write_rows returned."""
    return Receipt(**{field: row[field] for field in Receipt.__slots__})


def explain(error: Exception) -> Exception:
    """Ray's error in one line: RunStopped if a model or the code fails, else RoundEnded."""
    if isinstance(error, ActorDiedError) and error.actor_init_failed:
        return RunStopped(f"a worker cannot start: {last_line(error)}")
    if isinstance(error, RayTaskError):
        return RunStopped(f"a worker failed: {last_line(error)}")
    return RoundEnded(f"{type(error).__name__}: {last_line(error)}")


def last_line(error: Exception) -> str:
    """The last line of a worker's traceback, which is the error itself."""
    return str(error).strip().rpartition("\n")[2].strip()
