"""Rare cases of commits, checkpoints, bundles and snapshots."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import StoreError
from pipeline.maintenance.compact import compact
from pipeline.maintenance.verify import verify
from pipeline.schema import BUNDLE, SCHEMA_VERSION, TABLES
from pipeline.storage.store import LocalStore, Store, open_store
from pipeline.tables import bundles, commit_log, connect, open_snapshot
from pipeline.tables.bundles import ADDED_LATER, read_bundle, write_bundle
from pipeline.tables.commit_log import LOG_VERSION, read_state, record_key, write_derived
from pipeline.tables.ledger import ledger, ledger_parts
from pipeline.tables.parquet import from_parquet, read_files, to_parquet
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, whole, window
from tests.support.small_output import contents
from tests.tables.test_commit_log import write_log

CHECKPOINT = f"_checkpoints/{5:020d}.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def publish_each(store: Store, *groups: str) -> None:
    """A commit for every group of letters, a recording for every letter."""
    for names in groups:
        write_bundle(store, RUN, bundle(*map(window, names)))
        publish(store, RUN)


# --------------------------------------------------------------------- checkpoints


@pytest.fixture
def long_log(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Seven commits, and a checkpoint at the fifth."""
    monkeypatch.setattr(commit_log, "CHECKPOINT_EVERY", 5)
    write_log(store, 7)
    return store


def rewrite_checkpoint(store: Store, *, with_checksum: bool, **changes: Any) -> None:
    head, _, body = store.get(CHECKPOINT).partition(b"\n")
    changed = json.dumps(json.loads(body) | changes).encode()
    assert changed != body
    if with_checksum:
        head = hashlib.sha256(changed).hexdigest().encode()
    store.put(CHECKPOINT, head + b"\n" + changed)


def test_a_checkpoint_begins_with_the_sha256_of_the_rest(long_log: Store) -> None:
    head, _, body = long_log.get(CHECKPOINT).partition(b"\n")
    assert head.decode() == hashlib.sha256(body).hexdigest()


def test_a_checkpoint_with_a_wrong_checksum_is_not_used(long_log: Store) -> None:
    """With a changed digit it is still JSON, so only the checksum can show the fault."""
    expected = read_state(long_log)
    rewrite_checkpoint(long_log, with_checksum=False, current_fingerprint="damaged")
    assert read_state(long_log) == expected


def test_a_checkpoint_of_a_newer_program_is_not_used(long_log: Store) -> None:
    expected = read_state(long_log)
    changes: dict[str, Any] = {"log_version": LOG_VERSION + 1, "current_fingerprint": "new"}
    rewrite_checkpoint(long_log, with_checksum=True, **changes)
    assert read_state(long_log) == expected


def test_a_good_checkpoint_is_used(long_log: Store) -> None:
    """The control of the two tests before."""
    rewrite_checkpoint(long_log, with_checksum=True, current_fingerprint="other")
    assert read_state(long_log).current_fingerprint == "other"
    assert read_state(long_log, 4).current_fingerprint == ""


def test_a_newer_known_state_is_not_used_for_an_older_commit(long_log: Store) -> None:
    newer = read_state(long_log, 6)
    assert read_state(long_log, 2, since=newer) == read_state(long_log, 2)
    assert read_state(long_log, 2, since=newer).seq == 2


def test_a_later_checkpoint_is_not_used_for_an_older_commit(long_log: Store) -> None:
    long_log.delete(["_latest.json"])  # without it the checkpoints are listed
    assert read_state(long_log, 4).seq == 4
    assert read_state(long_log, 5).seq == 5


@pytest.mark.parametrize("damage", [b"", b"rubbish"])
def test_a_writer_is_stopped_if_the_log_ends_before_its_checkpoint(
    long_log: Store, damage: bytes
) -> None:
    """Even a checkpoint that cannot be read shows that there was such a commit."""
    long_log.delete([record_key(seq) for seq in (5, 6, 7)])
    long_log.put(CHECKPOINT, damage or long_log.get(CHECKPOINT))
    with pytest.raises(StoreError, match=r"0005\.json: .*checkpoint"):
        read_state(long_log, whole_log=True)


