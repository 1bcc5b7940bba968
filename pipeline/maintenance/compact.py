"""Upkeep of the tables: fewer files, and none that nobody needs. Knows the log, not its writers.

Both may run at any time, beside publishers and readers. Nothing here depends on clocks but how
long readers of an older snapshot may go on.
"""

import re
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc

from pipeline.schema import SCHEMA_VERSION, TABLES
from pipeline.storage.store import Store, StoreError
from pipeline.tables import commit_log as commits
from pipeline.tables.bundles import BUNDLES
from pipeline.tables.commit_log import DataFile, Record, State
from pipeline.tables.parts import PartWriter, part_files, read_part
from pipeline.tables.snapshots import N_READERS, read_files

GOOD_BYTES = 64 << 20  # on disk, all tables of a part; parts of half of it are left alone
RETAIN_S = 7 * 86_400.0
_PART = re.compile(r"/c(\d+)-[^/]*$")  # see parts
_TRIES = 20  # commits lost in a row before giving up
_TEMPORARY_S = 86_400.0  # no writer takes a day for one object


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one call of compact() did."""

    seq: int = 0  # the newest commit now
    n_commits: int = 0
    n_parts_before: int = 0  # of those that were merged
    n_parts_after: int = 0


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What one call of vacuum() deleted, or would delete."""

    seq: int = 0  # the newest commit now
    first_seq: int = 0  # the oldest commit that can still be read
    files: Sequence[str] = ()  # superseded, or left by a publisher that lost or died
    bundles: Sequence[str] = ()  # published, and older than the retention
    derived: Sequence[str] = ()  # file lists and checkpoints of commits that are no more
    forgotten: Sequence[str] = ()  # names of bundles that an earlier vacuum deleted
    n_temporaries: int = 0  # of writers that died


def compact(store: Store, *, good_bytes: int = GOOD_BYTES) -> Compacted:
    """Merge small parts of one fingerprint into parts of about `good_bytes`.

    Each new part is an ordinary commit, sorted by recording_id. Parts are rewritten whole, in all
    tables, because those of one name hold the same recordings. Memory: the rows of one new part,
    decoded, a few times over. Raises StoreError if a file is not what was committed.
    """
    run_id = f"compact-{uuid.uuid4().hex[:8]}"
    statuses: dict[str, str] = {}
    state, n_lost = State(), 0
    done = Compacted()
    while n_lost < _TRIES:
        state = commits.read_state(store, since=state)
        try:
            group = _next_group(store, state, good_bytes, statuses)
            if not group:
                return replace(done, seq=state.seq)
            record = _merge(store, state, group, run_id)
        except FileNotFoundError:  # somebody rewrote the parts and a vacuum took the old ones
            n_lost += 1
            continue
        if not commits.write_record(store, record):
            n_lost += 1  # the files just written may be gone by now, too: a fence won
            continue
        n_lost = 0
        state = commits.replay(store, state, [record])
        commits.write_derived(store, state)
        done = replace(
            done,
            n_commits=done.n_commits + 1,
            n_parts_before=done.n_parts_before + len(group),
            n_parts_after=done.n_parts_after + len(record.added["recordings"]),
        )
    raise StoreError(
        f"{store.root}: no commit in {_TRIES} tries, because other publishers were faster; "
        "compact while fewer runs write here"
    )


def _next_group(
    store: Store, state: State, good_bytes: int, statuses: dict[str, str]
) -> list[DataFile]:
    """`recordings` files of the next parts to merge: neighbours by id, all good or all failed."""
    small: dict[tuple[str, str], list[DataFile]] = defaultdict(list)
    for file in state.files.get("recordings", {}).values():
        if _part_bytes(state, file) < good_bytes / 2:
            if file.path not in statuses:
                statuses[file.path] = _status(store, file)
            small[file.fingerprint, statuses[file.path]].append(file)
    for key in sorted(small):
        group: list[DataFile] = []
        n_bytes = 0
        for file in sorted(small[key], key=lambda file: (file.first_id, file.path)):
            group.append(file)
            n_bytes += _part_bytes(state, file)
            if n_bytes >= good_bytes:
                break
        if len(group) > 1:
            return group
    return []


def _part_bytes(state: State, file: DataFile) -> int:
    return sum(part.bytes for _, part in part_files(state, file.path))


def _status(store: Store, file: DataFile) -> str:
    statuses = read_files(store, "recordings", [file.path], ["status"])["status"]
    return "error" if pc.all(pc.equal(statuses, "error")).as_py() else "ok"


def _merge(store: Store, state: State, group: list[DataFile], run_id: str) -> Record:
    seq = state.seq + 1
    stem = f"c{seq:08d}-{uuid.uuid4().hex}"
    everything = 1 << 62  # one part, however large
    writer = PartWriter(store, group[0].fingerprint, stem, everything)
    removed: dict[str, list[str]] = defaultdict(list)
    for file in group:
        writer.add(read_part(store, state, file.path))
        for table, part in part_files(state, file.path):
            removed[table].append(part.path)
    return _record(
        seq, run_id, writer.finish(), {table: tuple(paths) for table, paths in removed.items()}
    )


