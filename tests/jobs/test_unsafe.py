"""SQL of a user reads the tables and nothing else; what it prints cannot steer a terminal."""

import resource
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.__main__ import app
from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = open_store(str(tmp_path_factory.mktemp("tables")))
    write_bundle(store, RUN, bundle(window("a"), window("b")))
    publish(store, RUN)
    return store.root


def invoke(job: str, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [job, *arguments])


def test_a_query_can_read_nothing_but_the_tables(tables: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    sql = f"SELECT content FROM read_text('{secret}')"
    refused = invoke("query", tables, sql)
    assert (refused.exit_code, "a secret" in refused.output) == (2, False)
    assert "file system operations are disabled" in refused.stderr
    assert "a secret" in invoke("query", tables, sql, "--unsafe").stdout


def test_a_query_can_write_nothing(tables: str, tmp_path: Path) -> None:
    target = tmp_path / "copied.csv"
    sql = f"COPY recordings TO '{target}'"
    refused = invoke("query", tables, sql)
    assert (refused.exit_code, target.exists()) == (2, False)
    assert "only one statement that reads" in refused.stderr
    assert "--unsafe" in refused.stderr
    assert invoke("query", tables, sql, "--unsafe").exit_code == 0
    assert target.exists()


def test_a_condition_can_read_nothing_but_the_tables(tables: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("a secret")
    where = f"EXISTS (SELECT * FROM read_text('{tmp_path}/secret.txt'))"
    arguments = [tables, "--format", "nemo", "-o", str(tmp_path / "x"), "--where", where]
    refused = invoke("export", *arguments)
    assert refused.exit_code == 2
    assert "file system operations are disabled" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]
    assert invoke("export", *arguments, "--unsafe").exit_code == 0


@pytest.mark.parametrize("columns", ["id", ", ".join(f"id AS c{n}" for n in range(20))])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_query_prints_control_characters_as_escapes(
    columns: str, is_terminal: bool, tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.query.is_terminal", lambda: is_terminal)
    sql = f"SELECT {columns} FROM (SELECT chr(27) || '[2J' || chr(155) || '31m' AS id)"
    shown = invoke("query", tables, sql).stdout
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "[2J" in shown


def test_a_csv_that_is_no_terminal_has_the_values_as_they_are(tables: str) -> None:
    assert "\x1b[2J" in invoke("query", tables, "SELECT chr(27) || '[2J'", "--csv").stdout


def test_a_message_about_a_value_prints_its_control_characters_as_escapes(tables: str) -> None:
    done = invoke("query", tables, "SELECT CAST(chr(27) || '[2J' AS INT)")
    assert done.exit_code == 2
    assert "\x1b" not in done.stderr
    assert r"\x1b[2J" in done.stderr


def test_a_full_disk_leaves_an_old_report_as_it_was(tables: str, tmp_path: Path) -> None:
    page = tmp_path / "card.html"
    page.write_text("the old card")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        done = invoke("report", tables, "-o", str(page))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.exit_code == 2
    assert page.read_text() == "the old card"
    assert [path.name for path in tmp_path.iterdir()] == ["card.html"]
    assert invoke("report", tables, "-o", str(page)).exit_code == 0
    assert "<html" in page.read_text()


def test_a_report_replaces_what_a_link_names(tables: str, tmp_path: Path) -> None:
    (tmp_path / "real.html").write_text("old")
    (tmp_path / "card.html").symlink_to("real.html")
    assert invoke("report", tables, "-o", str(tmp_path / "card.html")).exit_code == 0
    assert (tmp_path / "card.html").is_symlink()
    assert "<html" in (tmp_path / "real.html").read_text()
