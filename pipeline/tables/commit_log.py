"""The commit log: which files make up the tables. Knows records and order, not what files hold.

ROOT/_log/{seq:020d}.json is one commit: written once by a conditional PUT, never changed, numbered
from 1 without a hole. It is the only truth; a file that no record adds does not exist. All else
here (_checkpoints, _snapshots, _latest.json) is derived from it and may be lost or rebuilt.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import StoreError
from pipeline.schema import TABLES
from pipeline.storage.store import Store

LOG_VERSION = (
    2  # rises when an older program would misread a record; 1 knew neither sha256 nor forgotten
)
CHECKPOINT_EVERY = 50  # commits: bounds how many records a start has to read

_SEQ = re.compile(r"/(\d{20})\.json$")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One parquet file of one table."""

    path: str  # key in the store
    rows: int
    bytes: int
    sha256: str
    fingerprint: str
    first_id: str  # smallest and largest recording_id in it
    last_id: str


@dataclass(frozen=True, slots=True)
class Record:
    """One commit. `added` and `removed` are by table; a commit of many tables is still one."""

    seq: int
    commit_id: str
    run_id: str
    committed_at: str  # ISO 8601, UTC; for people, nothing depends on clocks
    schema_version: int
    added: Mapping[str, tuple[DataFile, ...]] = field(default_factory=dict)
    removed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    consumed: tuple[str, ...] = ()  # bundles with nothing left to publish
    opened: tuple[str, ...] = ()  # bundles of which only some recordings could be published
    unreadable: tuple[str, ...] = ()  # those of `consumed` that were corrupt
    forgotten: tuple[str, ...] = ()  # consumed by an earlier commit, and deleted since
    current_fingerprint: str = ""  # what default readers see from here on; "": as before
    runs: tuple[Mapping[str, str], ...] = ()  # RunInfo of the bundles that gave rows


@dataclass(frozen=True, slots=True)
class State:
    """What the log says after `seq` commits."""

    seq: int = 0
    current_fingerprint: str = ""
    files: Mapping[str, Mapping[str, DataFile]] = field(default_factory=dict)  # table -> path
    consumed: frozenset[str] = frozenset()  # less those that were forgotten
    opened: frozenset[str] = frozenset()

    def table(self, table: str, fingerprint: str) -> list[DataFile]:
        """The files of one table of one fingerprint, in the order of their paths."""
        files = self.files.get(table, {})
        return [files[path] for path in sorted(files) if files[path].fingerprint == fingerprint]


def record_key(seq: int) -> str:
    return f"_log/{seq:020d}.json"


def write_record(store: Store, record: Record) -> bool:
    """Commit. False: another publisher has this seq; read the state again and rebuild."""
    values = asdict(record)
    values = {"log_version": LOG_VERSION, "sha256": _digest(values), **values}
    return store.put_if_absent(record_key(record.seq), json.dumps(values, indent=1).encode())


def read_record(store: Store, seq: int) -> Record:
    """One commit. Raises StoreError if it is damaged, also when read a second time."""
    try:
        return _read_record(store, seq)
    except StoreError:  # a bit may flip on the way as well as in the store
        return _read_record(store, seq)


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
        raise _damaged(store, key, f"says that it is commit {record.seq}")
    return record


def read_state(store: Store, seq: int | None = None, since: State | None = None) -> State:
    """The state after commit `seq` (default: the newest), from the nearest earlier point known.

    Raises StoreError if the log has a hole, an unreadable record, or no commit `seq`.
    """
    checkpoints = _seqs(store, "_checkpoints/")  # listed first: none can be ahead of the log
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
    """`state` after more commits. Raises StoreError if one removes a file that is not there."""
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
    """File lists of the newest snapshot for readers without this library, and a checkpoint.

    `_snapshots/{seq}/{table}.json` has one {"path": ...} a line, for the current fingerprint;
    `_latest.json` names the seq and is written last. Losing any of it loses nothing.
    """
    for table in TABLES:
        paths = [store.uri(file.path) for file in state.table(table, state.current_fingerprint)]
        lines = "".join(json.dumps({"path": path}) + "\n" for path in paths)
        store.put(f"_snapshots/{state.seq}/{table}.json", lines.encode())
    if state.seq % CHECKPOINT_EVERY == 0:
        _write_checkpoint(store, state)
    store.put("_latest.json", json.dumps({"seq": state.seq}).encode())


def derived_seq(store: Store) -> int:
    """The commit that the derived files describe; 0 if they are missing or damaged."""
    try:
        return int(json.loads(store.get("_latest.json"))["seq"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _check_log(store: Store, checkpoints: list[int]) -> int:
    """The newest seq. A lost record would let history be written a second time: never go on."""
    seqs = _seqs(store, "_log/")
    if seqs != list(range(1, len(seqs) + 1)):
        missing = min(set(range(1, seqs[-1] + 1)) - set(seqs))
        raise _damaged(store, record_key(missing), f"is missing, but commit {seqs[-1]} is there")
    if checkpoints and checkpoints[-1] > len(seqs):
        key = record_key(checkpoints[-1])
        raise _damaged(store, key, "is missing, but there is a checkpoint of it")
    return len(seqs)


def _damaged(store: Store, key: str, complaint: str) -> StoreError:
    return StoreError(
        f"{store.uri(key)}: {complaint}; the commit log is damaged: restore this object from a "
        "backup or an older version, nothing is published until then"
    )


def _seqs(store: Store, prefix: str) -> list[int]:
    return sorted(int(match[1]) for key in store.list(prefix) if (match := _SEQ.search(key)))


def _digest(values: Mapping[str, Any]) -> str:
    """A flipped bit in a record would hide files from readers, or a ledger from its publisher."""
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
    """None if it is damaged or foreign: the log itself can always be replayed."""
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
