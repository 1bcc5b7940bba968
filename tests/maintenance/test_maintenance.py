import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars
import pyarrow.dataset
import pytest

from pipeline.errors import StoreError
from pipeline.maintenance.compact import compact
from pipeline.maintenance.release import PARTITIONS, PartitionBy, release
from pipeline.maintenance.vacuum import vacuum
from pipeline.maintenance.verify import verify
from pipeline.schema import TABLES
from pipeline.storage.store import Store, open_store
from pipeline.tables import commit_log as commits
from pipeline.tables import open_snapshot
from pipeline.tables.attempts import Choice, choose
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_record, read_state
from pipeline.tables.parts import part_files
from pipeline.tables.publisher import Publisher, publish
from tests.support.bundle_rows import OTHER_MODEL, OTHER_RUN, RUN, bundle, whole, window
from tests.support.s3_server import S3
from tests.tables.test_publisher import Crash, CrashingStore, Interrupted, contents


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def publish_each(store: Store, names: str, error: str = "") -> None:
    """A commit and a part for every letter."""
    for name in names:
        write_bundle(store, RUN, bundle(window(name, error=error)))
        publish(store, RUN)


def n_parts(store: Store) -> int:
    return len(read_state(store).table("recordings", RUN.fingerprint))


# --------------------------------------------------------------------------- compact


def test_small_parts_become_one(store: Store) -> None:
    publish_each(store, "cadb")
    before = contents(store.root)
    done = compact(store)
    assert (done.n_parts_before, done.n_parts_after, done.n_commits) == (4, 1, 1)
    assert contents(store.root) == before
    assert n_parts(store) == 1
    ids = open_snapshot(store.root).read("transcripts")["recording_id"].to_pylist()
    assert ids == ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert not verify(store).problems


def test_compacting_again_does_nothing(store: Store) -> None:
    publish_each(store, "abc")
    write_bundle(store, RUN, bundle(window("bad", error="NotAudio")))
    publish(store, RUN)
    seq = compact(store).seq
    again = compact(store)
    assert (again.seq, again.n_commits) == (seq, 0)


def test_good_and_failed_parts_stay_apart(store: Store) -> None:
    publish_each(store, "ab")
    publish_each(store, "xy", error="NotAudio")
    compact(store)
    assert n_parts(store) == 2
    write_bundle(store, RUN, bundle(window("x", supersedes="x-v1:1", attempts=2)))
    publish(store, RUN)
    assert contents(store.root)["x"] == ("ok", "v1", 2)


def test_models_are_compacted_each_for_itself(store: Store) -> None:
    publish_each(store, "ab")
    for name in "ab":
        write_bundle(store, OTHER_MODEL, bundle(window(name)))
        publish(store, OTHER_MODEL)
    assert compact(store).n_commits == 2
    assert set(contents(store.root, fingerprint=OTHER_MODEL.fingerprint)) == {"a", "b"}
    assert set(contents(store.root, fingerprint=RUN.fingerprint)) == {"a", "b"}


def test_parts_are_merged_up_to_a_good_size(store: Store) -> None:
    for name in "abcdefgh":
        write_bundle(store, RUN, bundle(window(name, n_segments=300)))
        publish(store, RUN)
    state = read_state(store)
    sizes = [
        sum(file.bytes for _, file in part_files(state, path)) for path in state.files["recordings"]
    ]
    done = compact(store, good_bytes=max(sizes) * 2)
    assert done.n_commits >= 2
    assert 2 <= n_parts(store) <= 5
    assert set(contents(store.root)) == set("abcdefgh")


def test_what_is_compacted_can_be_superseded(store: Store) -> None:
    publish_each(store, "ab")
    compact(store)
    write_bundle(store, OTHER_RUN, bundle(window("b", version="v2", supersedes="b-v1:1")))
    publish(store, OTHER_RUN)
    assert contents(store.root) == {"a": ("ok", "v1", 1), "b": ("ok", "v2", 1)}


def test_a_compaction_that_lost_the_race_starts_again(store: Store) -> None:
    publish_each(store, "ab")

    def supersede() -> None:
        write_bundle(store, OTHER_RUN, bundle(window("b", version="v2", supersedes="b-v1:1")))
        publish(store, OTHER_RUN)

    compact(Interrupted(store, supersede))
    assert contents(store.root) == {"a": ("ok", "v1", 1), "b": ("ok", "v2", 1)}
    assert n_parts(store) == 1


