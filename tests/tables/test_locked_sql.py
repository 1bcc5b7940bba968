"""SQL that reads one snapshot and nothing else."""

import hashlib
import os
from pathlib import Path

import duckdb
import pytest

from pipeline.errors import ConfigError
from pipeline.storage.store import open_store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.locked_sql import check_select, connect_locked
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.s3_server import S3

READS = [
    "SELECT * FROM segments",
    "FROM segments",
    "WITH s AS (SELECT text FROM segments) SELECT count(*) FROM s",
    "VALUES (1)",
    "DESCRIBE segments",
    "SUMMARIZE transcripts",
    "SHOW TABLES",
    "SELECT 1;",
]
OTHER_STATEMENTS = [
    "COPY recordings TO 'copied.csv'",
    "SELECT 1; SELECT 2",
    "SET threads = 1",
    "CREATE TABLE t (a INT)",
    "DROP VIEW segments",
    "ATTACH 'other.db'",
    "INSTALL httpfs",
    "CALL enable_logging()",
    "EXPLAIN ANALYZE COPY recordings TO 'copied.csv'",
    "PRAGMA database_list",
    "EXPORT DATABASE 'copied'",
]
REFUSED = [
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_csv('{root}/_latest.json')",
    "SELECT * FROM read_json('{root}/_latest.json')",
    "SELECT * FROM '{root}/_latest.json'",
    "SELECT * FROM read_parquet('{root}/events/*/*.parquet')",
    "SELECT * FROM read_blob('{root}/../secret')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM 'http://127.0.0.1:9/x.parquet'",
    "SELECT * FROM query('COPY recordings TO ''copied.csv''')",
    "WITH w AS (COPY recordings TO 'copied.csv') SELECT 1",
    "SELECT * FROM enable_logging(storage='file', storage_path='logs')",
    "SELECT * FROM enable_profiling(save_location='profile.json')",
    "SELECT * FROM hidden_variable",
    "COPY (SELECT 1 a) TO 'copied.parquet' (FORMAT parquet, USE_TMP_FILE false)",
    "COPY (SELECT 1 a) TO '{file}' (FORMAT parquet, USE_TMP_FILE false)",
    "ATTACH 'other.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "work").mkdir()
    (tmp_path / "secret").write_text("secret")
    monkeypatch.chdir(tmp_path / "work")
    store = open_store(str(tmp_path / "root"))
    write_bundle(store, RUN, bundle(window("a"), window("b", error="NotAudio", n_segments=0)))
    publish(store, RUN)
    return store.root


def digests(root: str) -> dict[Path, str]:
    files = [path for path in Path(root).rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("sql", READS)
def test_statements_that_read_are_run(root: str, sql: str) -> None:
    with connect_locked(open_snapshot(root)) as connection:
        check_select(connection, sql)
        assert connection.execute(sql).fetchall()


@pytest.mark.parametrize("sql", OTHER_STATEMENTS)
def test_other_statements_are_refused_before_they_run(root: str, sql: str) -> None:
    with (
        connect_locked(open_snapshot(root)) as connection,
        pytest.raises(ConfigError, match=r"only one statement that reads .* --unsafe"),
    ):
        check_select(connection, sql)


@pytest.mark.parametrize("sql", REFUSED)
def test_the_connection_opens_nothing_but_the_snapshot(root: str, sql: str) -> None:
    hidden_variable = open_snapshot(root).read("events")
    before = digests(root)
    with connect_locked(open_snapshot(root)) as connection:
        definition = connection.execute(
            "SELECT sql FROM duckdb_views() WHERE view_name = 'recordings'"
        ).fetchall()[0][0]
        file = definition.partition("'")[2].partition("'")[0]
        assert file.startswith("snapshot")
        with pytest.raises(duckdb.Error):
            connection.execute(sql.format(root=root, file=file)).fetchall()
        assert connection.execute("SELECT count(*) FROM segments").fetchall() == [(2,)]
    assert digests(root) == before
    assert os.listdir() == []
    assert hidden_variable.num_rows == 4


def test_without_the_lock_the_same_sql_reads_a_file(root: str) -> None:
    """The negative control."""
    with connect(root) as connection:
        rows = connection.execute("SELECT content FROM read_text('../secret')").fetchall()
        assert rows == [("secret",)]


def test_a_sort_that_needs_the_disk_leaves_no_file(root: str, tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    with connect_locked(open_snapshot(root), spill) as connection:
        sql = "SELECT hash(range) AS h FROM range(3_000_000) ORDER BY h LIMIT 1 OFFSET 2_000_000"
        assert connection.execute(sql).fetchall()
    assert list(spill.iterdir()) == []


@pytest.mark.parametrize(
    "folder",
    ["language=yue", "model=x", "status=error", "recording_id=z", "a*b", "a[1]b", "a?b", "a{1,2}b"],
)
def test_no_part_of_the_path_becomes_a_label_or_a_pattern(tmp_path: Path, folder: str) -> None:
    """A directory named like a partition, or like a pattern that also fits its neighbour."""
    for name, recording in ((folder, "a"), ("axb", "other"), ("a1b", "other")):
        store = open_store(str(tmp_path / name / "labels"))
        write_bundle(store, RUN, bundle(window(recording)))
        publish(store, RUN)
    snapshot = open_snapshot(str(tmp_path / folder / "labels"))
    sql = (
        "SELECT DISTINCT s.recording_id, s.language, r.status, r.model "
        "FROM segments s JOIN recordings r USING (recording_id)"
    )
    expected = [("a", "en", "ok", "demo")]
    with connect(snapshot.store.root) as connection:
        assert connection.execute(sql).fetchall() == expected
    with connect_locked(snapshot) as connection:
        assert connection.execute(sql).fetchall() == expected


def test_a_snapshot_on_s3_is_read_under_the_lock(s3: S3) -> None:
    bucket = f"{s3.new_bucket()}/language=yue/a*b"
    store = open_store(bucket, s3.storage_options)
    write_bundle(store, RUN, bundle(window("a")))
    publish(store, RUN)
    with connect_locked(open_snapshot(bucket, s3.storage_options)) as connection:
        rows = connection.execute("SELECT DISTINCT language FROM segments").fetchall()
        with pytest.raises(duckdb.Error):
            connection.execute(f"SELECT * FROM read_text('{bucket}/_latest.json')").fetchall()
    assert rows == [("en",)]
