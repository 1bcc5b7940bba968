"""status: commits, fingerprints, what waits and what failed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import export, query
from jobs import status as job
from pipeline.errors import advice_for
from pipeline.maintenance.status import read_status
from pipeline.storage.store import Store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from pipeline.tables.run_records import save_run
from tests.runs.test_other_labels import CONFIG, changed, record_of
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, window


@pytest.fixture
def output(store: Store) -> Store:
    """Two models, of which the second has other settings, an error and a bundle that waits."""
    write_bundle(store, RUN, bundle(*map(window, "abc")))
    publish(store, RUN)
    save_run(store, record_of(CONFIG, RUN))
    failed = [window(name, error="FileMissing", n_segments=0) for name in "bc"]
    write_bundle(store, OTHER_MODEL, bundle(window("a"), *failed))
    publish(store, OTHER_MODEL)
    save_run(store, record_of(changed(label={"language": "en"}), OTHER_MODEL))
    write_bundle(store, RUN, bundle(window("d")))
    return store


def test_the_status_counts_each_fingerprint(output: Store) -> None:
    status = read_status(output)
    assert (status.seq, [record.seq for record in status.newest], status.n_waiting) == (
        2,
        [1, 2],
        1,
    )
    default, other = status.labels
    assert (default.fingerprint, default.is_default) == (RUN.fingerprint, True)
    assert (default.n_ok, default.n_failed, default.audio_s) == (3, 0, 30.0)
    assert (other.n_ok, other.n_failed, other.errors) == (1, 2, {"FileMissing": 2})
    assert (other.model, other.is_default) == ("demo-2", False)


def test_the_command_shows_settings_and_advice(output: Store) -> None:
    done = CliRunner().invoke(job.app, [output.root])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert f"{RUN.fingerprint}  (the default of readers)" in lines
    files = "model files: m0m0m0m0m0m0 -> m1m1m1m1m1m1"
    assert f"  settings    label.language: auto -> en, {files}" in lines
    assert f"  FileMissing 2: {advice_for('FileMissing')}" in lines
    assert lines[-1].startswith("1 bundles wait for the next run")


def test_the_json_has_the_same_facts(output: Store) -> None:
    facts = json.loads(CliRunner().invoke(job.app, [output.root, "--json"]).stdout)
    default, other = facts["fingerprints"]
    assert (facts["seq"], facts["n_waiting"], len(facts["commits"])) == (2, 1, 2)
    assert default["differing"] == {}
    assert other["differing"]["label.language"] == {"default": "auto", "this": "en"}
    assert other["errors"] == [
        {"error_type": "FileMissing", "n": 2, "advice": advice_for("FileMissing")}
    ]


def test_an_output_without_commits_has_a_status(tmp_path: Path) -> None:
    done = CliRunner().invoke(job.app, [str(tmp_path)])
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "no commits yet")


def test_every_reader_takes_a_fingerprint_and_a_commit(output: Store) -> None:
    def n_rows(*options: str) -> str:
        sql = "SELECT count(*) AS n FROM recordings WHERE status = 'ok'"
        return CliRunner().invoke(query.app, [output.root, sql, "--csv", *options]).stdout

    assert n_rows().split() == ["n", "3"]
    assert n_rows("--fingerprint", "e2").split() == ["n", "1"]
    assert n_rows("--fingerprint", "f1", "--seq", "1").split() == ["n", "3"]


def test_an_export_takes_a_fingerprint(output: Store, tmp_path: Path) -> None:
    target = tmp_path / "srt"
    options = ["--format", "srt", "-o", str(target), "--fingerprint", "e2"]
    done = CliRunner().invoke(export.app, [output.root, *options])
    assert done.exit_code == 0, done.output
    facts = json.loads((target / "export.json").read_text())
    assert (facts["fingerprint"], facts["n_recordings"]) == (OTHER_MODEL.fingerprint, 1)