def test_a_publisher_that_a_compaction_overtook_starts_again(store: Store) -> None:
    publish_each(store, "ab")
    write_bundle(store, OTHER_RUN, bundle(window("b", version="v2", supersedes="b-v1:1")))
    publish(Interrupted(store, lambda: compact(store)), OTHER_RUN)
    assert contents(store.root) == {"a": ("ok", "v1", 1), "b": ("ok", "v2", 1)}
    assert not verify(store).problems


def test_a_damaged_part_is_not_compacted(store: Store) -> None:
    publish_each(store, "ab")
    path = next(iter(read_state(store).files["emotions"]))
    store.put(path, store.get(path)[:-1])
    with pytest.raises(StoreError, match="differs from what was committed"):
        compact(store)
    assert read_state(store).seq == 2


# --------------------------------------------------------------------------- vacuum


def test_superseded_files_and_published_bundles_go(store: Store) -> None:
    publish_each(store, "abcd")
    compact(store)
    orphan = "transcripts/f1f1f1f1/c00000009-dead-0.parquet"
    store.put(orphan, b"left by a publisher that died")
    done = vacuum(store, retain_s=0)
    assert orphan in done.files
    assert (len(done.files), len(done.bundles)) == (4 * len(TABLES) + 1, 4)
    assert set(contents(store.root)) == set("abcd")
    assert not verify(store).problems
    left = [key for table in TABLES for key in store.list(f"{table}/")]
    assert len(left) == len(TABLES)
    assert {key.split("/")[1] for key in store.list("_snapshots/")} == {str(done.seq)}


def test_what_the_retention_covers_stays_readable(store: Store) -> None:
    publish_each(store, "abcd")
    compact(store)
    done = vacuum(store, retain_s=3600)
    assert (done.files, done.bundles, done.first_seq) == ([], [], 1)
    assert open_snapshot(store.root, seq=2).read("recordings").num_rows == 2


def test_the_snapshot_that_was_newest_when_the_retention_began_stays(store: Store) -> None:
    publish_each(store, "ab")
    compact(store)  # commit 3
    time.sleep(1.0)
    publish_each(store, "c")
    done = vacuum(store, retain_s=0.9)
    assert done.first_seq == 3
    assert open_snapshot(store.root, seq=3).read("recordings").num_rows == 2
    with pytest.raises(StoreError, match=r"commit 2 can no longer be read .* a vacuum"):
        open_snapshot(store.root, seq=2).read("recordings")
    assert len(store.list("_bundles/")) == 1, "the bundle of commit 4 is inside the retention"


def test_a_reader_of_an_old_snapshot_sees_its_rows_until_it_is_told_that_they_are_gone(
    store: Store,
) -> None:
    publish_each(store, "ab")
    old = open_snapshot(store.root)
    first = old.read("transcripts")
    for n in range(2, 7):
        row = window("b", version=f"v{n}", supersedes=f"b-v{n - 1}:1")
        write_bundle(store, RUN, bundle(row))
        publish(store, RUN)
        compact(store)
        vacuum(store, retain_s=3600)
        assert old.read("transcripts").equals(first)
    vacuum(store, retain_s=0)
    with pytest.raises(StoreError, match=r"commit 2 can no longer be read .* a vacuum"):
        old.read("transcripts")


def test_bundles_that_wait_are_never_deleted(store: Store) -> None:
    first, second = whole("long", 2)
    write_bundle(store, RUN, bundle(first, window("a")))
    publish(store, RUN)
    waiting = set(store.list("_bundles/"))
    late = write_bundle(store, RUN, bundle(second))
    vacuum(store, retain_s=0)
    assert set(store.list("_bundles/")) == waiting | {late}
    publish(store, RUN)
    assert set(contents(store.root)) == {"a", "long"}


def test_a_dry_run_deletes_nothing(store: Store) -> None:
    publish_each(store, "ab")
    compact(store)
    before = store.list("")
    done = vacuum(store, retain_s=0, dry_run=True)
    assert len(done.files) == 2 * len(TABLES)
    assert store.list("") == before


def test_a_vacuum_with_nothing_to_do_commits_nothing(store: Store) -> None:
    publish_each(store, "a")
    assert vacuum(store).seq == read_state(store).seq == 1


def test_an_empty_root_can_be_vacuumed(store: Store) -> None:
    assert vacuum(store, retain_s=0).seq == 0


