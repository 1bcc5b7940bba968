"""`jobs finetune`: what it prints, its exit codes, and the one model in its directory."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs.__main__ import app
from tests.support.demo import ROOT
from tests.training.conftest import rows_of_demo, write_rows_to

CONFIG = str(ROOT / "configs" / "finetune.yaml")


def run(*settings: str, options: tuple[str, ...] = ()) -> Result:
    keys = [part for setting in settings for part in ("--set", setting)]
    return CliRunner().invoke(app, ["finetune", CONFIG, *keys, *options])


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Two clips trained for one step, two others held out."""
    train = write_rows_to(tmp_path / "train.jsonl", rows_of_demo()[:2])
    held_out = write_rows_to(tmp_path / "held_out.jsonl", rows_of_demo()[4:6])
    return [
        *(f"data.train={train}", f"data.valid={held_out}", f"output={tmp_path / 'new'}"),
        *("max_steps=1", "batch_s=30", "mix_with_start=[1.0]"),
    ]


def told(done: Result) -> dict[str, Any]:
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_no_better_than_the_start_is_exit_code_3_and_the_start_is_kept(
    small: list[str], tmp_path: Path
) -> None:
    """The demo model has no error on its own clips, so that nothing can be better."""
    done = run(*small, options=("--no-ray", "--json"))
    assert done.exit_code == 3
    facts = told(done)
    assert facts["exit_code"] == 3
    assert facts["scores"]["share_of_new_weights"] == 0.0
    assert [path.name for path in tmp_path.rglob("*.pt")] == ["model.pt"]
    kept = json.loads((tmp_path / "new" / "finetune.json").read_text(encoding="utf-8"))
    assert kept["scores"] == facts["scores"]


def test_scores_gates_and_progress_are_shown(small: list[str]) -> None:
    done = run(*small, options=("--no-ray",))
    assert "after 0 steps: valid (2 clips): mixed_error_rate 0.00%" in done.stderr
    assert "step 1/1  loss" in done.stderr
    assert "0 of 2 clips may be worse" in done.stdout
    assert "no mix met the gates and was better" in done.stdout


def test_without_held_out_rows_the_model_is_written_and_said_to_be_not_scored(
    small: list[str],
) -> None:
    done = run(small[0], *small[2:], options=("--no-ray",))
    assert done.exit_code == 0
    assert "not scored" in done.stdout


def test_a_check_reads_the_rows_and_writes_nothing(small: list[str], tmp_path: Path) -> None:
    done = run(*small, options=("--check", "--json"))
    assert done.exit_code == 0
    assert [one["name"] for one in told(done)["data"]] == ["train", "valid valid"]
    assert not (tmp_path / "new").exists()


def test_rows_that_do_not_exist_are_refused() -> None:
    done = run("data.train=/nowhere.jsonl", options=("--no-ray",))
    assert done.exit_code == 2
    assert "/nowhere.jsonl: cannot be read as a jsonl" in done.stderr
