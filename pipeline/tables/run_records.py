"""What a run was and did, kept beside the tables for people. Nothing depends on it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.storage.store import Store

RUNS = "_runs/"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One labelling run."""

    run_id: str
    fingerprint: str
    vad: str
    n_recordings: int
    n_errors: int
    audio_s: float
    wall_s: float  # from the first row to the last, start-up included
    stage_s: Mapping[str, float]  # seconds in each stage's code, all of its workers together
    settings: Mapping[str, Any]  # the configuration, without storage options

    @property
    def rtfx(self) -> float:
        """Audio seconds per wall second."""
        return self.audio_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def bottleneck(self) -> str:
        """The stage whose code ran longest; "" if none was watched."""
        return max(self.stage_s, key=lambda stage: self.stage_s[stage], default="")


def save_run(store: Store, record: RunRecord) -> None:
    """Keep it under _runs/; a later one of the same id replaces it."""
    data = json.dumps(asdict(record), ensure_ascii=False, indent=1)
    store.put(f"{RUNS}{record.run_id}.json", data.encode())


def load_run(store: Store, run_id: str) -> RunRecord | None:
    """None if there is none, or none that this program understands."""
    try:
        return RunRecord(**json.loads(store.get(f"{RUNS}{run_id}.json")))
    except (OSError, ValueError, TypeError):
        return None