def test_the_log_forgets_bundles_that_an_earlier_vacuum_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 4)
    publish_each(store, "abc")
    gone = set(store.list("_bundles/"))
    assert vacuum(store, retain_s=0).forgotten == []
    assert read_state(store).consumed == gone, "the vacuum might have died before it deleted them"
    done = vacuum(store, retain_s=0)
    assert (set(done.forgotten), done.seq) == (gone, 4)
    assert read_state(store).consumed == frozenset()
    assert b"_bundles/" not in store.get(store.list("_checkpoints/")[-1])
    assert vacuum(store, retain_s=0).seq == 4
    assert set(contents(store.root)) == set("abc")
    assert not verify(store).problems


def bring_back(store: Store, which: slice) -> int:
    """A bundle and one that superseded half of it, deleted and forgotten; how many are dropped."""
    bad = window("bad", error="Timeout")
    first = write_bundle(store, RUN, bundle(window("a"), window("b"), bad, *whole("long", 2)))
    publish(store, RUN)
    again = window("bad", supersedes="bad-v1:1", attempts=2, attempt_id="a2")
    changed = window("b", version="v2", supersedes="b-v1:1", attempt_id="a2")
    second = write_bundle(store, RUN, bundle(again, changed))
    publish(store, RUN)
    held = {key: store.get(key) for key in (first, second)[which]}
    vacuum(store, retain_s=0)
    assert len(vacuum(store, retain_s=0).forgotten) == 2
    assert store.list("_bundles/") == []
    for key, data in held.items():
        store.put(key, data)
    return publish(store, RUN).n_dropped


LATE = {
    "a": ("ok", "v1", 1),
    "b": ("ok", "v2", 1),
    "bad": ("ok", "v1", 2),
    "long": ("ok", "v1", 1),
}


def test_a_forgotten_bundle_that_comes_back_is_dropped_row_by_row(store: Store) -> None:
    assert bring_back(store, slice(2)) == 6
    assert contents(store.root) == LATE
    assert not verify(store).problems
    assert read_state(store).consumed == set(store.list("_bundles/"))