def test_a_checkpoint_is_written_every_so_many_commits(long_log: Store) -> None:
    assert long_log.list("_checkpoints/") == [CHECKPOINT]


# ------------------------------------------------------------------------- records


def test_a_record_of_an_unknown_table_stops_everything(store: Store) -> None:
    write_log(store, 1)
    values = json.loads(store.get(record_key(1))) | {"log_version": 1, "added": {"speakers": []}}
    store.put(record_key(1), json.dumps(values).encode())
    with pytest.raises(StoreError, match=r"unknown tables \['speakers'\]"):
        read_state(store)


class NotingStore(LocalStore):
    """Notes the keys of all puts, in order."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.keys: list[str] = []

    def put(self, key: str, data: bytes) -> None:
        self.keys.append(key)
        super().put(key, data)


def test_latest_json_is_written_after_the_file_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_log, "CHECKPOINT_EVERY", 1)
    noting = NotingStore(str(tmp_path))
    write_derived(noting, write_log(open_store(str(tmp_path)), 1))
    assert noting.keys[-1] == "_latest.json"
    assert len(noting.keys) == len(TABLES) + 2


# ------------------------------------------------------------------------- bundles


@pytest.mark.parametrize(("index", "count"), [(0, 3), (1, 1), (2, 1), (-1, 0)])
def test_a_window_whose_index_does_not_fit_its_count_is_refused(
    store: Store, index: int, count: int
) -> None:
    row = window("a") | {"window_index": index, "n_windows": count}
    with pytest.raises(ValueError, match=r"n_windows must be 0.* in 'a' \(1 rows\)"):
        write_bundle(store, RUN, bundle(window("b"), row))


@pytest.mark.parametrize(("missing_s", "is_good"), [(0.0004, True), (0.0006, False)])
def test_seconds_may_miss_the_duration_by_half_a_millisecond(
    store: Store, missing_s: float, is_good: bool
) -> None:
    for sign in (1, -1):
        row = window("a") | {"silence_s": 5.0 + sign * missing_s}
        if is_good:
            write_bundle(store, RUN, bundle(row))
        else:
            with pytest.raises(ValueError, match="is not duration_s"):
                write_bundle(store, RUN, bundle(row))


def test_a_bundle_of_a_newer_program_asks_for_an_upgrade(store: Store) -> None:
    key = write_bundle(store, RUN, bundle(window("a")))
    rows = from_parquet(store.get(key))
    metadata = {name.decode(): value.decode() for name, value in rows.schema.metadata.items()}
    newer = metadata | {"schema_version": str(SCHEMA_VERSION + 1)}
    store.put("_bundles/run-a/newer.parquet", to_parquet(rows, newer))
    with pytest.raises(StoreError, match=r"newer\.parquet: written by a newer program"):
        read_bundle(store, "_bundles/run-a/newer.parquet")


def test_a_bundle_that_names_another_run_than_it_was_written_by_is_damaged(store: Store) -> None:
    """Page checksums do not cover the footer, in which the run stands."""
    key = write_bundle(store, RUN, bundle(window("a")))
    data = store.get(key)
    assert data.count(b'"run_id": "run-a"') >= 1
    store.put(key, data.replace(b'"run_id": "run-a"', b'"run_id": "run-b"'))
    assert read_bundle(store, key) is None
    assert publish(store, RUN).n_unreadable == 1


def test_windows_with_wrong_numbers_do_not_complete_a_recording(store: Store) -> None:
    last = window("long", index=1, n_windows=2)
    beyond = window("long", index=5, n_windows=9)
    write_bundle(store, RUN, bundle(last, beyond))
    published = publish(store, RUN)
    assert (published.n_recordings, published.n_waiting) == (0, 1)


def write_older_bundle(store: Store, monkeypatch: pytest.MonkeyPatch, *names: str) -> str:
    """A bundle as a program before ADDED_LATER wrote it."""
    kept = [name for name in BUNDLE.names if name not in ADDED_LATER]
    older = pa.schema([BUNDLE.field(name) for name in kept])
    with monkeypatch.context() as patched:
        patched.setattr(bundles, "BUNDLE", older)
        return write_bundle(store, RUN, bundle(*map(window, names)).select(kept))


def test_a_bundle_of_an_older_program_is_published(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = write_older_bundle(store, monkeypatch, "a")
    found = read_bundle(store, key)
    assert found is not None
    assert found[1].schema.equals(BUNDLE)
    (row,) = found[1].select(list(ADDED_LATER)).to_pylist()
    assert row == dict(ADDED_LATER)
    assert publish(store, RUN).n_unreadable == 0
    assert set(contents(store.root)) == {"a"}


def test_bundles_of_older_and_newer_programs_make_one_part(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_older_bundle(store, monkeypatch, "a")
    write_bundle(store, RUN, bundle(window("b")))
    assert publish(store, RUN).n_recordings == 2
    assert verify(store).problems == []


def test_a_bundle_without_a_column_that_was_always_there_is_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = pa.schema([field for field in BUNDLE if field.name != "codec"])
    monkeypatch.setattr(bundles, "BUNDLE", older)
    key = write_bundle(store, RUN, bundle(window("a")).drop_columns(["codec"]))
    monkeypatch.undo()
    assert read_bundle(store, key) is None


def publish_older(store: Store, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A part as a program without the nullable columns wrote it."""
    schema = TABLES["recordings"]
    older = pa.schema([field for field in schema if not field.nullable])
    with monkeypatch.context() as patched:
        patched.setitem(TABLES, "recordings", older)
        publish_each(store, *names)


