"""A pool of one GPU worker that is killed for good does not hang the run (ray#62746)."""

import json
import sys
from pathlib import Path

import pytest

from pipeline.tables import open_snapshot
from tests.support.demo import run_command

BOUND_S = 240.0  # on a busy machine; Ray Data alone would wait for 30 minutes


@pytest.mark.usefixtures("own_ray")
def test_a_run_outlives_its_only_gpu_worker(tmp_path: Path) -> None:
    done = run_command([sys.executable, "-m", "tests.support.one_gpu", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert (facts["was_killed"], facts["n_unfinished"], facts["n_errors"]) == (True, 0, 0)
    assert facts["wall_s"] < BOUND_S
    # It waits for workers to be ready, but never for what the cluster does not have.
    assert not [phase for phase in facts["phases"] if "the cluster has" in phase]
    rows = open_snapshot(str(tmp_path / "out")).read("recordings")
    assert rows["status"].to_pylist() == ["ok"] * 8
