"""What the commands leave behind when they succeed, and their exit codes. Without Ray."""

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from jobs.__main__ import app
from pipeline.errors import RunStopped
from pipeline.planning.legs import Legs
from pipeline.planning.plan import Plan
from pipeline.runs import execute as runs
from pipeline.runs.progress import Outcome, Progress
from pipeline.schema import TABLES
from pipeline.storage.store import Store, open_store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_state, record_key
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.demo import AUDIO, MODEL
from tests.support.s3_server import S3


@pytest.fixture(autouse=True)
def sigterm_kept() -> Iterator[None]:
    """The command `label` sets its own handler of SIGTERM."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def json_of(*arguments: str) -> dict[str, Any]:
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def publish_each(store: Store, names: str) -> None:
    """A commit and a part for every letter."""
    for name in names:
        write_bundle(store, RUN, bundle(window(name)))
        publish(store, RUN)


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Three small parts, merged into one by commit 4."""
    root = str(tmp_path / "root")
    publish_each(open_store(root), "abc")
    assert invoke("compact", root).exit_code == 0
    return root


def ids_of(root: str) -> list[str]:
    return sorted(open_snapshot(root).read("recordings")["recording_id"].to_pylist())


# ---------------------------------------------------------------------------- compact


def test_compact_merges_the_parts_and_keeps_the_rows(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    publish_each(open_store(root), "abc")
    done = json_of("compact", root)
    assert (done["n_parts_before"], done["n_parts_after"], done["seq"]) == (3, 1, 4)
    assert len(read_state(open_store(root)).files["recordings"]) == 1
    assert ids_of(root) == ["a", "b", "c"]


def test_compact_leaves_parts_of_a_good_size_alone(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    publish_each(open_store(root), "abc")
    assert json_of("compact", root, "--good-mb", "0.001")["n_commits"] == 0


# ----------------------------------------------------------------------------- vacuum


def age(store: Store, hours: float) -> None:
    """All commits were made so long ago; a record of version 1 has no digest."""
    committed_at = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    for seq in range(1, read_state(store).seq + 1):
        values = json.loads(store.get(record_key(seq)))
        store.put(
            record_key(seq),
            json.dumps(values | {"committed_at": committed_at, "log_version": 1}).encode(),
        )
        written_s = time.time() - hours * 3600  # the clock of the store decides
        os.utime(store.uri(record_key(seq)), (written_s, written_s))


@pytest.mark.parametrize(("days", "n_files"), [("1", 0), ("0.2", 0), ("0.05", 21), ("0", 21)])
def test_vacuum_keeps_what_was_current_in_the_days_asked_for(
    root: str, days: str, n_files: int
) -> None:
    """All commits are two hours old; three parts of seven tables were merged since."""
    store = open_store(root)
    age(store, hours=2)
    before = store.list("")
    done = json_of("vacuum", root, "--retain-days", days)
    assert len(done["files"]) == n_files
    assert len(done["bundles"]) == (3 if n_files else 0)
    assert {*done["files"], *done["bundles"]} <= {*before} - {*store.list("")}
    assert ids_of(root) == ["a", "b", "c"]


def test_vacuum_keeps_seven_days_by_default(root: str) -> None:
    store = open_store(root)
    age(store, hours=6.9 * 24)
    assert json_of("vacuum", root)["files"] == []
    age(store, hours=7.1 * 24)
    assert len(json_of("vacuum", root)["files"]) == 21


def test_a_dry_vacuum_lists_what_it_would_delete(root: str) -> None:
    store = open_store(root)
    before = store.list("")
    done = invoke("vacuum", root, "--retain-days", "0", "--dry-run")
    assert done.exit_code == 0
    listed = [line for line in done.stdout.splitlines() if line in before]
    assert sum(line.endswith(".parquet") for line in listed) == 21 + 3
    assert store.list("") == before


@pytest.mark.usefixtures("patience")
def test_a_store_that_ignores_conditions_needs_a_single_writer(s3: S3) -> None:
    bucket = s3.new_bucket("lying")
    options = [f"--set={name}={json.dumps(value)}" for name, value in s3.storage_options.items()]
    publish_each(open_store(bucket, s3.storage_options), "ab")
    refused = invoke("compact", bucket, *options)
    assert (refused.exit_code, refused.stdout) == (2, "")
    done = invoke("compact", bucket, *options, "--single-writer")
    assert done.exit_code == 0, done.output
    files = read_state(open_store(bucket, s3.storage_options)).files
    assert len(files["recordings"]) == 1


# ---------------------------------------------------------------------------- release


def test_a_release_is_plain_files_with_all_rows(root: str, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    done = json_of("release", root, str(target))
    assert (done["seq"], done["n_files"]) == (4, 7)
    assert done["n_rows"] == {
        **dict.fromkeys(("transcripts", "languages", "emotions", "quality"), 6),
        **{"events": 12, "recordings": 3, "measures": 3},
    }
    for table in TABLES:
        (path,) = (target / table).glob("part-*.parquet")
        read = pq.ParquetFile(path).read().replace_schema_metadata(None)
        assert read.equals(open_snapshot(root).read(table))
    assert (target / "_SUCCESS").read_bytes() == b""


def test_a_release_may_be_divided_by_language_or_by_date(root: str, tmp_path: Path) -> None:
    languages, dates = tmp_path / "languages", tmp_path / "dates"
    json_of("release", root, str(languages), "--partition-by", "language")
    json_of("release", root, str(dates), "--partition-by", "commit_date")
    assert [path.name for path in (languages / "transcripts").iterdir()] == ["language=en"]
    assert all(path.is_file() for path in (languages / "recordings").iterdir())
    today = datetime.now(UTC).date().isoformat()
    assert [path.name for path in (dates / "recordings").iterdir()] == [f"commit_date={today}"]


def test_an_older_commit_can_be_released(root: str, tmp_path: Path) -> None:
    done = json_of("release", root, str(tmp_path / "copy"), "--seq", "2")
    assert (done["seq"], done["n_rows"]["recordings"]) == (2, 2)


# ------------------------------------------------------------------------------ label


def label(folder: Path, *arguments: str) -> Result:
    """The demo corpus, by a configuration that leaves the rest at its defaults."""
    settings = {"manifest": AUDIO / "manifest.jsonl", "model": MODEL, "output": folder / "out"}
    lines = "".join(f"{name}: {value}\n" for name, value in settings.items())
    (folder / "run.yaml").write_text(lines + "vad: none\n")
    return invoke("label", str(folder / "run.yaml"), *arguments)


def test_a_dry_run_says_what_there_is_to_do_and_does_nothing(tmp_path: Path) -> None:
    done = label(tmp_path, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "20 recordings" in done.stdout and "20 to do" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def outcome(n_unfinished: int, n_errors: int) -> Outcome:
    counts: dict[str, Any] = dict.fromkeys(
        ("n_manifest", "n_done", "n_errors_kept", "n_changed", "n_retried", "n_duplicates"), 0
    )
    plan = Plan(legs=Legs(), bytes=0, known_s=0.0, **counts)
    progress = Progress(RUN.run_id, n_recordings=9, n_errors=n_errors)
    return Outcome(RUN, plan, progress, 0, n_unfinished, 1.0)


@pytest.mark.parametrize(
    ("n_unfinished", "n_errors", "settings", "exit_code"),
    [
        (0, 0, (), 0),
        (0, 2, (), 3),
        (1, 0, (), 1),
        (1, 2, (), 1),
        (0, 2, ("--set=error_exit_code=0",), 0),
        (0, 2, ("--set=error_exit_code=7",), 7),
        (0, 0, ("--set=error_exit_code=7",), 0),
    ],
)
def test_the_exit_code_of_a_run_that_finished(
    n_unfinished: int,
    n_errors: int,
    settings: tuple[str, ...],
    exit_code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_each(open_store(str(tmp_path / "out")), "a")
    monkeypatch.setattr(runs, "execute", lambda config, update: outcome(n_unfinished, n_errors))
    done = label(tmp_path, *settings)
    assert done.exit_code == exit_code, done.output
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(RunStopped("all denied"), 1), (ZeroDivisionError("oh"), 1), (KeyboardInterrupt(), 130)],
)
def test_the_exit_code_of_a_run_that_was_stopped(
    error: BaseException, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(runs, "execute", stop)
    done = label(tmp_path)
    assert done.exit_code == exit_code
    assert "Traceback" not in done.output
    assert str(error) in done.stderr
