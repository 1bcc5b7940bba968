"""The closing summary of a run."""

import shlex
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.config import RunConfig
from pipeline.console.commands import results
from pipeline.console.summary import show_outcome
from pipeline.runs.progress import DefaultLabels, Outcome, Progress
from pipeline.stages.receipt import StageState
from pipeline.storage.store import open_store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window


def outcome_of(n_todo: int, **changes: Any) -> Outcome:
    progress = Progress("run-a", n_recordings=3, n_errors=1, audio_s=3600.0, errors=Counter(X=1))
    values: dict[str, Any] = {
        "plan": SimpleNamespace(n_todo=n_todo),
        "progress": progress,
        "n_adopted": 0,
        "n_unfinished": 0,
        "label_wall_s": 42.0,
        "start_up_s": 6.0,
        "first_label_s": 9.0,
        "default": None,
    }
    return cast(Outcome, SimpleNamespace(**values | changes))


def summary_of(outcome: Outcome, root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    store = open_store(str(root))
    write_bundle(store, RUN, bundle(window("a"), window("c", error="NotAudio", n_segments=0)))
    publish(store, RUN)
    config = RunConfig(manifest="m.jsonl", output=str(root))
    show_outcome(results(), config, outcome, open_snapshot(str(root)))
    return capsys.readouterr().out


def test_the_summary_gives_a_query_that_a_shell_can_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "my labels; [b]$(x)"
    lines = summary_of(outcome_of(3), root, capsys).splitlines()
    assert f"Tables: {root} (commit 1)" in lines
    (query,) = (line for line in lines if line.startswith("Query:"))
    command = shlex.split(query.removeprefix("Query:"))
    assert command[:7] == ["uv", "run", "python", "-m", "jobs", "query", str(root)]
    assert command[7].startswith("SELECT ") and len(command) == 8


def test_the_summary_counts_this_run_and_all_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = outcome_of(5, n_adopted=4, n_unfinished=2)
    text = summary_of(outcome, tmp_path, capsys)
    assert "Committed 4 recordings that an interrupted run had finished." in text
    assert (
        "Labelled 2 recordings (1 failed), 1.000 h of audio in 42 s: 100.0x real time after" in text
    )
    assert "2 recordings have no row yet" in text
    assert "recordings  1 ok, 1 failed\n" in text
    assert "languages   en 2\n" in text


def stage_states(segment_s: float, label_s: float) -> dict[str, StageState]:
    busy_s = {"segment": segment_s, "label": label_s}
    return {stage: StageState(9, spent_s, 200.0) for stage, spent_s in busy_s.items()}


def test_the_bottleneck_is_judged_from_the_first_label_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 s of which 100 s passed before it: the VAD was busy before, the model after it."""
    outcome = outcome_of(5, label_wall_s=200.0, start_up_s=90.0, first_label_s=100.0)
    outcome.progress.stages = stage_states(segment_s=95.0, label_s=90.0)
    outcome.progress.first_labels = stage_states(segment_s=80.0, label_s=1.0)
    text = summary_of(outcome, tmp_path, capsys)
    assert "The model was the bottleneck (89% busy)" in text


def test_a_long_start_up_is_no_reason_for_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = outcome_of(5, label_wall_s=149.0, start_up_s=140.0, first_label_s=142.0)
    outcome.progress.stages = stage_states(segment_s=1.0, label_s=5.0)
    text = summary_of(outcome, tmp_path, capsys)
    assert "in 149 s: 400.0x real time after a start-up of 140 s." in text  # 3,600 s in 9 s
    assert "waited for audio" not in text


def test_the_summary_of_a_finished_corpus_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = summary_of(outcome_of(0), tmp_path, capsys)
    assert "Nothing left to do: every recording of the manifest is in the tables." in text
    assert "Labelled" not in text


def test_the_summary_says_which_labels_readers_still_get(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    default = DefaultLabels("c5" * 16, n_recordings=20, n_uncovered=19, n_of_run=1)
    outcome = outcome_of(1, default=default, run=SimpleNamespace(fingerprint="35" * 16))
    text = summary_of(outcome, tmp_path, capsys)
    assert "Readers still get the 20 recordings under fingerprint c5c5c5c5c5c5; 19 of them" in text
    assert f"python -m jobs promote {tmp_path} 353535353535" in text
