"""Commit records, the state that they add up to, checkpoints and derived files."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.schema import SCHEMA_VERSION
from pipeline.storage.store import Store, open_store
from pipeline.tables import commit_log as commits
from pipeline.tables.commit_log import (
    LOG_VERSION,
    DataFile,
    Record,
    State,
    derived_seq,
    read_record,
    read_state,
    record_key,
    replay,
    write_derived,
    write_record,
)

FINGERPRINT = "f1" * 16


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def data_file(path: str) -> DataFile:
    return DataFile(path, 3, 100, "00", FINGERPRINT, "a", "c")


def record(seq: int, add: str = "", remove: str = "", current: str = "") -> Record:
    return Record(
        seq=seq,
        commit_id=f"commit-{seq}",
        run_id="run",
        committed_at="2026-01-01T00:00:00+00:00",
        schema_version=SCHEMA_VERSION,
        added={"events": (data_file(add),)} if add else {},
        removed={"events": (remove,)} if remove else {},
        consumed=(f"_bundles/run/{seq}.parquet",),
        runs=({"run_id": "run", "model": "demo"},),
        current_fingerprint=current,
    )


def write_log(store: Store, n_records: int) -> State:
    """Commit k adds file k and removes file k - 2. Writes the derived files, too."""
    state = State()
    for seq in range(1, n_records + 1):
        one = record(seq, add=f"events/{seq}", remove=f"events/{seq - 2}" if seq > 2 else "")
        assert write_record(store, one)
        state = replay(store, state, [one])
        write_derived(store, state)
    return state


def test_a_record_reads_back_as_it_was_written(store: Store) -> None:
    one = record(1, add="events/1", current=FINGERPRINT)
    write_record(store, one)
    assert read_record(store, 1) == one


def test_a_seq_is_committed_once(store: Store) -> None:
    assert write_record(store, record(1, add="events/first"))
    assert not write_record(store, record(1, add="events/second"))
    assert list(read_state(store).files["events"]) == ["events/first"]


def test_an_empty_root_is_at_commit_zero(store: Store) -> None:
    assert read_state(store).seq == 0


def test_the_state_is_what_was_added_and_not_removed(store: Store) -> None:
    write_log(store, 3)
    state = read_state(store)
    assert [file.path for file in state.table("events", FINGERPRINT)] == ["events/2", "events/3"]
    assert state.consumed == {f"_bundles/run/{seq}.parquet" for seq in (1, 2, 3)}


def test_an_older_commit_can_be_read(store: Store) -> None:
    write_log(store, 3)
    assert list(read_state(store, seq=2).files["events"]) == ["events/1", "events/2"]


def test_a_commit_that_does_not_exist_is_an_error(store: Store) -> None:
    write_log(store, 3)
    with pytest.raises(StoreError, match="no commit 7; the newest is 3"):
        read_state(store, seq=7)


def test_reading_from_a_known_state_gives_the_same_state(store: Store) -> None:
    write_log(store, 5)
    assert read_state(store, since=read_state(store, seq=2)) == read_state(store)


def test_the_current_fingerprint_stays_until_a_commit_names_another(store: Store) -> None:
    for seq, fingerprint in enumerate(["aa", "", "bb", ""], start=1):
        write_record(store, record(seq, current=fingerprint))
    seen = [read_state(store, seq).current_fingerprint for seq in (1, 2, 3, 4)]
    assert seen == ["aa", "aa", "bb", "bb"]


def test_a_bundle_stays_open_until_it_is_consumed(store: Store) -> None:
    key = "_bundles/run/2.parquet"
    write_record(store, replace(record(1), opened=(key,)))
    assert read_state(store).opened == {key}
    write_record(store, record(2))
    assert read_state(store).opened == frozenset()


def test_a_hole_in_the_log_stops_everything(store: Store) -> None:
    write_log(store, 4)
    store.delete([record_key(2)])
    with pytest.raises(StoreError, match=r"0002\.json: is missing, but commit 4 exists"):
        read_state(store)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"log_version": 1}', b'{"log_version": 1, "seq": 2, "colour": 3}'],
)
def test_an_unreadable_record_stops_everything(store: Store, content: bytes) -> None:
    write_log(store, 3)
    store.put(record_key(2), content)
    with pytest.raises(StoreError, match=r"0002\.json: .* the commit log is damaged"):
        read_state(store)


@pytest.mark.parametrize(
    ("text", "wrong"), [(b"events/1", b"events/9"), (b'"rows": 3,', b'"rows": 7,')]
)
def test_a_record_that_was_changed_stops_everything(
    store: Store, text: bytes, wrong: bytes
) -> None:
    write_log(store, 3)
    data = store.get(record_key(1))
    assert text in data
    store.put(record_key(1), data.replace(text, wrong))
    with pytest.raises(StoreError, match=r"0001\.json: .*sha256.* the commit log is damaged"):
        read_state(store)


def test_a_record_of_an_older_program_can_be_read(store: Store) -> None:
    write_log(store, 2)
    values = json.loads(store.get(record_key(1))) | {"log_version": 1}
    del values["sha256"], values["forgotten"]
    store.put(record_key(1), json.dumps(values).encode())
    assert list(read_state(store).files["events"]) == ["events/1", "events/2"]


def test_a_record_with_another_seq_than_its_name_stops_everything(store: Store) -> None:
    write_log(store, 3)
    store.put(record_key(2), store.get(record_key(1)))
    with pytest.raises(StoreError, match="has the seq 1 in it"):
        read_state(store)


def test_removing_an_unknown_file_stops_everything(store: Store) -> None:
    write_record(store, record(1, remove="events/0"))
    with pytest.raises(StoreError, match="removes events/0, which no commit added"):
        read_state(store)


def test_a_record_of_a_newer_program_asks_for_an_upgrade(store: Store) -> None:
    write_log(store, 1)
    values = json.loads(store.get(record_key(1)))
    store.put(record_key(1), json.dumps(values | {"log_version": LOG_VERSION + 1}).encode())
    with pytest.raises(StoreError, match="written by a newer version"):
        read_state(store)


def test_foreign_files_beside_the_log_are_ignored(store: Store) -> None:
    write_log(store, 2)
    store.put("_log/README.txt", b"hello")
    store.put("_log/.DS_Store", b"hello")
    assert read_state(store).seq == 2


def test_the_derived_lists_name_the_files_of_the_current_fingerprint(store: Store) -> None:
    write_record(store, record(1, add="events/1", current=FINGERPRINT))
    write_derived(store, read_state(store))
    lines = store.get("_snapshots/1/events.json").decode().splitlines()
    assert [json.loads(line) for line in lines] == [{"path": "events/1"}]
    assert derived_seq(store) == 1


def test_the_log_gives_the_same_state_without_derived_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 3)
    write_log(store, 8)
    expected = read_state(store)
    store.delete([key for key in store.list("") if not key.startswith("_log/")])
    assert read_state(store) == expected
    assert derived_seq(store) == 0


class CountingStore:
    """Counts the records that are read, and notes what is listed."""

    def __init__(self, store: Store) -> None:
        self.n_records_read = 0
        self.listed: list[str] = []
        self.root, self.filesystem, self.uri = store.root, store.filesystem, store.uri
        self.put, self.put_if_absent, self.delete = store.put, store.put_if_absent, store.delete
        self.sweep, self._get, self._list = store.sweep, store.get, store.list

    def list(self, prefix: str) -> Sequence[str]:
        self.listed.append(prefix)
        return self._list(prefix)

    def get(self, key: str) -> bytes:
        self.n_records_read += key.startswith("_log/")
        return self._get(key)


def test_with_a_checkpoint_only_newer_records_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 5)
    written = write_log(store, 12)
    counting = CountingStore(store)
    assert read_state(counting) == written
    assert counting.n_records_read == 4, "10, 11, 12, and 13, which does not exist"
    assert counting.listed == []


def test_a_known_state_is_continued_without_a_list_of_the_log(store: Store) -> None:
    written = write_log(store, 12)
    known = read_state(store, 11)
    counting = CountingStore(store)
    assert read_state(counting, since=known) == written
    assert (counting.n_records_read, counting.listed) == (2, [])


def test_without_latest_json_the_newest_checkpoint_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 5)
    written = write_log(store, 12)
    store.delete(["_latest.json"])
    counting = CountingStore(store)
    assert read_state(counting) == written
    assert (counting.n_records_read, counting.listed) == (4, ["_checkpoints/"])


def test_a_hole_that_only_a_list_of_the_log_shows_stops_writers(store: Store) -> None:
    write_log(store, 4)
    store.delete([record_key(2), "_latest.json"])
    with pytest.raises(StoreError, match=r"0002\.json: is missing, but commit 4 exists"):
        read_state(store, whole_log=True)
    with pytest.raises(StoreError, match=r"0002\.json: is missing, but commit 4 exists"):
        read_state(store, seq=4)


@pytest.mark.parametrize("seq", [-1, 5])
def test_a_commit_beyond_the_log_does_not_exist(store: Store, seq: int) -> None:
    write_log(store, 4)
    with pytest.raises(StoreError, match=f"no commit {seq}; the newest is 4"):
        read_state(store, seq)


def test_a_latest_json_that_is_behind_changes_no_state(store: Store) -> None:
    written = write_log(store, 4)
    store.put("_latest.json", b'{"seq": 2}')
    assert read_state(store) == written


def test_only_the_newest_file_lists_are_kept(store: Store) -> None:
    write_log(store, 25)
    seqs = {int(key.split("/")[1]) for key in store.list("_snapshots/")}
    assert seqs == set(range(16, 26))
    folders = [path for path in Path(store.root, "_snapshots").iterdir() if path.is_dir()]
    assert len(folders) == 10, "no empty directories are left"


def test_the_space_of_file_lists_does_not_grow_with_the_commits(store: Store) -> None:
    """A file is added and one removed each time: the lists of ten commits stay."""
    sizes = []
    for n in (20, 40):
        write_log(open_store(f"{store.root}/{n}"), n)
        lists = Path(store.root, str(n), "_snapshots").rglob("*.json")
        sizes.append(sum(path.stat().st_size for path in lists))
    assert sizes[0] == sizes[1]


def test_lists_that_latest_json_names_are_not_deleted(store: Store) -> None:
    """A store on which _latest.json cannot be replaced keeps the lists that it names."""
    write_log(store, 3)

    class Stuck(CountingStore):
        def put_forward(self, key: str, data: bytes, is_older: object) -> bool:
            return False

    for seq in range(4, 30):
        assert write_record(store, record(seq))
        write_derived(Stuck(store), read_state(store))
    assert derived_seq(store) == 3
    assert "_snapshots/3/events.json" in store.list("_snapshots/")


def test_a_slow_writer_does_not_put_latest_json_back(store: Store) -> None:
    write_log(store, 3)
    write_derived(store, read_state(store, 2))
    assert derived_seq(store) == 3


def test_a_latest_json_of_a_commit_that_was_never_made_is_replaced(store: Store) -> None:
    written = write_log(store, 3)
    store.put("_latest.json", b'{"seq": 7}')
    write_derived(store, written)
    assert derived_seq(store) == 3


@pytest.mark.parametrize("damage", [b"", b"rubbish", b"\n{}"])
def test_a_damaged_checkpoint_is_not_used(
    store: Store, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 5)
    written = write_log(store, 12)
    store.put(f"_checkpoints/{10:020d}.json", damage)
    assert read_state(store) == written


def test_a_lost_last_record_is_found_by_its_checkpoint(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 5)
    write_log(store, 5)
    store.delete([record_key(5)])
    with pytest.raises(StoreError, match="is missing, but its checkpoint exists"):
        read_state(store)
