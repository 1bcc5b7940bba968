"""vacuum() deletes what no snapshot within the retention needs, and nothing else."""

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Self

import pandas as pd
import pytest

from pipeline.errors import StoreError
from pipeline.maintenance import vacuum as vacuum_module
from pipeline.maintenance.compact import compact
from pipeline.maintenance.vacuum import vacuum
from pipeline.maintenance.verify import verify
from pipeline.schema import TABLES
from pipeline.storage.leftovers import make_unfinished_directory
from pipeline.storage.store import LocalStore, Store, open_store
from pipeline.tables import commit_log as commits
from pipeline.tables import open_snapshot
from pipeline.tables.attempts import Choice, choose_attempts
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import derived_seq, read_record, read_state
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, whole, window
from tests.support.crashing_stores import Crash, CrashingStore, InterruptedStore
from tests.support.s3_server import S3
from tests.support.small_output import contents, publish_each


def test_superseded_files_and_published_bundles_are_deleted(store: Store) -> None:
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


def test_an_old_snapshot_keeps_its_rows_until_a_vacuum_deletes_them(store: Store) -> None:
    """After that, its reader gets an error that names the vacuum."""
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
    assert read_state(store).consumed == gone, "this vacuum could have died before it deleted them"
    done = vacuum(store, retain_s=0)
    assert (set(done.forgotten), done.seq) == (gone, 4)
    assert read_state(store).consumed == frozenset()
    assert b"_bundles/" not in store.get(store.list("_checkpoints/")[-1])
    assert vacuum(store, retain_s=0).seq == 4
    assert set(contents(store.root)) == set("abc")
    assert not verify(store).problems


def bring_back(store: Store, which: slice) -> int:
    """Publish two bundles and let vacuums forget them; put `which` of them back.

    The second bundle supersedes half of the first one. Returns how many attempts the next publisher
    drops.
    """
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


def test_a_forgotten_bundle_that_appears_again_is_dropped_row_by_row(store: Store) -> None:
    assert bring_back(store, slice(2)) == 6
    assert contents(store.root) == LATE
    assert not verify(store).problems
    assert read_state(store).consumed == set(store.list("_bundles/"))


def test_without_supersedes_a_forgotten_bundle_would_be_committed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a ledger that takes every attempt."""

    def take_all(windows: pd.DataFrame, known: pd.DataFrame, opened: frozenset[str]) -> Choice:
        state = windows["recording_id"].map(known.set_index("recording_id")["state"]).fillna("")
        return choose_attempts(windows.assign(supersedes=state), known, opened)

    monkeypatch.setattr("pipeline.tables.publisher.choose_attempts", take_all)
    bring_back(store, slice(1))
    assert contents(store.root) != LATE


def test_old_temporary_files_of_dead_writers_are_deleted(store: Store) -> None:
    publish_each(store, "a")
    names = {"old": f".x.{'0' * 32}.tmp", "new": f".x.{'1' * 32}.tmp"}
    old, new = (Path(store.root, "events", name) for name in names.values())
    for path in (old, new):
        path.write_bytes(b"torn")
    os.utime(old, (0, 0))
    assert vacuum(store).n_temporaries == 1
    assert (old.exists(), new.exists()) == (False, True)


def publish_late(store: Store, meanwhile: Callable[[], object]) -> None:
    """Publish; call `meanwhile` when the files are written and the commit is not."""
    write_bundle(store, RUN, bundle(window("late")))
    publish(InterruptedStore(store, meanwhile), RUN)


def test_a_publisher_interrupted_by_a_vacuum_commits_new_files(store: Store) -> None:
    publish_each(store, "a")
    publish_late(store, lambda: vacuum(store, retain_s=0))
    assert read_record(store, 2).run_id.startswith("vacuum-"), "the empty commit"
    assert set(contents(store.root)) == {"a", "late"}
    assert not verify(store).problems


def test_without_the_empty_commit_deleted_files_are_committed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the same race, and the same check finds the fault."""
    publish_each(store, "a")
    monkeypatch.setattr(vacuum_module, "_commit_empty", lambda store, state, forgotten: state)
    publish_late(store, lambda: vacuum(store, retain_s=0))
    problems = verify(store).problems
    assert len(problems) == len(TABLES)
    assert all("is missing, but a commit lists it" in problem for problem in problems)


def test_a_file_of_a_lost_commit_needs_no_empty_commit(store: Store) -> None:
    publish_each(store, "ab")
    compact(store)
    lost = "events/f1f1f1f1/c00000003-lost-0.parquet"
    store.put(lost, b"another writer made commit 3")
    done = vacuum(store, retain_s=0)
    assert lost in done.files
    assert read_state(store).seq == 3


def test_a_vacuum_keeps_what_is_committed_before_its_empty_commit(store: Store) -> None:
    publish_each(store, "ab")
    compact(store)
    write_bundle(store, RUN, bundle(window("c")))
    store.put("events/f1f1f1f1/c00000004-uncommitted-0.parquet", b"its publisher is still running")
    done = vacuum(InterruptedStore(store, lambda: publish(store, RUN)), retain_s=0)
    assert done.seq == 5
    assert set(contents(store.root)) == {"a", "b", "c"}
    assert not verify(store).problems


def test_old_checkpoints_are_deleted_and_the_log_can_be_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 2)
    publish_each(store, "abcdef")
    vacuum(store, retain_s=0)
    assert len(store.list("_checkpoints/")) == 1
    assert set(contents(store.root)) == set("abcdef")


# --------------------------------------------------- readers without this library


