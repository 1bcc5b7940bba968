"""Outputs of older code: nothing is labelled again, and everything can be read."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.maintenance.verify import verify
from pipeline.report.card import make_report
from pipeline.runs.fingerprint import fingerprint
from pipeline.schema import STAGES
from pipeline.storage.store import open_store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.run_records import load_run
from tests.support.demo import ROOT, demo_config, execute

RECORDED = ROOT / "tests" / "recorded" / "code_1"
RUNS = ("20261126T003807-f8466808", "20261126T003832-e5bd5956")


@pytest.fixture
def recorded(tmp_path: Path) -> RunConfig:
    shutil.copytree(RECORDED / "root", tmp_path / "root")
    return demo_config(
        tmp_path / "root",
        *(f"manifest={RECORDED / 'manifest.jsonl'}", "vad=none", "allowed_roots=['s3://recorded']"),
    )


def test_nothing_is_left_to_do_in_an_output_of_older_code(recorded: RunConfig) -> None:
    """If a recording were planned, the run would fail, because the audio does not exist."""
    outcome = execute(recorded)
    assert (outcome.plan.n_manifest, outcome.plan.n_done) == (4, 4)
    assert outcome.plan.todo.num_rows == outcome.n_unfinished == 0
    assert outcome.run.fingerprint == open_snapshot(recorded.output).fingerprint


def test_an_output_of_older_code_is_read_and_verified(recorded: RunConfig) -> None:
    assert verify(open_store(recorded.output)).problems == []
    with connect(recorded.output) as connection:
        rows = connection.sql("SELECT language, emotion, text FROM segments ORDER BY 1").fetchall()
    assert rows == [("en", "happy", "2072."), ("ko", "angry", "180."), ("yue", "sad", "454。")]


def test_run_records_of_older_code_are_read(recorded: RunConfig) -> None:
    store = open_store(recorded.output)
    for run_id in RUNS:
        record = load_run(store, run_id)
        assert record is not None
        assert tuple(record.stage_s) == STAGES
        assert record.bottleneck == "decode"
        assert run_id in make_report(recorded.output)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "e03bc478cb40fa080c9ee8aba1ed52b8"),
        ({"ray": {"num_gpus": 1}}, "da123d5a6f9c4929126615668c315adb"),  # bf16
        ({"label": {"use_itn": False}}, "6954ea133e744c7119bede0a7cb8caaf"),
        ({"audio": {"window_s": 600}}, "8806ea6f371602eb21d1146119ca4479"),
        ({"segment": {"max_segment_s": 20}}, "ea9dfb80900ebcc5192c36fb60467712"),
        ({"label": {"allowed_languages": ["zh", "en"]}}, "daa99605bf6e71af5a486073ce115da9"),
        ({"label": {"precision": "int8"}}, "661bc4547f0fb03ce9d6a6c9d6e0ac1d"),
        ({"label": {"language": "yue"}}, "a015011689acf315bf948642e778df82"),
    ],
)
def test_a_fingerprint_is_what_it_was_at_code_version_1(
    settings: dict[str, Any], expected: str
) -> None:
    config = RunConfig.model_validate({"manifest": "m", "output": "o"} | settings)
    assert fingerprint(config, "0" * 64, "silero-vad 6.2.1") == expected


def test_the_fingerprint_depends_on_the_vad() -> None:
    config = RunConfig(manifest="m", output="o")
    assert fingerprint(config, "0" * 64, "fsmn abc") == "9bede9b8d6def62d686faee8ff9f74fc"
