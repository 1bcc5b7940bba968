import itertools
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StoreError
from pipeline.maintenance.verify import verify
from pipeline.schema import TABLES
from pipeline.storage.store import Store, open_store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_record, read_state, record_key
from pipeline.tables.publisher import Published, Publisher, publish
from pipeline.tables.run_records import RunInfo
from tests.support.bundle_rows import OTHER_MODEL, OTHER_RUN, RUN, bundle, whole, window
from tests.support.s3_server import S3


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def contents(
    root: str, options: dict[str, Any] | None = None, fingerprint: str | None = None
) -> dict[str, tuple[str, str, int]]:
    """recording_id -> (status, version, attempts), once it is sure that the tables agree.

    The oracle of these tests: every recording once, every segment in each table once, all from one
    attempt, events with their segments, and every file as it was committed.
    """
    snapshot = open_snapshot(root, options, fingerprint=fingerprint)
    recordings = snapshot.read("recordings").to_pylist()
    ids = [row["recording_id"] for row in recordings]
    assert len(ids) == len(set(ids)), "a recording is there twice"
    by_id = {row["recording_id"]: row for row in recordings}
    transcripts = snapshot.read("transcripts").to_pylist()
    segment_ids = [row["segment_id"] for row in transcripts]
    expected = [f"{i}-{n:06d}" for i in by_id for n in range(by_id[i]["n_segments"])]
    assert Counter(segment_ids) == Counter(expected), "segments are missing or doubled"
    for table in ("languages", "emotions"):
        assert Counter(snapshot.read(table)["segment_id"].to_pylist()) == Counter(segment_ids)
    events = Counter(snapshot.read("events")["segment_id"].to_pylist())
    assert events == Counter(segment_ids * 2), "events are missing or doubled"
    attempts: dict[str, set[str]] = {}
    for row in transcripts:
        recording_id, version, attempt, _ = row["text"].split(" ")
        assert recording_id == row["recording_id"]
        assert version == by_id[recording_id]["version"], "a superseded label is still there"
        attempts.setdefault(recording_id, set()).add(attempt)
    assert all(len(found) == 1 for found in attempts.values()), "labels of two attempts are mixed"
    _check_files(root, options)
    return {i: (by_id[i]["status"], by_id[i]["version"], by_id[i]["attempts"]) for i in ids}


def _check_files(root: str, options: dict[str, Any] | None) -> None:
    store = open_store(root, options)
    for files in read_state(store).files.values():
        for file in files.values():
            assert sha256(store.get(file.path)).hexdigest() == file.sha256


def write_first(store: Store) -> None:
    """Seven recordings in three bundles: good, bad, and a long one across two bundles."""
    long = whole("long", 3)
    write_bundle(store, RUN, bundle(window("a"), window("b"), window("bad", error="NotAudio")))
    write_bundle(store, RUN, bundle(window("c"), *long[:2]))
    write_bundle(store, RUN, bundle(long[2], window("quiet", n_segments=0), window("a")))


FIRST = {
    "a": ("ok", "v1", 1),
    "b": ("ok", "v1", 1),
    "bad": ("error", "v1", 1),
    "c": ("ok", "v1", 1),
    "long": ("ok", "v1", 1),
    "quiet": ("ok", "v1", 1),
}


def write_second(store: Store) -> None:
    """Changed audio, a retried error, something new, and a zombie of the first run."""
    changed = window("b", version="v2", supersedes="b-v1:1")
    retried = window("bad", supersedes="bad-v1:1", attempts=2)
    write_bundle(store, OTHER_RUN, bundle(changed, retried, window("new")))
    write_bundle(store, RUN, bundle(window("c", attempt_id="zombie")))


SECOND = FIRST | {"b": ("ok", "v2", 1), "bad": ("ok", "v1", 2), "new": ("ok", "v1", 1)}


def test_a_bundle_becomes_rows_in_all_tables(store: Store) -> None:
    write_first(store)
    published = publish(store, RUN)
    assert published == Published(
        seq=1, n_recordings=6, n_errors=1, n_segments=14, audio_s=80.0, n_dropped=0
    )
    assert contents(store.root) == FIRST


