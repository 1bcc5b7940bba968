"""Commit records, the state that they add up to, checkpoints and derived files."""

import json
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


@pytest.mark.parametrize(("text", "wrong"), [(b"events/1", b"events/9"), (b": 3,", b": 7,")])
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
    assert [json.loads(line) for line in lines] == [{"path": store.uri("events/1")}]
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
    """Counts the records that are read."""

    def __init__(self, store: Store) -> None:
        self.n_records_read = 0
        self.root, self.filesystem, self.uri, self.list = (
            store.root,
            store.filesystem,
            store.uri,
            store.list,
        )
        self.put, self.put_if_absent, self.delete = store.put, store.put_if_absent, store.delete
        self.sweep, self._get = store.sweep, store.get

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
    assert counting.n_records_read == 2


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