def test_parts_of_older_programs_are_merged_with_new_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_older(store, monkeypatch, "a")
    publish_each(store, "b")
    changed = window("a", version="v2", supersedes="a-v1:1")
    assert compact(store).n_parts_after == 1
    write_bundle(store, RUN, bundle(changed))
    publish(store, RUN)
    assert contents(store.root) == {"a": ("ok", "v2", 1), "b": ("ok", "v1", 1)}
    assert verify(store).problems == []


def test_a_column_that_no_file_has_is_null_in_sql(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_older(store, monkeypatch, "a")
    added = [field.name for field in TABLES["recordings"] if field.nullable]
    assert added
    with connect(store.root) as connection:
        rows = connection.execute(f"SELECT recording_id, {added[0]} FROM recordings").fetchall()
        assert rows == [("a", None)]
        described = connection.execute("DESCRIBE recordings").fetchall()
    names = TABLES["recordings"].names + TABLES["measures"].names[2:]
    assert [row[0] for row in described] == names


def test_columns_of_a_newer_program_are_not_lost_by_a_compaction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = TABLES["recordings"].append(pa.field("speaker", pa.string()))
    publish_each(store, "ab")
    shorter = pa.schema([field for field in newer if field.name not in ("gap_s", "speaker")])
    monkeypatch.setitem(TABLES, "recordings", shorter)
    publish_each(store, "c")
    with pytest.raises(StoreError, match="a newer program wrote it, with the column gap_s"):
        compact(store)


class RottingStore(LocalStore):
    """A bundle can be read once; after that it is damaged."""

    reads = 0

    def get(self, key: str) -> bytes:
        data = super().get(key)
        if not key.startswith("_bundles/"):
            return data
        self.reads += 1
        return data if self.reads == 1 else data[:100]


def test_a_bundle_damaged_between_two_reads_stops_the_publisher(store: Store) -> None:
    key = write_bundle(store, RUN, bundle(window("a")))
    with pytest.raises(StoreError, match=f"{key}: was readable .* damaged now"):
        publish(RottingStore(store.root), RUN)
    assert read_state(store).seq == 0
    assert publish(store, RUN).n_recordings == 1


def test_windows_of_one_recording_in_distant_bundles_are_in_one_part(store: Store) -> None:
    first, second = whole("long", 2)
    for rows in ([first, window("a")], [window("b"), window("c")], [window("d"), second]):
        write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN, part_bytes=1)
    assert set(contents(store.root)) == {"a", "b", "c", "d", "long"}
    assert verify(store).problems == []