def named_lists(store: Store) -> list[str]:
    """The rows of the file lists that _latest.json names, as any reader finds them."""
    seq = json.loads(store.get("_latest.json"))["seq"]
    return [
        json.loads(line)["path"]
        for table in TABLES
        for line in store.get(f"_snapshots/{seq}/{table}.json").splitlines()
    ]


def publish_without_lists(store: Store, name: str) -> None:
    """A publisher that is killed after its commit, before it writes the file lists."""

    class Killed(CrashingStore):
        def put(self, key: str, data: bytes) -> None:
            if key.startswith("_snapshots/"):
                raise Crash
            super().put(key, data)

    write_bundle(store, RUN, bundle(window(name)))
    with pytest.raises(Crash):
        publish(Killed(store), RUN)


def test_after_a_kill_and_a_vacuum_latest_json_names_lists_that_exist(store: Store) -> None:
    publish_each(store, "a")
    publish_without_lists(store, "b")
    assert derived_seq(store) == 1
    vacuum(store, retain_s=0)
    assert derived_seq(store) == read_state(store).seq
    assert all(store.get(path) for path in named_lists(store))
    assert not verify(store).problems


def test_a_run_with_nothing_to_do_writes_lost_lists_again(store: Store) -> None:
    publish_each(store, "a")
    publish_without_lists(store, "b")
    publish(store, RUN)
    assert derived_seq(store) == 2
    store.delete(["_snapshots/2/events.json"])
    publish(store, RUN)
    assert len(named_lists(store)) == 2 * len(TABLES)


def test_verify_names_a_list_that_latest_json_needs_and_that_is_gone(store: Store) -> None:
    publish_each(store, "ab")
    store.delete(["_snapshots/2/events.json"])
    (problem,) = verify(store).problems
    assert "_snapshots/2/events.json: cannot be read" in problem


def test_verify_names_a_latest_json_of_no_commit(store: Store) -> None:
    publish_each(store, "ab")
    store.put("_latest.json", b'{"seq": 9}')
    (problem,) = verify(store).problems
    assert "_latest.json: names commit 9, but the newest is 2" in problem


class SlowStore(LocalStore):
    """After its commit, lets others commit and vacuum before its nth write."""

    def __init__(self, root: str, n: int) -> None:
        super().__init__(root)
        self._n_left = n
        self._is_committed = False

    def put_if_absent(self, key: str, data: bytes) -> bool:
        done = super().put_if_absent(key, data)
        self._is_committed |= key.startswith("_log/")
        return done

    def put(self, key: str, data: bytes) -> None:
        if self._is_committed and key != "_latest.json":
            if self._n_left == 0:
                publish_each(open_store(self.root), "xyz")
                vacuum(open_store(self.root), retain_s=0)
            self._n_left -= 1
        super().put(key, data)


@pytest.mark.parametrize("n", range(len(TABLES)))
def test_a_slow_publisher_cannot_bring_an_old_state_back(store: Store, n: int) -> None:
    publish_each(store, "a")
    write_bundle(store, RUN, bundle(window("slow")))
    publish(SlowStore(store.root, n), RUN)
    assert derived_seq(store) == read_state(store).seq > 2
    assert all(store.get(path) for path in named_lists(store))
    assert not verify(store).problems


# ------------------------------------------------------------------------- clocks


class SlowClock(datetime):
    """A clock that is eight days slow."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(time.time() - 8 * 86_400, tz)


@pytest.mark.parametrize("everyone", [False, True])
def test_a_slow_clock_takes_no_file_from_a_reader_of_a_second_ago(
    store: Store, monkeypatch: pytest.MonkeyPatch, everyone: bool
) -> None:
    if everyone:  # no record has a right time
        monkeypatch.setattr("pipeline.tables.publisher.datetime", SlowClock)
    publish_each(store, "abc")
    reader = open_snapshot(store.root)
    monkeypatch.setattr("pipeline.maintenance.compact.datetime", SlowClock)
    compact(store)
    assert vacuum(store).files == []
    assert reader.read("transcripts").num_rows == 6


def test_a_fast_clock_keeps_no_file_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class FastClock(SlowClock):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(time.time() + 3650 * 86_400, tz)

    monkeypatch.setattr("pipeline.tables.publisher.datetime", FastClock)
    monkeypatch.setattr("pipeline.maintenance.compact.datetime", FastClock)
    publish_each(store, "abc")
    compact(store)
    for path in Path(store.root, "_log").iterdir():
        os.utime(path, (time.time() - 8 * 86_400,) * 2)
    assert len(vacuum(store).files) == 3 * len(TABLES)


def test_a_vacuum_of_an_output_on_s3_asks_the_store_for_the_time(s3: S3) -> None:
    store = open_store(s3.new_bucket(), s3.storage_options)
    publish_each(store, "ab")
    compact(store)
    assert vacuum(store, retain_s=3600).files == []
    assert len(vacuum(store, retain_s=0).files) == 2 * len(TABLES)
    assert store.list("_probe/") == []


# ---------------------------------------------------------------------- leftovers


def test_a_killed_export_below_the_root_does_not_stop_a_vacuum(store: Store) -> None:
    publish_each(store, "a")
    foreign = Path(store.root, ".draft.tmp")
    foreign.write_text("a note of the user")
    old_program = Path(store.root, f".export.{'0' * 32}.tmp")
    old_program.mkdir()
    ours = make_unfinished_directory(Path(store.root, "exports", "nemo"))
    for path in (*ours.iterdir(), ours, old_program, foreign):
        os.utime(path, (0, 0))
    assert vacuum(store, retain_s=0).n_temporaries == 1
    assert (ours.exists(), old_program.exists(), foreign.exists()) == (False, True, True)
