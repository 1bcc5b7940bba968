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
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pipeline.errors import StoreError
from pipeline.schema import SCHEMA_VERSION, TABLES
from pipeline.storage.read_twice import read_twice
from pipeline.storage.store import Store

# Raised when an older program would misread a record. Version 1 had neither sha256 nor forgotten.
LOG_VERSION = 2
CHECKPOINT_EVERY = 50  # commits: limits how many records a reader reads one by one
COMMIT_TRIES = 20  # commits that others made first, in a row, before a writer gives up

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
    committed_at: str  # ISO 8601, UTC; only the retention of vacuum depends on it
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
    return read_twice(lambda: _read_record(store, seq), StoreError)


def _read_record(store: Store, seq: int) -> Record:
    key = record_key(seq)
    try:
        values = json.loads(store.get(key))
        if values["log_version"] > LOG_VERSION:
            raise StoreError(
                f"{store.uri(key)}: written by a newer version of this program; upgrade it"
            )
        record = _parse_record(values)
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        raise _damaged(store, key, f"cannot be read: {type(error).__name__}: {error}") from error
    if record.seq != seq:
        raise _damaged(store, key, f"has the seq {record.seq} in it")
    return record


def read_state(store: Store, seq: int | None = None, since: State | None = None) -> State:
    """The state after commit `seq` (default: the newest).

    Starts from the newest usable checkpoint, or from `since` if that is newer. Raises StoreError if
    the log has a hole, an unreadable record, or no commit `seq`.
    """
    # Checkpoints are listed before the log, so none in the list can be newer than the log's.
    checkpoints = _seqs(store, "_checkpoints/")
    head = _check_log(store, checkpoints)
    wanted = head if seq is None else seq
    if not 0 <= wanted <= head:
        raise StoreError(f"{store.root}: there is no commit {wanted}; the newest is {head}")
    state = since if since is not None and since.seq <= wanted else State()
    for number in reversed([n for n in checkpoints if state.seq < n <= wanted]):
        if checkpoint := _read_checkpoint(store, number):
            state = checkpoint
            break
    records = (read_record(store, number) for number in range(state.seq + 1, wanted + 1))
    return replay(store, state, records)


def replay(store: Store, state: State, records: Iterable[Record]) -> State:
    """`state` after more commits. Raises StoreError if one removes a file that is not in it."""
    files = {table: dict(state.files.get(table, {})) for table in TABLES}
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
    """Write the file lists of the newest snapshot, for readers without this library.

    Every CHECKPOINT_EVERY commits, write a checkpoint, too. `_snapshots/{seq}/{table}.json` has one
    {"path": ...} a line, for the current fingerprint. `_latest.json` names the seq and is written
    last. All of it can be rebuilt from the log.
    """
    for table in TABLES:
        paths = [store.uri(file.path) for file in state.table(table, state.current_fingerprint)]
        lines = "".join(json.dumps({"path": path}) + "\n" for path in paths)
        store.put(f"_snapshots/{state.seq}/{table}.json", lines.encode())
    if state.seq % CHECKPOINT_EVERY == 0:
        _write_checkpoint(store, state)
    store.put("_latest.json", json.dumps({"seq": state.seq}).encode())


def derived_seq(store: Store) -> int:
    """The seq that the derived files describe; 0 if they are missing or damaged."""
    try:
        return int(json.loads(store.get("_latest.json"))["seq"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _check_log(store: Store, checkpoints: list[int]) -> int:
    """The newest seq. Raises StoreError if a record is lost: its seq must not be used again."""
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
    if unknown := {*values["added"], *values["removed"]} - set(TABLES):
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
    """The state; None if it is damaged or of a newer program, since the log can be replayed."""
    try:
        digest, _, body = store.get(_checkpoint_key(seq)).partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return None
        values = json.loads(body)
        if values["log_version"] > LOG_VERSION:
            return None
        files = {
            table: {file["path"]: DataFile(**file) for file in listed}
            for table, listed in values["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return State(
        values["seq"],
        values["current_fingerprint"],
        files,
        frozenset(values["consumed"]),
        frozenset(values["opened"]),
    )