# --------------------------------------------------------------- snapshots and parts


def test_a_fingerprint_that_fits_two_models_is_refused(store: Store) -> None:
    for letter in "ab":
        model = replace(RUN, run_id=f"run-{letter}", fingerprint=f"f1{letter}" + "0" * 29)
        write_bundle(store, model, bundle(window("x")))
        publish(store, model)
    with pytest.raises(StoreError, match=r"'f1' fits \['f1a0+', 'f1b0+'\] of"):
        open_snapshot(store.root, fingerprint="f1")
    assert open_snapshot(store.root, fingerprint="f1b").fingerprint.startswith("f1b")
    with pytest.raises(StoreError, match="'' fits none of"):
        open_snapshot(store.root, fingerprint="")


def test_the_ledger_is_complete_with_more_files_than_are_read_at_a_time(store: Store) -> None:
    """Eight are read at a time."""
    names = "abcdefghijklmnopqrst"
    publish_each(store, *names)
    assert ledger(store.root, fingerprint=RUN.fingerprint).num_rows == 20
    parts = list(ledger_parts(store.root, fingerprint=RUN.fingerprint))
    assert [part.num_rows for part in parts] == [8, 8, 4]


def test_compacted_parts_that_interleave_are_sorted(store: Store) -> None:
    publish_each(store, "ac", "bd")
    compact(store)
    (path,) = read_state(store).files["recordings"]
    for table in ("recordings", "transcripts"):
        ids = read_files(store, table, [path.replace("recordings", table, 1)])["recording_id"]
        assert list(dict.fromkeys(ids.to_pylist())) == ["a", "b", "c", "d"]
        assert ids.to_pylist() == sorted(ids.to_pylist())
    (file,) = read_state(store).files["recordings"].values()
    assert (file.first_id, file.last_id, file.rows) == ("a", "d", 4)
    assert verify(store).problems == []


def test_parts_are_listed_by_their_first_recording(store: Store) -> None:
    publish_each(store, "c", "a", "b")
    snapshot = open_snapshot(store.root)
    first = [snapshot.state.files["recordings"][key].first_id for key in snapshot.parts()]
    assert first == ["a", "b", "c"]


def test_a_nullable_column_that_an_older_file_lacks_is_null(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_each(store, "a")
    longer = TABLES["events"].append(pa.field("added_later", pa.float32()))
    monkeypatch.setitem(TABLES, "events", longer)
    read = open_snapshot(store.root).read("events")
    assert read.schema == longer
    assert read["added_later"].to_pylist() == [None] * 4
    assert read["event"].to_pylist() == ["speech", "laughter"] * 2


def test_a_missing_column_that_is_not_nullable_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_each(store, "a")
    added = pa.field("added_later", pa.float32(), nullable=False)
    monkeypatch.setitem(TABLES, "events", TABLES["events"].append(added))
    with pytest.raises(StoreError, match="it has no column added_later"):
        open_snapshot(store.root).read("events")


def test_each_model_has_its_own_ledger(store: Store) -> None:
    publish_each(store, "ab")
    write_bundle(store, OTHER_MODEL, bundle(window("c")))
    publish(store, OTHER_MODEL)
    held = ledger(store.root, fingerprint=OTHER_MODEL.fingerprint)
    assert held["recording_id"].to_pylist() == ["c"]
