"""The commit log: which files make up the tables. Knows records and their order, not file contents.

ROOT/_log/{seq:020d}.json is the record of one commit. It is written once, by a conditional PUT, and
never changed; records are numbered from 1 without a hole. The log alone decides: a file that no
record adds is not part of any table. All else that is written here (_checkpoints, _snapshots,
_latest.json) is derived from the log and can be lost and rebuilt.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pipeline.errors import StoreError
from pipeline.schema import LOGGED_TABLES, SCHEMA_VERSION, TABLES
from pipeline.storage.forward import put_forward
from pipeline.storage.read_twice import read_twice
from pipeline.storage.store import Store

# Raised when an older program would misread a record. Version 1 had neither sha256 nor forgotten,
# version 2 no reviews, version 3 neither measures nor quality.
LOG_VERSION = 4
CHECKPOINT_EVERY = 50  # commits: limits how many records a reader reads one by one
COMMIT_TRIES = 20  # commits that others made first, in a row, before a writer gives up
KEPT_LISTS = 10  # commits: a reader without this library has this long to open the files
LATEST = "_latest.json"

_LISTS = "_snapshots/"
_MOST_DELETED = 200  # old lists that one commit deletes; a vacuum deletes the rest of many

_SEQ = re.compile(r"/(\d{20})\.json$")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One parquet file of one table."""

    path: str  # key in the store
    rows: int
    bytes: int
    sha256: str
    fingerprint: str
    first_id: str  # smallest recording_id in the file
    last_id: str  # largest


@dataclass(frozen=True, slots=True)
class Record:
    """One commit, of all tables at once. `added` and `removed` are keyed by table."""

    seq: int
    commit_id: str
    run_id: str
    committed_at: str  # ISO 8601, UTC, by the clock of the writer; no decision depends on it
    schema_version: int
    added: Mapping[str, tuple[DataFile, ...]] = field(default_factory=dict)
    removed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    consumed: tuple[str, ...] = ()  # bundles with nothing left to publish
    opened: tuple[str, ...] = ()  # bundles of which only some recordings could be published
    unreadable: tuple[str, ...] = ()  # those of `consumed` that are damaged
    forgotten: tuple[str, ...] = ()  # consumed by an earlier commit, then deleted by a vacuum
    current_fingerprint: str = ""  # the default of readers from this commit on; "": unchanged
    runs: tuple[Mapping[str, str], ...] = ()  # RunInfo of the bundles whose rows were added


@dataclass(frozen=True, slots=True)
class State:
    """The sum of the first `seq` commits."""

    seq: int = 0
    current_fingerprint: str = ""
    files: Mapping[str, Mapping[str, DataFile]] = field(default_factory=dict)  # by table, path
    consumed: frozenset[str] = frozenset()  # without those that were forgotten
    opened: frozenset[str] = frozenset()

    def table(self, table: str, fingerprint: str) -> list[DataFile]:
        """The files of one table and fingerprint, sorted by path."""
        files = self.files.get(table, {})
        return [files[path] for path in sorted(files) if files[path].fingerprint == fingerprint]


def record_key(seq: int) -> str:
    return f"_log/{seq:020d}.json"


def new_record(seq: int, run_id: str, committed_at: datetime) -> Record:
    """A record of this program with a new commit_id; dataclasses.replace adds what it changes."""
    return Record(
        seq=seq,
        commit_id=uuid.uuid4().hex,
        run_id=run_id,
        committed_at=committed_at.isoformat(),
        schema_version=SCHEMA_VERSION,
    )


def write_record(store: Store, record: Record) -> bool:
    """Commit. False if another writer has this seq: read the state and build the record again."""
    values = asdict(record)
    values = {"log_version": LOG_VERSION, "sha256": _digest(values), **values}
    return store.put_if_absent(record_key(record.seq), json.dumps(values, indent=1).encode())


def read_record(store: Store, seq: int) -> Record:
    """One commit. Raises StoreError if the record is damaged, and still is when read again."""
    record = _find_record(store, seq)
    if record is None:
        raise _damaged(store, record_key(seq), "is missing")
    return record


def has_record(store: Store, seq: int) -> bool:
    """Whether commit `seq` was made."""
    try:
        store.get(record_key(seq))
    except FileNotFoundError:
        return False
    return True


def _find_record(store: Store, seq: int) -> Record | None:
    try:
        return read_twice(lambda: _read_record(store, seq), StoreError)
    except FileNotFoundError:
        return None


