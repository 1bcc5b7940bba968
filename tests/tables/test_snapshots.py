"""Snapshots, as this library and other engines read them, and the query command."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreError
from pipeline.maintenance.verify import verify
from pipeline.schema import TABLES
from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.ledger import ledger
from pipeline.tables.publisher import publish
from pipeline.tables.snapshots import Snapshot, connect, open_snapshot
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, window
from tests.support.demo import ROOT
from tests.support.s3_server import S3

Root = tuple[str, dict[str, Any]]


def publish_some(root: str, options: dict[str, Any] | None = None) -> None:
    """Three commits; the last one supersedes a recording, so a glob would count too many rows."""
    store = open_store(root, options)
    write_bundle(store, RUN, bundle(window("a"), window("b"), window("bad", error="NotAudio")))
    publish(store, RUN)
    write_bundle(store, RUN, bundle(window("c")))
    publish(store, RUN)
    write_bundle(store, RUN, bundle(window("a", version="v2", supersedes="a-v1:1")))
    publish(store, RUN)


@pytest.fixture(params=["local", "s3"], scope="module")
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Root:
    if request.param == "local":
        found: Root = str(tmp_path_factory.mktemp("root") / "my tables"), {}
    else:
        s3: S3 = request.getfixturevalue("s3")
        found = f"{s3.new_bucket()}/my tables", s3.storage_options
    publish_some(*found)
    return found


@pytest.fixture
def local(tmp_path: Path) -> str:
    publish_some(str(tmp_path))
    return str(tmp_path)


PLAIN_DUCKDB = re.search(r"```sql\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def count_with_plain_duckdb(root: str, table: str) -> int:
    """The statements of README, for another root and table: DuckDB without this library."""
    assert PLAIN_DUCKDB
    *settings, _ = PLAIN_DUCKDB[1].strip().split(";\n")
    with duckdb.connect() as connection:
        for line in settings:
            line = line.replace("out/demo", root).replace("transcripts", table)
            connection.execute(line)
        sql = PLAIN_DUCKDB[1].strip().rpartition(";\n")[2]
        sql = sql.replace("SELECT language, count(*)", "SELECT count(*)").replace("GROUP BY 1", "")
        (counted,) = connection.execute(sql).fetchall()
    return int(counted[0])


def read_with_duckdb(snapshot: Snapshot) -> list[tuple[str, str]]:
    with duckdb.connect() as connection:
        connection.register_filesystem(snapshot.filesystem)
        return connection.execute(
            "SELECT segment_id, text FROM read_parquet(?, hive_partitioning = false)",
            [snapshot.files("transcripts")],
        ).fetchall()


def read_with_pandas(snapshot: Snapshot) -> list[tuple[str, str]]:
    files: Any = snapshot.files("transcripts")  # a list works, but the stubs do not allow it
    frame = pd.read_parquet(files, filesystem=snapshot.filesystem, partitioning=None)
    return list(frame[["segment_id", "text"]].itertuples(index=False, name=None))


def read_with_polars(snapshot: Snapshot) -> list[tuple[str, str]]:
    files = [snapshot.filesystem.open(file) for file in snapshot.files("transcripts")]
    return pl.read_parquet(files, hive_partitioning=False).select("segment_id", "text").rows()


@pytest.mark.parametrize("read", [read_with_duckdb, read_with_pandas, read_with_polars])
def test_other_engines_read_the_same_rows(
    root: Root, read: Callable[[Snapshot], list[tuple[str, str]]]
) -> None:
    snapshot = open_snapshot(*root)
    rows = snapshot.read("transcripts", ["segment_id", "text"]).to_pylist()
    assert len(rows) == 8
    assert sorted(read(snapshot)) == sorted((row["segment_id"], row["text"]) for row in rows)


def test_duckdb_reads_the_derived_file_lists(local: str) -> None:
    assert count_with_plain_duckdb(local, "events") == open_snapshot(local).read("events").num_rows


def test_a_copied_output_is_read_in_its_new_place(local: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(local, copy, ignore=shutil.ignore_patterns("copy"))
    n_rows = open_snapshot(local).read("transcripts").num_rows
    for entry in Path(local).iterdir():
        if entry != copy:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert count_with_plain_duckdb(str(copy), "transcripts") == n_rows
    assert open_snapshot(str(copy)).read("transcripts").num_rows == n_rows
    assert verify(open_store(str(copy))).problems == []


def make_absolute(root: str) -> None:
    """Lists as older programs wrote them."""
    for path in Path(root, "_snapshots").rglob("*.json"):
        lines = [json.loads(line)["path"] for line in path.read_text().splitlines()]
        text = "".join(json.dumps({"path": f"{root}/{line}"}) + "\n" for line in lines)
        path.write_text(text)


def test_absolute_lists_of_older_programs_are_read_and_then_replaced(local: str) -> None:
    make_absolute(local)
    n_rows = open_snapshot(local).read("events").num_rows
    assert count_with_plain_duckdb(local, "events") == n_rows
    assert verify(open_store(local)).problems == []
    publish(open_store(local), RUN)
    listed = Path(local, "_snapshots", "3", "events.json").read_text()
    assert local not in listed
    assert count_with_plain_duckdb(local, "events") == n_rows


def test_a_read_has_exactly_the_columns_of_the_contract(root: Root) -> None:
    snapshot = open_snapshot(*root)
    for table, schema in TABLES.items():
        assert snapshot.read(table).schema.equals(schema, check_metadata=True)


def test_columns_can_be_chosen(root: Root) -> None:
    table = open_snapshot(*root).read("recordings", ["status", "recording_id"])
    assert table.column_names == ["status", "recording_id"]
    assert table.num_rows == 4


def test_an_unknown_column_is_named(local: str) -> None:
    with pytest.raises(ValueError, match=r"recordings has no columns \['colour'\]; it has"):
        open_snapshot(local).read("recordings", ["colour"])


def test_an_unknown_table_is_named(local: str) -> None:
    with pytest.raises(ValueError, match="there is no table 'words'; there are"):
        open_snapshot(local).read("words")
    with pytest.raises(ValueError, match="there is no table 'words'; there are"):
        open_snapshot(local).files("words")


def test_an_older_commit_stays_readable(local: str) -> None:
    assert [open_snapshot(local, seq=seq).read("recordings").num_rows for seq in (1, 2, 3)] == [
        3,
        4,
        4,
    ]


def test_a_root_without_tables_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no tables here yet; run the label job"):
        open_snapshot(str(tmp_path))


def test_a_fingerprint_may_be_shortened(local: str) -> None:
    assert open_snapshot(local, fingerprint="f1f1").fingerprint == RUN.fingerprint


def test_an_unknown_fingerprint_lists_the_known(local: str) -> None:
    with pytest.raises(StoreError, match=f"'0000' fits none of .*{RUN.fingerprint}"):
        open_snapshot(local, fingerprint="0000")


def test_the_ledger_has_work_key_and_attempts_of_each_recording(root: Root) -> None:
    rows = ledger(*root, fingerprint=RUN.fingerprint).sort_by("recording_id").to_pylist()
    assert [row["recording_id"] for row in rows] == ["a", "b", "bad", "c"]
    assert rows[2] == {
        "recording_id": "bad",
        "work_key": "bad-v1",
        "attempts": 1,
        "status": "error",
        "error_type": "NotAudio",
    }


def test_the_ledger_of_another_model_is_empty(local: str) -> None:
    assert ledger(local, fingerprint=OTHER_MODEL.fingerprint).num_rows == 0


def test_the_ledger_of_an_empty_root_is_empty(tmp_path: Path) -> None:
    table = ledger(str(tmp_path / "nothing"), fingerprint=RUN.fingerprint)
    assert (table.num_rows, table.num_columns) == (0, 5)


def test_a_flipped_bit_is_an_error_not_a_wrong_row(local: str) -> None:
    path = Path(open_snapshot(local).files("transcripts")[0])
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 0x01
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"is damaged \(.*CRC"):
        open_snapshot(local).read("transcripts")


def test_a_damaged_column_name_is_an_error_not_a_column_of_nulls(local: str) -> None:
    path = Path(open_snapshot(local).files("transcripts")[0])
    data = path.read_bytes()  # page checksums do not cover the footer
    path.write_bytes(data.replace(b"rich_text", b"rich_texu"))
    with pytest.raises(StoreError, match=r"is damaged .*no column rich_text"):
        open_snapshot(local).read("transcripts")


def test_a_process_that_only_reads_exits_without_an_error(local: str) -> None:
    # With Arrow's own reader threads, one such process in ten aborts at its end (arrow#50482).
    code = f"from pipeline.tables import open_snapshot; open_snapshot({local!r}).read('events')"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


def test_connect_has_a_view_of_each_table_and_their_join(root: Root) -> None:
    with connect(*root) as connection:
        for table in TABLES:
            counted = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert counted == (open_snapshot(*root).read(table).num_rows,)
        segments = connection.execute(
            "SELECT segment_id, uri, text, language, emotion, events FROM segments"
        ).fetchall()
    assert len(segments) == open_snapshot(*root).read("transcripts").num_rows
    assert all(uri.startswith("/audio/") for _, uri, *_ in segments)


def test_connect_works_on_an_output_without_segments(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_bundle(store, RUN, bundle(window("bad", error="NotAudio", n_segments=0)))
    publish(store, RUN)
    with connect(str(tmp_path)) as connection:
        assert connection.execute("SELECT count(*) FROM segments").fetchone() == (0,)


def query(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "jobs.query", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_query_command_prints_a_table_or_csv(local: str) -> None:
    done = query(local, "SELECT recording_id, status FROM recordings ORDER BY 1", "--csv")
    assert done.stdout.splitlines() == ["recording_id,status", "a,ok", "b,ok", "bad,error", "c,ok"]
    assert "recording_id" in query(local, "SELECT recording_id FROM segments").stdout


@pytest.mark.parametrize(
    ("sql", "reason"), [("SELECT nothing", "nothing"), ("SELEC 1", "syntax error")]
)
def test_the_query_command_says_what_is_wrong_with_a_query(
    local: str, sql: str, reason: str
) -> None:
    done = query(local, sql)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
