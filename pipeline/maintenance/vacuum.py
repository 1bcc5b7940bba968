"""Delete what no recent snapshot needs. Knows the log and file names, not what files hold."""

import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pipeline.errors import StoreError
from pipeline.maintenance.compact import _TRIES, _record
from pipeline.schema import TABLES
from pipeline.storage.store import Store
from pipeline.tables import commit_log as commits
from pipeline.tables.bundles import BUNDLES
from pipeline.tables.commit_log import State
from pipeline.tables.parquet import N_READERS

RETAIN_S = 7 * 86_400.0


_PART = re.compile(r"/c(\d+)-[^/]*$")  # see parts


_TEMPORARY_S = 86_400.0  # no writer takes a day for one object


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