def _record(
    seq: int,
    run_id: str,
    added: Mapping[str, tuple[DataFile, ...]],
    removed: Mapping[str, tuple[str, ...]],
) -> Record:
    return Record(
        seq=seq,
        commit_id=uuid.uuid4().hex,
        run_id=run_id,
        committed_at=datetime.now(UTC).isoformat(),
        schema_version=SCHEMA_VERSION,
        added=added,
        removed=removed,
    )


# --------------------------------------------------------------------------- vacuum


@dataclass(frozen=True, slots=True)
class _Kept:
    """What may still be read, by readers of the oldest commit that is kept and of newer ones."""

    first_seq: int
    files: frozenset[str]
    published: frozenset[str]  # bundles that were done with before the retention began


def vacuum(store: Store, *, retain_s: float = RETAIN_S, dry_run: bool = False) -> Vacuumed:
    """Delete what no commit that was the newest in the last `retain_s` seconds refers to.

    Bundles that are not published yet are never touched. It lists first and deletes only what was
    listed. If some of that may belong to a publisher that has not committed yet, it commits an
    empty record (the fence) before: that publisher loses the conditional write and writes new
    files. A publisher whose commit number is taken already has lost and needs no fence.

    The log forgets the names of bundles that are gone, so that it grows with what there is and not
    with what there ever was. Should such a bundle come back (a PUT that was on its way for days),
    it is read once more, and every row of it names a ledger state that has passed: all are dropped.
    """
    keys = _list_all(store)
    state = commits.read_state(store)
    if state.seq == 0:
        return Vacuumed()
    doomed = _doomed(store, state, keys, retain_s)
    if dry_run:
        return doomed
    if doomed.forgotten or any(_may_be_in_flight(key, state.seq) for key in doomed.files):
        fenced = _fence(store, state, tuple(doomed.forgotten))
        doomed = replace(_doomed(store, fenced, keys, retain_s), forgotten=doomed.forgotten)
    with ThreadPoolExecutor(N_READERS) as pool:
        for group in (doomed.derived, doomed.files, doomed.bundles):
            list(pool.map(lambda key: store.delete([key]), group))
    return replace(doomed, n_temporaries=store.sweep(_TEMPORARY_S))


def _list_all(store: Store) -> list[str]:
    prefixes = (*(f"{table}/" for table in TABLES), BUNDLES, "_snapshots/", "_checkpoints/")
    return [key for prefix in prefixes for key in store.list(prefix)]


def _may_be_in_flight(key: str, seq: int) -> bool:
    """Whether a commit after `seq` may still add this file; its name says which one would."""
    name = _PART.search(key)
    return name is None or int(name[1]) > seq


def _fence(store: Store, state: State, forgotten: tuple[str, ...]) -> State:
    """A commit without files, after which no publisher can win with files that it wrote before."""
    run_id = f"vacuum-{uuid.uuid4().hex[:8]}"
    for _ in range(_TRIES):
        record = replace(_record(state.seq + 1, run_id, {}, {}), forgotten=forgotten)
        if commits.write_record(store, record):
            state = commits.replay(store, state, [record])
            commits.write_derived(store, state)
            return state
        state = commits.read_state(store, since=state)
    raise StoreError(f"{store.root}: no commit in {_TRIES} tries; vacuum while fewer runs write")


def _doomed(store: Store, state: State, keys: Sequence[str], retain_s: float) -> Vacuumed:
    kept = _kept(store, state, retain_s)
    tables = tuple(f"{table}/" for table in TABLES)
    return Vacuumed(
        seq=state.seq,
        first_seq=kept.first_seq,
        files=[key for key in keys if key.startswith(tables) and key not in kept.files],
        bundles=[key for key in keys if key in kept.published],
        derived=[key for key in keys if _is_outdated(key, kept.first_seq)],
        forgotten=sorted((kept.published & state.consumed).difference(keys)),
    )


def _kept(store: Store, state: State, retain_s: float) -> _Kept:
    horizon = datetime.now(UTC) - timedelta(seconds=retain_s)
    added: set[str] = set()
    for seq in range(state.seq, 0, -1):
        record = commits.read_record(store, seq)
        if datetime.fromisoformat(record.committed_at) < horizon:
            first = commits.read_state(store, seq)  # the newest commit when the retention began
            files = {path for files in first.files.values() for path in files}
            return _Kept(seq, frozenset(files | added), first.consumed)
        added.update(file.path for files in record.added.values() for file in files)
    return _Kept(1, frozenset(added), frozenset())


def _is_outdated(key: str, first_seq: int) -> bool:
    """Derived files that only readers of commits before `first_seq` would want."""
    folder, _, rest = key.partition("/")
    seq = rest.removesuffix(".json").partition("/")[0]
    # A checkpoint is where a reader starts to replay from, so the last one before stays, too.
    oldest = {
        "_snapshots": first_seq,
        "_checkpoints": first_seq - first_seq % commits.CHECKPOINT_EVERY,
    }
    return seq.isdigit() and int(seq) < oldest.get(folder, 0)
