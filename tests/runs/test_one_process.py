"""A small corpus without Ray: the same rows, the same promises."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.config import RunConfig
from pipeline.errors import RunStopped
from pipeline.planning.legs import Legs
from pipeline.runs.execute import execute as execute_run
from pipeline.runs.execute import plan_run, prepare
from pipeline.runs.one_process import fits_one_process
from pipeline.runs.progress import Progress
from pipeline.schema import PLANNED, STAGES
from pipeline.tables import Snapshot, open_snapshot
from tests.support import poison
from tests.support.demo import AUDIO, ROOT, copies, demo_config, execute, write_manifest
from tests.support.oracle import assert_exactly_once

ALWAYS = "ray.local=always"
# What differs between two runs over the same corpus.
_OF_THE_RUN = ("run_id", "committed_at")


def rows_of(snapshot: Snapshot, table: str) -> list[dict[str, Any]]:
    rows = snapshot.read(table)
    kept = rows.drop_columns([name for name in _OF_THE_RUN if name in rows.column_names])
    key = "segment_id" if "segment_id" in kept.column_names else "recording_id"
    return sorted(kept.to_pylist(), key=lambda row: (row[key], str(row)))


def assert_equal(ours: Any, theirs: Any) -> None:
    """The same values; numbers but for what other company in a model batch rounds otherwise."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, abs=1e-4)
    else:
        assert ours == theirs


def test_one_process_gives_the_rows_that_ray_gives(labelled: Snapshot, tmp_path: Path) -> None:
    execute(demo_config(tmp_path, ALWAYS))
    local = open_snapshot(str(tmp_path))
    assert local.fingerprint == labelled.fingerprint
    for table in ("recordings", "transcripts", "languages", "emotions", "events"):
        assert_equal(rows_of(local, table), rows_of(labelled, table))


@pytest.mark.usefixtures("patience")
def test_one_process_starts_no_ray_and_loads_torch_beside_the_driver(tmp_path: Path) -> None:
    code = f"""
import sys
from tests.support.demo import demo_config, execute
if __name__ == "__main__":
    execute(demo_config({str(tmp_path)!r}, {ALWAYS!r}))
    print(sorted({{"ray", "torch"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("ray_session")
def test_a_recording_that_kills_the_process_is_a_row(tmp_path: Path) -> None:
    """SIGKILL in the model; Ray labels what is left and finds whose fault it is."""
    soundfile.write(tmp_path / "killed.wav", np.zeros(poison.KILL_SAMPLES), 16_000)
    rows = [
        *copies(1)[:4],
        {"audio": str(tmp_path / "killed.wav"), "recording_id": "killed"},
        *copies(1)[4:6],
    ]
    manifest = write_manifest(tmp_path, rows)
    config = demo_config(tmp_path / "out", f"manifest={manifest}", "vad=none", ALWAYS)
    outcome = execute(config, poison.with_parts(load_model=poison.deadly_model))
    assert outcome.n_unfinished == 0
    snapshot = assert_exactly_once(config.output, [row["recording_id"] for row in rows])
    failed = [row for row in snapshot.read("recordings").to_pylist() if row["status"] == "error"]
    assert [(row["recording_id"], row["error_type"]) for row in failed] == [
        ("killed", "WorkerCrash")
    ]


def test_one_process_says_what_it_does_and_counts_from_the_start(tmp_path: Path) -> None:
    """It never says that Ray starts; rows are decoded and segmented before any is labelled."""
    seen: list[tuple[str, list[int]]] = []

    def note(progress: Progress) -> None:
        counts = [progress.stages[stage].n_rows for stage in STAGES if progress.stages]
        seen.append((progress.doing, counts[:3]))

    config = demo_config(tmp_path, ALWAYS, f"manifest={AUDIO / 'en_happy.mp3'}")
    outcome = execute_run(config, note)
    assert seen[0] == ("loading models", [])
    assert ("waiting for the first labels", [1, 0, 0]) in seen
    assert seen[-1] == ("labelling", [1, 1, 1])
    assert 0 < outcome.start_up_s <= outcome.first_label_s < outcome.label_wall_s
    assert {doing for doing, _ in seen} == {
        "loading models",
        "waiting for the first labels",
        "labelling",
    }


def test_a_model_that_does_not_load_stops_the_run(tmp_path: Path) -> None:
    build = poison.with_parts(load_model=poison.failing_model)
    with pytest.raises(RunStopped, match=r"a worker cannot start: .*no kernel image"):
        execute(demo_config(tmp_path, ALWAYS), build)


@pytest.mark.usefixtures("patience")
def test_a_run_that_was_interrupted_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = demo_config(tmp_path, ALWAYS, f"manifest={AUDIO / 'en_happy.mp3'}")
    execute(first)
    outcome = execute(demo_config(tmp_path, ALWAYS))
    assert outcome.n_unfinished == 0
    assert execute(demo_config(tmp_path, ALWAYS)).plan.n_todo == 0


def legs_of(seconds: float, n_rows: int = 1) -> Legs:
    row: dict[str, Any] = {field.name: "" for field in PLANNED}
    row |= {
        "offset_s": 0.0,
        "length_s": seconds,
        "channel": 0,
        "bytes": 0,
        "start": 0,
        "attempts": 1,
        "extra": [],
    }
    import pyarrow as pa

    return Legs.of([pa.Table.from_pylist([row] * n_rows, schema=PLANNED)])


@pytest.mark.parametrize(
    ("ray", "seconds", "n_rows", "expected"),
    [
        ({}, 500.0, 1, True),
        ({}, 700.0, 1, False),
        ({}, 0.1, 2_001, False),
        ({"num_gpus": 1}, 1.0, 1, False),
        ({"address": "head:6379"}, 1.0, 1, False),
        ({"local": "never"}, 1.0, 1, False),
        ({"local": "always"}, 7_000.0, 1, True),
    ],
)
def test_a_corpus_of_minutes_fits(
    ray: dict[str, Any],
    seconds: float,
    n_rows: int,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = RunConfig.model_validate({"manifest": "m", "output": "o", "ray": ray})
    assert fits_one_process(config, legs_of(seconds, n_rows)) is expected


def test_the_demo_fits(tmp_path: Path) -> None:
    config = demo_config(tmp_path, "ray.local=auto")
    assert fits_one_process(config, plan_run(config, prepare(config)[1]).legs)
