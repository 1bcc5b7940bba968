"""release() copies a snapshot to files that other engines read with a glob."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import polars
import pyarrow.dataset
import pytest

from pipeline.errors import StoreError
from pipeline.maintenance.release import PARTITIONS, PartitionBy, release
from pipeline.schema import TABLES
from pipeline.storage.store import Store, open_store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.crashing_stores import Crash, CrashingStore
from tests.support.small_output import publish_each


@pytest.fixture
def released(store: Store, tmp_path: Path) -> Callable[[PartitionBy], Path]:
    def make(partition_by: PartitionBy) -> Path:
        rows = [window("a"), window("b"), window("bad", error="NotAudio", n_segments=0)]
        rows[1]["segments"][0]["language"] = "zh"
        write_bundle(store, RUN, bundle(*rows))
        publish(store, RUN)
        target = tmp_path / "release"
        release(open_snapshot(store.root), open_store(str(target)), partition_by=partition_by)
        return target

    return make


@pytest.mark.parametrize("partition_by", PARTITIONS)
def test_a_release_can_be_globbed(
    released: Callable[[PartitionBy], Path], partition_by: PartitionBy, store: Store
) -> None:
    target = released(partition_by)
    snapshot = open_snapshot(store.root)
    for table in TABLES:
        glob = f"{target}/{table}/**/*.parquet"
        count = duckdb.execute(f"SELECT count(*) FROM read_parquet('{glob}')").fetchall()[0][0]
        assert count == snapshot.read(table).num_rows
        assert polars.scan_parquet(glob).collect().height == count
    assert (target / "_SUCCESS").stat().st_mtime_ns >= max(
        path.stat().st_mtime_ns for path in target.rglob("*.parquet")
    )


def test_a_release_by_language_has_hive_directories(
    released: Callable[[PartitionBy], Path],
) -> None:
    target = released("language")
    assert {path.name for path in (target / "emotions").iterdir()} == {"language=en", "language=zh"}
    transcripts = pyarrow.dataset.dataset(target / "transcripts", partitioning="hive").to_table()
    assert sorted(transcripts["language"].to_pylist()) == ["en", "en", "en", "zh"]
    zh = duckdb.execute(
        f"SELECT segment_id FROM read_parquet('{target}/events/**/*.parquet') WHERE language = 'zh'"
    ).fetchall()
    assert {segment for (segment,) in zh} == {"b-000000"}


def test_a_release_by_date_divides_all_tables(
    released: Callable[[PartitionBy], Path],
) -> None:
    target = released("commit_date")
    for table in TABLES:
        (directory,) = (target / table).iterdir()
        assert directory.name.startswith("commit_date=20")


def test_a_release_holds_what_the_snapshot_holds(
    released: Callable[[PartitionBy], Path], store: Store
) -> None:
    target = released("none")
    snapshot = open_snapshot(store.root)
    for table in TABLES:
        rows = pyarrow.dataset.dataset(target / table).to_table()
        expected = snapshot.read(table)
        order = [("recording_id", "ascending")]
        assert rows.sort_by(order).replace_schema_metadata(None).equals(expected.sort_by(order))


def test_a_release_into_a_directory_with_files_is_refused(
    released: Callable[[PartitionBy], Path], store: Store
) -> None:
    target = released("none")
    with pytest.raises(StoreError, match="is not empty; release to a new directory"):
        release(open_snapshot(store.root), open_store(str(target)))


def test_a_release_that_died_has_no_success_file(store: Store, tmp_path: Path) -> None:
    publish_each(store, "a")
    target = CrashingStore(open_store(str(tmp_path / "release")), n=4)
    with pytest.raises(Crash):
        release(open_snapshot(store.root), target)
    assert not (tmp_path / "release" / "_SUCCESS").exists()


@pytest.mark.parametrize("folder", ["language=yue", "commit_date=2026-01-01", "status=ok"])
def test_a_release_is_not_put_where_a_glob_takes_labels_from_the_path(
    store: Store, tmp_path: Path, folder: str
) -> None:
    write_bundle(store, RUN, bundle(window("a")))
    publish(store, RUN)
    target = tmp_path / folder / "v1"
    with pytest.raises(StoreError, match=f"take '{folder}' for a column"):
        release(open_snapshot(store.root), open_store(str(target)))
    assert not target.exists()
    release(open_snapshot(store.root), open_store(str(tmp_path / "corpus=mine" / "v1")))