def test_without_supersedes_a_forgotten_bundle_that_comes_back_would_win(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a ledger that takes whatever comes last."""

    def take_all(windows: pd.DataFrame, known: pd.DataFrame, opened: frozenset[str]) -> Choice:
        state = windows["recording_id"].map(known.set_index("recording_id")["state"]).fillna("")
        return choose(windows.assign(supersedes=state), known, opened)

    monkeypatch.setattr("pipeline.tables.publisher.choose", take_all)
    bring_back(store, slice(1))
    assert contents(store.root) != LATE


def test_temporaries_of_dead_writers_go_when_they_are_old(store: Store) -> None:
    publish_each(store, "a")
    old, new = (Path(store.root, "events", f".x.{age}.tmp") for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"torn")
    os.utime(old, (0, 0))
    assert vacuum(store).n_temporaries == 1
    assert (old.exists(), new.exists()) == (False, True)


def paused_publisher(store: Store, meanwhile: Callable[[], object]) -> None:
    """It has written its files and is about to commit when something else happens."""
    write_bundle(store, RUN, bundle(window("late")))
    publish(Interrupted(store, meanwhile), RUN)


def test_a_publisher_that_a_vacuum_overtook_commits_other_files(store: Store) -> None:
    publish_each(store, "a")
    paused_publisher(store, lambda: vacuum(store, retain_s=0))
    assert read_record(store, 2).run_id.startswith("vacuum-"), "the fence won"
    assert set(contents(store.root)) == {"a", "late"}
    assert not verify(store).problems


def test_without_the_fence_a_paused_publisher_commits_deleted_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the same race, found by the same check."""
    publish_each(store, "a")
    monkeypatch.setattr(
        "pipeline.maintenance.compact._fence", lambda store, state, forgotten: state
    )
    paused_publisher(store, lambda: vacuum(store, retain_s=0))
    problems = verify(store).problems
    assert len(problems) == len(TABLES)
    assert all("is missing, but a commit lists it" in problem for problem in problems)


def test_what_can_no_longer_be_committed_goes_without_a_fence(store: Store) -> None:
    publish_each(store, "ab")
    compact(store)
    lost = "events/f1f1f1f1/c00000003-lost-0.parquet"
    store.put(lost, b"commit 3 was somebody else's")
    done = vacuum(store, retain_s=0)
    assert lost in done.files
    assert read_state(store).seq == 3


def test_a_fence_that_lost_the_race_keeps_what_the_winner_committed(store: Store) -> None:
    publish_each(store, "ab")
    compact(store)
    write_bundle(store, RUN, bundle(window("c")))
    store.put("events/f1f1f1f1/c00000004-uncommitted-0.parquet", b"whose publisher is at work")
    done = vacuum(Interrupted(store, lambda: publish(store, RUN)), retain_s=0)
    assert done.seq == 5
    assert set(contents(store.root)) == {"a", "b", "c"}
    assert not verify(store).problems


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_operation_of_the_upkeep_loses_nothing(tmp_path: Path, after: bool) -> None:
    prepared = open_store(str(tmp_path / "prepared"))
    publish_each(prepared, "ab")
    n = 0
    for n in range(int(after), 200, 2):
        store = open_store(str(shutil.copytree(tmp_path / "prepared", tmp_path / str(n))))
        crashing = CrashingStore(store, n, after)
        try:
            compact(crashing)
            vacuum(crashing, retain_s=0)
        except Crash:
            pass
        else:
            break
        compact(store)
        vacuum(store, retain_s=0)
        assert not verify(store).problems
        assert set(contents(store.root)) == {"a", "b"}
        assert n_parts(store) == 1
    assert n > 40


def test_vacuum_and_compact_in_a_loop_disturb_nobody(store: Store) -> None:
    """16 commits and more, each but the first eight superseding; compact and vacuum in a loop; a
    reader in parallel. Seen on 2 cores: 16 commits, 4 to 10 rounds of upkeep, 12 to 27 snapshots
    read, 0 violations.
    """
    done, failures, counts = threading.Event(), list[BaseException](), {"upkeep": 0, "reads": 0}

    def guarded(work: Callable[[], None]) -> None:
        try:
            while not done.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    def upkeep() -> None:
        counts["upkeep"] += 1
        time.sleep(0.2)
        compact(store)
        # Readers take less than 2 s; publishers and compactions need no retention at all.
        vacuum(store, retain_s=2.0)

    def read() -> None:
        if not read_state(store).seq:
            return
        snapshot = open_snapshot(store.root)
        time.sleep(0.05)
        recordings = snapshot.read("recordings")
        assert recordings.num_rows == len(set(recordings["recording_id"].to_pylist()))
        n_segments = sum(recordings["n_segments"].to_pylist())
        for table in ("transcripts", "languages", "emotions"):
            assert snapshot.read(table).num_rows == n_segments
        counts["reads"] += 1

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (upkeep, read)]
    for thread in threads:
        thread.start()
    publisher = Publisher(store, RUN)
    try:
        n, deadline = 0, time.monotonic() + 60
        while n < 16 or (min(counts.values()) < 4 and not failures and time.monotonic() < deadline):
            rows = [window(f"r{n}")]
            if n >= 8:
                old = f"r{n - 8}"
                rows.append(window(old, version="v2", supersedes=f"{old}-v1:1"))
            write_bundle(store, RUN, bundle(*rows))
            publisher.publish()
            time.sleep(0.05)  # without a pause, no compaction is ever quick enough
            n += 1
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures, failures
    assert min(counts.values()) >= 4
    vacuum(store, retain_s=0)
    expected = {f"r{i}": ("ok", "v2" if i < n - 8 else "v1", 1) for i in range(n)}
    assert contents(store.root) == expected
    assert not verify(store).problems


def test_upkeep_works_on_s3(s3: S3) -> None:
    store = open_store(f"{s3.new_bucket()}/root", s3.storage_options)
    publish_each(store, "ab")
    compact(store)
    assert len(vacuum(store, retain_s=0).files) == 2 * len(TABLES)
    assert set(contents(store.root, s3.storage_options)) == {"a", "b"}
    release(
        open_snapshot(store.root, s3.storage_options),
        open_store(f"{store.root}-v1", s3.storage_options),
    )
    assert "_SUCCESS" in open_store(f"{store.root}-v1", s3.storage_options).list("")


def test_old_checkpoints_go_and_the_log_can_still_be_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 2)
    publish_each(store, "abcdef")
    vacuum(store, retain_s=0)
    assert len(store.list("_checkpoints/")) == 1
    assert set(contents(store.root)) == set("abcdef")


# --------------------------------------------------------------------------- release


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


def test_a_release_by_date_divides_every_table(released: Callable[[PartitionBy], Path]) -> None:
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


def test_a_release_into_something_is_refused(
    released: Callable[[PartitionBy], Path], store: Store
) -> None:
    target = released("none")
    with pytest.raises(StoreError, match="is not empty; release to a new directory"):
        release(open_snapshot(store.root), open_store(str(target)))


def test_a_release_that_died_has_no_success(store: Store, tmp_path: Path) -> None:
    publish_each(store, "a")
    target = CrashingStore(open_store(str(tmp_path / "release")), n=4)
    with pytest.raises(Crash):
        release(open_snapshot(store.root), target)
    assert not (tmp_path / "release" / "_SUCCESS").exists()