def _read_record(store: Store, seq: int) -> Record:
    key = record_key(seq)
    data = store.get(key)
    try:
        values = json.loads(data)
        if values["log_version"] > LOG_VERSION:
            raise StoreError(
                f"{store.uri(key)}: written by a newer version of this program; upgrade it"
            )
        record = _parse_record(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(store, key, f"cannot be read: {type(error).__name__}: {error}") from error
    if record.seq != seq:
        raise _damaged(store, key, f"has the seq {record.seq} in it")
    return record


def read_state(
    store: Store, seq: int | None = None, since: State | None = None, *, whole_log: bool = False
) -> State:
    """The state after commit `seq` (default: the newest).

    Reads the records after the newest usable checkpoint, or after `since` if that is newer, until
    one does not exist. It does not list the log: a year of minute commits has half a million
    records. So a lost record is found if a checkpoint or `_latest.json` shows that there are newer
    ones. With `whole_log` every record is looked for; writers ask for it once, at their start.
    Raises StoreError if a record is lost or unreadable, or if there is no commit `seq`.
    """
    listed = derived_seq(store)
    if whole_log:
        _check_log(store)
    state = since if since is not None and (seq is None or since.seq <= seq) else State()
    state = _newest_checkpoint(store, state, seq, listed)
    state = replay(store, state, _records_after(store, state.seq, seq))
    if seq is None and state.seq < listed:
        _check_log(store)  # raises if the missing record is a hole in the log
    if seq is not None and state.seq != seq:
        head = _check_log(store)
        raise StoreError(f"{store.root}: there is no commit {seq}; the newest is {head}")
    return state


def _records_after(store: Store, seq: int, last: int | None) -> Iterator[Record]:
    while last is None or seq < last:
        record = _find_record(store, seq + 1)
        if record is None:
            return
        yield record
        seq += 1


def _newest_checkpoint(store: Store, state: State, last: int | None, listed: int) -> State:
    """The newest usable checkpoint between `state` and commit `last`; `state` if there is none.

    `listed` is the commit that _latest.json names: it shows where the newest checkpoint is, without
    a list of them all.
    """
    expected = (listed if last is None else last) // CHECKPOINT_EVERY * CHECKPOINT_EVERY
    if 0 < expected <= state.seq:
        return state
    if expected and (found := _read_checkpoint(store, expected)):
        return found
    if expected or not listed:
        for number in reversed(_seqs(store, "_checkpoints/")):
            is_wanted = state.seq < number and (last is None or number <= last)
            if is_wanted and (found := _read_checkpoint(store, number)):
                return found
    return state


def replay(store: Store, state: State, records: Iterable[Record]) -> State:
    """`state` after more commits. Raises StoreError if one removes a file that is not in it."""
    files = {table: dict(state.files.get(table, {})) for table in LOGGED_TABLES}
    consumed, opened = set(state.consumed), set(state.opened)
    seq, current = state.seq, state.current_fingerprint
    for record in records:
        for table, paths in record.removed.items():
            for path in paths:
                if files[table].pop(path, None) is None:
                    key = record_key(record.seq)
                    raise _damaged(store, key, f"removes {path}, which no commit added")
        for table, added in record.added.items():
            files[table].update((file.path, file) for file in added)
        consumed.update(record.consumed)
        consumed.difference_update(record.forgotten)
        opened.update(record.opened)
        opened.difference_update(record.consumed)
        seq, current = record.seq, record.current_fingerprint or current
    return State(seq, current, files, frozenset(consumed), frozenset(opened))


def write_derived(store: Store, state: State) -> None:
    """Write the file lists of a snapshot, for readers without this library.

    `_snapshots/{seq}/{table}.json` has one {"path": ...} a line, for the current fingerprint;
    paths are relative to the root, so that an output can be moved. `_latest.json` names the seq. It
    is written last and only replaced by a newer one. Then lists older than the KEPT_LISTS newest
    are deleted: all of them would grow with the square of the commits. Every CHECKPOINT_EVERY
    commits, writes a checkpoint, too. All of it can be rebuilt from the log.
    """
    for table, lines in _lists(state).items():
        store.put(list_key(state.seq, table), lines)
    if state.seq % CHECKPOINT_EVERY == 0:
        _write_checkpoint(store, state)
    data = json.dumps({"seq": state.seq}).encode()
    if put_forward(store, LATEST, data, lambda present: _is_older(store, present, state.seq)):
        # Lists are deleted only after _latest.json names newer ones.
        keys = outdated_lists(store.list(_LISTS), state.seq - KEPT_LISTS + 1)
        with suppress(OSError):  # the next commit, or a vacuum, tries it again
            store.delete(keys[:_MOST_DELETED])


def repair_derived(store: Store, state: State) -> None:
    """Write the file lists again if a writer died before it wrote them, or if they were lost.

    Also if an older program wrote them, with absolute paths.
    """
    if derived_seq(store) != state.seq or not _has_lists(store, state):
        write_derived(store, state)


def outdated_lists(keys: Iterable[str], first_seq: int) -> list[str]:
    """Those of `keys` that are file lists of commits before `first_seq`, the oldest first."""
    found = [(list_seq(key), key) for key in keys]
    return [key for seq, key in sorted(found) if 0 < seq < first_seq]


def list_seq(key: str) -> int:
    """The commit that a file list describes; 0 for other keys."""
    folder, _, rest = key.partition("/")
    seq = rest.partition("/")[0]
    return int(seq) if f"{folder}/" == _LISTS and seq.isdigit() else 0


def list_key(seq: int, table: str) -> str:
    return f"{_LISTS}{seq}/{table}.json"


def _lists(state: State) -> dict[str, bytes]:
    """The content of the file list of each table."""
    return {
        table: "".join(
            json.dumps({"path": file.path}) + "\n"
            for file in state.table(table, state.current_fingerprint)
        ).encode()
        for table in TABLES
    }


def _has_lists(store: Store, state: State) -> bool:
    try:
        return all(
            store.get(list_key(state.seq, table)) == lines for table, lines in _lists(state).items()
        )
    except FileNotFoundError:
        return False


def _is_older(store: Store, present: bytes, seq: int) -> bool:
    """Whether a _latest.json may be replaced by one that names `seq`: not if it is newer."""
    named = _named_seq(present)
    return named <= seq or not has_record(store, named)  # a damaged one may name any number


def derived_seq(store: Store) -> int:
    """The seq that the derived files describe; 0 if they are missing or damaged."""
    try:
        return _named_seq(store.get(LATEST))
    except OSError:
        return 0


def _named_seq(latest: bytes) -> int:
    try:
        return int(json.loads(latest)["seq"])
    except (ValueError, KeyError, TypeError):
        return 0


def _check_log(store: Store) -> int:
    """The newest seq. Raises StoreError if a record is lost: its seq must not be used again."""
    # Checkpoints are listed before the log, so none in the list can be newer than the log's.
    checkpoints = _seqs(store, "_checkpoints/")
    seqs = _seqs(store, "_log/")
    if seqs != list(range(1, len(seqs) + 1)):
        missing = min(set(range(1, seqs[-1] + 1)) - set(seqs))
        raise _damaged(store, record_key(missing), f"is missing, but commit {seqs[-1]} exists")
    if checkpoints and checkpoints[-1] > len(seqs):
        key = record_key(checkpoints[-1])
        raise _damaged(store, key, "is missing, but its checkpoint exists")
    return len(seqs)


def _damaged(store: Store, key: str, complaint: str) -> StoreError:
    return StoreError(
        f"{store.uri(key)}: {complaint}; the commit log is damaged: restore this object from a "
        "backup or an older version; nothing can be committed before that"
    )


def _seqs(store: Store, prefix: str) -> list[int]:
    return sorted(int(match[1]) for key in store.list(prefix) if (match := _SEQ.search(key)))


def _digest(values: Mapping[str, Any]) -> str:
    """Guards a record: a flipped bit in it could hide files from readers or publishers."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _parse_record(values: dict[str, Any]) -> Record:
    log_version, digest = values.pop("log_version"), values.pop("sha256", "")
    if log_version > 1 and digest != _digest(values):
        raise ValueError("differs from what was committed (sha256)")
    for name in ("consumed", "opened", "unreadable", "forgotten", "runs"):
        values[name] = tuple(values.get(name, ()))
    values["removed"] = {table: tuple(paths) for table, paths in values["removed"].items()}
    values["added"] = {
        table: tuple(DataFile(**file) for file in files) for table, files in values["added"].items()
    }
    if unknown := {*values["added"], *values["removed"]} - set(LOGGED_TABLES):
        raise ValueError(f"unknown tables {sorted(unknown)}")
    return Record(**values)


def _checkpoint_key(seq: int) -> str:
    return f"_checkpoints/{seq:020d}.json"


def _write_checkpoint(store: Store, state: State) -> None:
    values = {
        "log_version": LOG_VERSION,
        "seq": state.seq,
        "current_fingerprint": state.current_fingerprint,
        "files": {
            table: [asdict(file) for file in files.values()] for table, files in state.files.items()
        },
        "consumed": sorted(state.consumed),
        "opened": sorted(state.opened),
    }
    body = json.dumps(values).encode()
    store.put(_checkpoint_key(state.seq), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _read_checkpoint(store: Store, seq: int) -> State | None:
    """The state; None if it is damaged or of a newer program, since the log can be replayed.

    Raises StoreError if the record of this commit is lost.
    """
    try:
        digest, _, body = store.get(_checkpoint_key(seq)).partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return None
        values = json.loads(body)
        if values["log_version"] > LOG_VERSION:
            return None
        files = {
            table: {file["path"]: DataFile(**file) for file in values["files"].get(table, ())}
            for table in LOGGED_TABLES
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not has_record(store, seq):
        raise _damaged(store, record_key(seq), "is missing, but its checkpoint exists")
    return State(
        values["seq"],
        values["current_fingerprint"],
        files,
        frozenset(values["consumed"]),
        frozenset(values["opened"]),
    )