def test_publishing_again_commits_nothing(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    assert publish(store, RUN) == Published(seq=1)


def test_the_tables_have_the_schemas_of_the_contract(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    snapshot = open_snapshot(store.root)
    for table, schema in TABLES.items():
        assert snapshot.read(table).schema.equals(schema)


def test_a_recording_keeps_its_row_of_facts(store: Store) -> None:
    rows = whole("long", 2, warning="clipped")
    rows[1]["warning"] = "cut short"
    rows[1] |= {"error_stage": "label", "error_type": "OutOfMemory", "error_message": "too much"}
    write_bundle(store, RUN, bundle(*reversed(rows)))
    publish(store, RUN)
    (row,) = open_snapshot(store.root).read("recordings").to_pylist()
    assert row.pop("committed_at").tzinfo is not None
    assert row == {
        "recording_id": "long",
        "uri": "/audio/long.wav",
        "offset_s": 0.0,
        "version": "v1",
        "status": "error",
        "error_stage": "label",
        "error_type": "OutOfMemory",
        "error_message": "too much",
        "warning": "clipped; cut short",
        "attempts": 1,
        "duration_s": 20.0,
        "labelled_s": 10.0,
        "silence_s": 10.0,
        "failed_s": 0.0,
        "n_segments": 4,
        "sample_rate_hz": 16_000,
        "channels": 1,
        "codec": "pcm_s16le",
        "bytes": 1000,
        "extra": [("corpus", "made up")],
        "model": "demo",
        "model_hash": RUN.model_hash,
        "fingerprint": RUN.fingerprint,
        "work_key": "long-v1",
        "run_id": "run-a",
    }


def test_segments_are_numbered_in_time_order_over_all_windows(store: Store) -> None:
    rows = whole("long", 3)
    rows[1]["segments"].reverse()
    write_bundle(store, RUN, bundle(rows[2], rows[0]))
    write_bundle(store, RUN, bundle(rows[1]))
    publish(store, RUN)
    transcripts = open_snapshot(store.root).read("transcripts")
    assert transcripts["segment_id"].to_pylist() == [f"long-{n:06d}" for n in range(6)]
    assert transcripts["start_s"].to_pylist() == [0.0, 4.0, 10.0, 14.0, 20.0, 24.0]


def test_labels_of_a_failed_recording_are_kept(store: Store) -> None:
    rows = whole("long", 2)
    rows[1] |= {"error_stage": "decode", "error_type": "Truncated", "segments": []}
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    snapshot = open_snapshot(store.root)
    assert snapshot.read("recordings")["status"].to_pylist() == ["error"]
    assert snapshot.read("transcripts").num_rows == 2


def test_files_are_sorted_by_recording(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("c"), window("a")))
    write_bundle(store, RUN, bundle(window("d"), window("b")))
    publish(store, RUN)
    (file,) = read_state(store).table("transcripts", RUN.fingerprint)
    ids = open_snapshot(store.root).read("transcripts")["recording_id"].to_pylist()
    assert ids == ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert (file.first_id, file.last_id) == ("a", "d")


def test_a_large_publish_makes_several_parts_in_one_commit(store: Store) -> None:
    for name in "abcdefgh":
        write_bundle(store, RUN, bundle(*whole(name, 2)))
    assert publish(store, RUN, part_bytes=4000).seq == 1
    assert len(read_state(store).table("transcripts", RUN.fingerprint)) > 1
    assert set(contents(store.root)) == set("abcdefgh")


def test_a_recording_waits_for_all_its_windows(store: Store) -> None:
    first, second, third = whole("long", 3)
    write_bundle(store, RUN, bundle(first, window("a")))
    write_bundle(store, RUN, bundle(third))
    assert publish(store, RUN).n_waiting == 1
    assert set(contents(store.root)) == {"a"}
    write_bundle(store, RUN, bundle(second))
    assert publish(store, RUN).n_recordings == 1
    assert set(contents(store.root)) == {"a", "long"}


def test_what_a_waiting_bundle_gave_before_is_not_counted_as_dropped(store: Store) -> None:
    first, second = whole("long", 2)
    write_bundle(store, RUN, bundle(first, window("a")))
    publish(store, RUN)
    write_bundle(store, RUN, bundle(second))
    assert publish(store, RUN).n_dropped == 0
    assert len(read_state(store).consumed) == 2


def test_waiting_alone_commits_nothing(store: Store) -> None:
    write_bundle(store, RUN, bundle(whole("long", 2)[0]))
    assert publish(store, RUN) == Published(seq=0, n_waiting=1)


def test_windows_of_two_attempts_are_never_mixed(store: Store) -> None:
    write_bundle(store, RUN, bundle(whole("long", 2, attempt_id="x")[0]))
    write_bundle(store, RUN, bundle(whole("long", 2, attempt_id="y")[1]))
    assert publish(store, RUN).n_recordings == 0
    write_bundle(store, RUN, bundle(whole("long", 2, attempt_id="y")[0]))
    published = publish(store, RUN)
    assert (published.n_recordings, published.n_dropped, published.n_waiting) == (1, 1, 0)
    assert set(contents(store.root)) == {"long"}


def test_a_window_that_was_labelled_twice_counts_once(store: Store) -> None:
    first, second = whole("long", 2)
    write_bundle(store, RUN, bundle(first))
    write_bundle(store, RUN, bundle(first))
    write_bundle(store, RUN, bundle(second))
    assert publish(store, RUN).n_segments == 4
    assert set(contents(store.root)) == {"long"}


def test_of_several_attempts_the_smallest_bundle_key_wins(store: Store) -> None:
    keys = {
        write_bundle(store, RUN, bundle(window("a", attempt_id=name))): name for name in "xyzuvw"
    }
    published = publish(store, RUN)
    assert (published.n_recordings, published.n_dropped) == (1, 5)
    text = open_snapshot(store.root).read("transcripts")["text"][0].as_py()
    assert text.split(" ")[2] == keys[min(keys)]


def test_a_zombie_bundle_is_dropped(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    write_bundle(store, RUN, bundle(window("a", attempt_id="zombie"), window("b")))
    published = publish(store, RUN)
    assert (published.n_recordings, published.n_dropped) == (0, 2)
    assert contents(store.root) == FIRST
    assert read_state(store).consumed == set(store.list("_bundles/"))


def test_a_zombie_of_a_superseded_version_is_dropped(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    write_second(store)
    publish(store, OTHER_RUN)
    late = window("b", version="v3", supersedes="b-v1:1")
    write_bundle(store, RUN, bundle(late, window("bad", supersedes="bad-v1:1", attempts=2)))
    assert publish(store, RUN).n_dropped == 2
    assert contents(store.root) == SECOND


def test_changed_audio_supersedes_in_one_commit(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    old = {path for files in read_state(store).files.values() for path in files}
    write_second(store)
    published = publish(store, OTHER_RUN)
    assert (published.seq, published.n_recordings, published.n_dropped) == (2, 3, 1)
    assert contents(store.root) == SECOND
    listed = {path for files in read_state(store).files.values() for path in files}
    assert not old & listed
    assert set(store.list("transcripts/")) & old, "the old files stay for older snapshots"
    assert open_snapshot(store.root, seq=1).read("recordings").num_rows == len(FIRST)


def test_a_retried_error_leaves_the_good_parts_alone(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    files = read_state(store).files["recordings"]
    write_bundle(store, RUN, bundle(window("bad", supersedes="bad-v1:1", attempts=2)))
    publish(store, RUN)
    (removed,) = read_record(store, 2).removed["recordings"]
    assert (files[removed].rows, files[removed].first_id) == (1, "bad")
    assert contents(store.root) == FIRST | {"bad": ("ok", "v1", 2)}


def test_an_error_may_fail_again(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("bad", error="Timeout")))
    publish(store, RUN)
    again = window("bad", error="Timeout", supersedes="bad-v1:1", attempts=2)
    write_bundle(store, RUN, bundle(again))
    publish(store, RUN)
    assert contents(store.root) == {"bad": ("error", "v1", 2)}


def test_rewritten_parts_are_merged(store: Store) -> None:
    for name in "abcd":
        write_bundle(store, RUN, bundle(window(name), window(f"{name}2")))
        publish(store, RUN)
    changed = [window(name, version="v2", supersedes=f"{name}-v1:1") for name in "abcd"]
    write_bundle(store, RUN, bundle(*changed))
    publish(store, RUN)
    assert len(read_state(store).table("recordings", RUN.fingerprint)) == 1
    assert len(contents(store.root)) == 8


def test_bundles_of_a_dead_run_are_adopted(store: Store) -> None:
    write_first(store)
    publish(store, OTHER_RUN)
    assert contents(store.root) == FIRST
    rows = open_snapshot(store.root).read("recordings", ["run_id"])
    assert set(rows["run_id"].to_pylist()) == {"run-a"}
    assert read_record(store, 1).runs[0]["run_id"] == "run-a"


def test_readers_see_a_new_model_when_its_run_is_complete(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("a"), window("b")))
    publish(store, RUN, make_current=True)
    write_bundle(store, OTHER_MODEL, bundle(window("a")))
    publish(store, OTHER_MODEL)
    assert open_snapshot(store.root).fingerprint == RUN.fingerprint
    assert set(contents(store.root, fingerprint=OTHER_MODEL.fingerprint)) == {"a"}
    publish(store, OTHER_MODEL, make_current=True)
    assert open_snapshot(store.root).fingerprint == OTHER_MODEL.fingerprint
    assert set(contents(store.root, fingerprint=RUN.fingerprint[:4])) == {"a", "b"}


def test_the_first_rows_of_all_are_current_at_once(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("a")))
    publish(store, RUN)
    assert open_snapshot(store.root).fingerprint == RUN.fingerprint


def test_a_run_without_recordings_can_be_current(store: Store) -> None:
    assert publish(store, RUN, make_current=True).seq == 1
    assert open_snapshot(store.root).read("transcripts").num_rows == 0


def test_two_models_are_published_in_one_commit(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("a")))
    write_bundle(store, OTHER_MODEL, bundle(window("a"), window("b")))
    assert publish(store, RUN, make_current=True).n_recordings == 3
    assert set(contents(store.root)) == {"a"}
    assert set(contents(store.root, fingerprint=OTHER_MODEL.fingerprint)) == {"a", "b"}


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_damaged_bundle_is_given_up_and_said(store: Store, keep: int) -> None:
    write_bundle(store, RUN, bundle(window("a")))
    key = write_bundle(store, RUN, bundle(window("b")))
    data = bytearray(store.get(key))
    data[len(data) // 3] ^= 0xFF
    store.put(key, bytes(data[:keep]))
    assert publish(store, RUN).n_unreadable == 1
    assert read_record(store, 1).unreadable == (key,)
    assert set(contents(store.root)) == {"a"}


def test_a_damaged_table_file_is_not_rewritten(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    path = next(iter(read_state(store).files["events"]))
    data = bytearray(store.get(path))
    data[100] ^= 0xFF
    store.put(path, bytes(data))
    write_second(store)
    with pytest.raises(StoreError, match="differs from what was committed"):
        publish(store, RUN)


def test_a_bundle_that_an_older_program_named_is_published(store: Store) -> None:
    key = write_bundle(store, RUN, bundle(window("a")))
    store.put(key.partition("-a/")[0] + "-a/0123456789abcdef.parquet", store.get(key))
    store.delete([key])
    assert publish(store, RUN).n_recordings == 1


def test_rows_whose_seconds_do_not_add_up_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="is not duration_s in 'a'"):
        write_bundle(store, RUN, bundle(window("a") | {"silence_s": 4.9}))


def test_rows_with_other_columns_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="wrong columns"):
        write_bundle(store, RUN, bundle(window("a")).drop_columns(["codec"]))


def test_lost_hints_are_written_again(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    store.delete([*store.list("_snapshots/"), "_latest.json"])
    publish(store, RUN)
    assert json.loads(store.get("_latest.json")) == {"seq": 1}
    assert len(store.list("_snapshots/")) == len(TABLES)


def test_a_publisher_that_stays_sees_what_others_commit(store: Store) -> None:
    publisher = Publisher(store, RUN)
    write_first(store)
    publisher.publish()
    write_second(store)
    publish(store, OTHER_RUN)
    write_bundle(store, RUN, bundle(window("b", version="v3", supersedes="b-v2:1")))
    assert publisher.publish().n_recordings == 1
    assert contents(store.root) == SECOND | {"b": ("ok", "v3", 1)}


class Crash(Exception):
    """The process died here."""


class CrashingStore:
    """A store whose process dies before or after its nth operation; n < 0: never."""

    def __init__(self, store: Store, n: int = -1, after: bool = False) -> None:
        self.root, self.filesystem, self.uri = store.root, store.filesystem, store.uri
        self.n_done = 0
        self._store, self._n, self._after = store, n, after
        self._lock = threading.Lock()

    def _do(self, operation: Callable[[], Any]) -> Any:
        with self._lock:
            turn = self.n_done
            self.n_done += 1
        if turn == self._n and not self._after:
            raise Crash
        result = operation()
        if turn == self._n:
            raise Crash
        return result

    def put(self, key: str, data: bytes) -> None:
        self._do(lambda: self._store.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return bool(self._do(lambda: self._store.put_if_absent(key, data)))

    def get(self, key: str) -> bytes:
        return bytes(self._do(lambda: self._store.get(key)))

    def list(self, prefix: str) -> Sequence[str]:
        return tuple(self._do(lambda: self._store.list(prefix)))

    def delete(self, keys: Iterable[str]) -> None:
        self._do(lambda: self._store.delete(keys))

    def sweep(self, older_s: float) -> int:
        return int(self._do(lambda: self._store.sweep(older_s)))


class TearingStore(CrashingStore):
    """Dies in the middle of its nth write: half of the bytes stay behind."""

    name = ".{}.torn.tmp"  # as LocalStore hides what it has not finished

    def __init__(self, store: Store, n: int) -> None:
        super().__init__(store)
        self._writes_left = n

    def _tear(self, key: str, data: bytes) -> None:
        if self._writes_left == 0:
            path = Path(self.uri(key))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(self.name.format(path.name)).write_bytes(data[: len(data) // 2])
            raise Crash
        self._writes_left -= 1

    def put(self, key: str, data: bytes) -> None:
        self._tear(key, data)
        super().put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._tear(key, data)
        return super().put_if_absent(key, data)


class Unhidden(TearingStore):
    """The negative control: writes under the final name at once."""

    name = "{}"


CRASHES: dict[str, Callable[[Store, int], CrashingStore]] = {
    "before": CrashingStore,
    "after": lambda store, n: CrashingStore(store, n, after=True),
    "torn": TearingStore,
}


def _first_scenario(store: Store) -> None:
    write_first(store)


def _second_scenario(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    write_second(store)


@pytest.mark.parametrize("moment", CRASHES)
@pytest.mark.parametrize(
    ("prepare", "expected"), [(_first_scenario, FIRST), (_second_scenario, SECOND)]
)
def test_a_crash_at_any_store_operation_leaves_every_recording_once(
    tmp_path: Path,
    prepare: Callable[[Store], None],
    expected: dict[str, tuple[str, str, int]],
    moment: str,
) -> None:
    """Each operation in turn, in three ways, of two publishes: 140 crashes, 0 violations."""
    prepare(open_store(str(tmp_path / "prepared")))
    for n in itertools.count():
        root = shutil.copytree(tmp_path / "prepared", tmp_path / str(n))
        store = open_store(str(root))
        crashing = CRASHES[moment](store, n)
        crashed = False
        try:
            publish(crashing, RUN, make_current=True)
        except Crash:
            crashed = True
            publish(store, OTHER_RUN)
        assert contents(store.root) == expected
        assert read_state(store).consumed == set(store.list("_bundles/"))
        if not crashed:
            break  # it never came to the nth operation: all were tried
    assert n > 10


def test_a_store_that_writes_under_the_final_name_can_tear_the_log(tmp_path: Path) -> None:
    _first_scenario(open_store(str(tmp_path / "prepared")))
    n_torn = 0
    for n in range(30):
        store = open_store(str(shutil.copytree(tmp_path / "prepared", tmp_path / str(n))))
        with suppress(Crash):
            publish(Unhidden(store, n), RUN)
        n_torn += bool(verify(store).problems)
    assert n_torn == 1


class Interrupted(CrashingStore):
    """Something else happens just before the record is written. May ignore the condition."""

    def __init__(self, store: Store, meanwhile: Callable[[], object], lies: bool = False) -> None:
        super().__init__(store)
        self._meanwhile: Iterator[Callable[[], object]] = iter([meanwhile])
        self._lies = lies

    def put_if_absent(self, key: str, data: bytes) -> bool:
        for meanwhile in self._meanwhile:
            meanwhile()
        if self._lies:
            self._store.put(key, data)
            return True
        return self._store.put_if_absent(key, data)


def _race(store: Store, lies: bool) -> None:
    """One publisher is about to commit `a` when another commits `a` and `b`."""
    write_bundle(store, RUN, bundle(window("a")))

    def other() -> None:
        write_bundle(store, OTHER_RUN, bundle(window("b")))
        publish(store, OTHER_RUN)

    publish(Interrupted(store, other, lies), RUN)


def test_a_publisher_that_lost_the_race_builds_its_commit_again(store: Store) -> None:
    _race(store, lies=False)
    assert set(contents(store.root)) == {"a", "b"}
    assert read_state(store).seq == 1, "the winner had taken everything"


def test_a_store_that_ignores_the_condition_loses_recordings(store: Store) -> None:
    _race(store, lies=True)  # the negative control: this oracle sees the loss
    assert set(contents(store.root)) == {"a"}


def test_bundles_that_vanish_while_publishing_start_it_over(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("a")))
    publisher = Publisher(store, RUN)
    hidden = store.list("_bundles/")[0]

    class Vanishing(CrashingStore):
        n_lists = 0

        def list(self, prefix: str) -> Sequence[str]:
            self.n_lists += prefix == "_bundles/"
            ghost = ["_bundles/run-a/ghost.parquet"] if self.n_lists == 1 else []
            return [*self._store.list(prefix), *(ghost if prefix == "_bundles/" else [])]

    publisher = Publisher(Vanishing(store), RUN)
    assert publisher.publish().n_recordings == 1
    assert read_state(store).consumed == {hidden}


def test_losing_for_ever_ends_with_an_explanation(store: Store) -> None:
    class Losing(CrashingStore):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            return False

    write_bundle(store, RUN, bundle(window("a")))
    with pytest.raises(StoreError, match="no commit in 20 tries, because other publishers"):
        publish(Losing(store), RUN)


def _contend(open_root: Callable[[], Store], n_publishers: int, n_rounds: int) -> list[Published]:
    """Publishers with bundles of their own and one recording that all of them have."""

    def work(name: str) -> list[Published]:
        store = open_root()
        run = RunInfo(f"run-{name}", RUN.fingerprint, "demo", RUN.model_hash, "none")
        results = []
        for turn in range(n_rounds):
            mine = [window(f"{name}{turn}{n}", attempt_id=name) for n in range(2)]
            shared = window(f"shared{turn}", attempt_id=name)
            write_bundle(store, run, bundle(*mine, shared))
            results.append(publish(store, run))
        return results

    with ThreadPoolExecutor(n_publishers) as pool:
        return [one for results in pool.map(work, "pqrs"[:n_publishers]) for one in results]


def _check_contention(
    root: str, options: dict[str, Any] | None, results: list[Published], n: int
) -> None:
    n_rounds = len(results) // n
    assert len(contents(root, options)) == n_rounds * (2 * n + 1)
    assert sum(one.n_recordings for one in results) == n_rounds * (2 * n + 1)
    assert sum(one.n_dropped for one in results) == n_rounds * (n - 1)


def test_contending_publishers_lose_and_double_nothing(tmp_path: Path) -> None:
    root = str(tmp_path)
    results = _contend(lambda: open_store(root), n_publishers=3, n_rounds=4)
    _check_contention(root, None, results, 3)


@pytest.mark.parametrize("fault", ["plain", "lost"])
def test_contending_publishers_on_s3_lose_and_double_nothing(s3: S3, fault: str) -> None:
    root, options = f"{s3.new_bucket(fault)}/root", s3.storage_options
    results = _contend(lambda: open_store(root, options), n_publishers=2, n_rounds=3)
    _check_contention(root, options, results, 2)


def test_a_commit_whose_answer_was_lost_is_known_as_our_own(s3: S3) -> None:
    store = open_store(s3.new_bucket("lost"), s3.storage_options)
    write_first(store)
    assert publish(store, RUN).seq == 1
    assert contents(store.root, s3.storage_options) == FIRST
    assert store.list("_log/") == [record_key(1)]
