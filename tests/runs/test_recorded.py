"""Outputs of older code: nothing is labelled again, and everything can be read."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.maintenance.verify import verify
from pipeline.report.card import make_report
from pipeline.runs.execute import plan_run, prepare
from pipeline.runs.fingerprint import CODE_VERSION, fingerprint
from pipeline.schema import STAGES
from pipeline.storage.store import open_store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.run_records import load_run
from tests.support.demo import ROOT, demo_config, execute

RECORDED = ROOT / "tests" / "recorded"
RUNS = {
    "code_1": ("20261126T003807-f8466808", "20261126T003832-e5bd5956"),
    "code_2": ("20261126T022711-7f6213f9", "20261126T022751-f287a4dc"),
}
NEWEST = f"code_{CODE_VERSION}"


def copy_of(name: str, tmp_path: Path) -> RunConfig:
    """The configuration of a run over the recorded manifest, into a copy of the recorded root."""
    shutil.copytree(RECORDED / name / "root", tmp_path / "root")
    return demo_config(
        tmp_path / "root",
        *(f"manifest={RECORDED / name / 'manifest.jsonl'}", "vad=none"),
        "allowed_roots=['s3://recorded']",
    )


def test_nothing_is_left_to_do_in_an_output_of_this_code_version(tmp_path: Path) -> None:
    """If a recording were planned, the run would fail, because the audio does not exist."""
    config = copy_of(NEWEST, tmp_path)
    outcome = execute(config)
    assert (outcome.plan.n_manifest, outcome.plan.n_done) == (4, 4)
    assert outcome.plan.n_todo == outcome.n_unfinished == 0
    assert outcome.run.fingerprint == open_snapshot(config.output).fingerprint


def test_a_raised_code_version_gives_older_recordings_new_work(tmp_path: Path) -> None:
    config = copy_of("code_1", tmp_path)
    _, run = prepare(config)
    assert plan_run(config, run).n_todo == 4
    assert run.fingerprint != open_snapshot(config.output).fingerprint


@pytest.mark.parametrize("name", RUNS)
def test_an_output_of_older_code_is_read_and_verified(name: str, tmp_path: Path) -> None:
    root = copy_of(name, tmp_path).output
    problems = verify(open_store(root)).problems
    assert [one for one in problems if "_snapshots" not in one] == []  # lists of older programs
    with connect(root) as connection:
        rows = connection.sql("SELECT language, emotion, text FROM segments ORDER BY 1").fetchall()
    assert rows == [("en", "happy", "2072."), ("ko", "angry", "180."), ("yue", "sad", "454。")]
    columns = ["gap_s", "start_offset_s", "audio_streams", "audio_stream"]
    read = open_snapshot(root).read("recordings", columns)
    assert (read["gap_s"].null_count == read.num_rows) is (name == "code_1")


@pytest.mark.parametrize("name", RUNS)
def test_run_records_of_older_code_are_read(name: str, tmp_path: Path) -> None:
    root = copy_of(name, tmp_path).output
    for run_id in RUNS[name]:
        record = load_run(open_store(root), run_id)
        assert record is not None
        assert tuple(record.stage_s) == STAGES
        assert record.bottleneck == "decode"
        assert run_id in make_report(root)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "a61b88f67300a512984817cf21466052"),
        ({"ray": {"num_gpus": 1}}, "e047484944e30ac151c1134a36ce204b"),  # bf16
        ({"label": {"use_itn": False}}, "b166440efd9ac005296911e26afc254e"),
        ({"audio": {"window_s": 600}}, "a0b8e01f4ff03f80fd614c3774b1d6f0"),
        ({"segment": {"max_segment_s": 20}}, "1daece8d5d42b407d89eea14bad904d5"),
        ({"label": {"allowed_languages": ["zh", "en"]}}, "c064f093dd4896000cb3d4d0c703b64c"),
        ({"label": {"precision": "int8"}}, "b11541890f6a7c1082763d0bdabd9118"),
        ({"label": {"language": "yue"}}, "aef76f0a524cb9f43c0b3b1f4aa37760"),
    ],
)
def test_a_fingerprint_is_what_it_was_at_code_version_2(
    settings: dict[str, Any], expected: str
) -> None:
    config = RunConfig.model_validate({"manifest": "m", "output": "o"} | settings)
    assert fingerprint(config, "0" * 64, "silero-vad 6.2.1") == expected


def test_the_fingerprint_depends_on_the_vad() -> None:
    config = RunConfig(manifest="m", output="o")
    assert fingerprint(config, "0" * 64, "fsmn abc") == "a358a78509ca6f64c5414a3b8ac6bde6"
