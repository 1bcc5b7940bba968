"""Records of runs, kept beside the tables for people to read. No table depends on them."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pipeline.storage.store import Store

RUNS = "_runs/"
_N_READERS = 16  # objects are small, so reading them is mostly waiting

# Stages were recorded by the names of their callables until version 0.2.
_OLD_STAGES = {
    "decode_recordings": "decode",
    "FindSegments": "segment",
    "LabelSegments": "label",
    "write_rows": "write",
}


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run that made a bundle."""

    run_id: str
    fingerprint: str  # hex: model, weights and every setting that changes a label
    model: str
    model_hash: str
    vad: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One labelling run."""

    run_id: str
    fingerprint: str
    vad: str
    n_recordings: int
    n_errors: int
    audio_s: float
    wall_s: float  # from the first row to the last, including start-up
    stage_s: Mapping[
        str, float
    ]  # by schema.STAGES: seconds in the code of the stage, summed over workers
    settings: Mapping[str, Any]  # the configuration, without storage options

    @property
    def rtfx(self) -> float:
        """Audio seconds per wall second."""
        return self.audio_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def bottleneck(self) -> str:
        """The stage whose code ran longest; "" if no stage was measured."""
        return max(self.stage_s, key=lambda stage: self.stage_s[stage], default="")


def save_run(store: Store, record: RunRecord) -> None:
    """Write the record to _runs/; it replaces an earlier record of the same run_id."""
    data = json.dumps(asdict(record), ensure_ascii=False, indent=1)
    store.put(f"{RUNS}{record.run_id}.json", data.encode())


def newest_records(store: Store) -> dict[str, RunRecord]:
    """The record of the newest run of each fingerprint; run ids begin with the time of the run."""
    keys = sorted(store.list(RUNS), reverse=True)
    ids = [key.removeprefix(RUNS).removesuffix(".json") for key in keys]
    with ThreadPoolExecutor(_N_READERS) as pool:
        records = [record for record in pool.map(partial(load_run, store), ids) if record]
    return {record.fingerprint: record for record in reversed(records)}


def load_run(store: Store, run_id: str) -> RunRecord | None:
    """The record of a run; None if it is missing or cannot be read."""
    try:
        values = json.loads(store.get(f"{RUNS}{run_id}.json"))
        stage_s = values["stage_s"].items()
        values["stage_s"] = {_OLD_STAGES.get(stage, stage): spent_s for stage, spent_s in stage_s}
        return RunRecord(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
