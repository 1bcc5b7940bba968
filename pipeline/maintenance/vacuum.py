"""Delete what no recent snapshot needs. Knows the log and file names, not file contents.

How old a commit is, is read from the store's own clock: when the store wrote the record. The clocks
of the machines that committed can be days wrong. A copy of an output may have the time of the copy;
then its files are kept for longer than needed.
"""

import itertools
import re
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.archives.index import FOLDER, superseded
from pipeline.errors import StoreError
from pipeline.schema import LOGGED_TABLES
from pipeline.storage.store import Store
from pipeline.storage.store_errors import uri_in_errors
from pipeline.tables import commit_log as commits
from pipeline.tables.bundles import BUNDLES
from pipeline.tables.commit_log import COMMIT_TRIES, Record, State, new_record
from pipeline.tables.parquet import N_READERS

RETAIN_S = 7 * 86_400.0

_TEMPORARY_S = 86_400.0  # no writer takes a day for one object
_PART = re.compile(r"/c(\d+)-[^/]*$")  # the seq in the name of a part (see parts)


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What one call of vacuum() deleted, or would delete."""

    seq: int = 0  # the newest commit now
    first_seq: int = 0  # the oldest commit that can still be read
    files: Sequence[str] = ()  # superseded, or written for a commit that was never made
    bundles: Sequence[str] = ()  # published, and older than the retention
    # File lists and checkpoints of commits before first_seq, listings of archives that have changed
    derived: Sequence[str] = ()
    forgotten: Sequence[str] = ()  # names of bundles that an earlier vacuum deleted
    n_temporaries: int = 0  # temporary files of writers that died


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the oldest commit that is kept needs, and all newer commits."""

    first_seq: int
    files: frozenset[str]
    published: frozenset[str]  # bundles consumed before the retention began: not needed


def vacuum(store: Store, *, retain_s: float = RETAIN_S, dry_run: bool = False) -> Vacuumed:
    """Delete files that no commit refers to that was the newest in the last `retain_s` seconds.

    Bundles that are not published yet are kept. Only what was listed at the start is deleted. A
    listed file may belong to a writer that is about to commit it. In that case an empty commit is
    made first: that writer's conditional write then fails, and it writes new files. A file whose
    name has the seq of an existing commit needs no empty commit, because its writer has failed
    already or will fail.

    The log also forgets the names of bundles that an earlier vacuum deleted, so that its size
    depends on the present bundles only. If such a bundle appears again (a PUT that took days), it
    is read once more and all its rows are dropped, because they name a past ledger state.
    """
    keys = _list_all(store)
    state = commits.read_state(store, whole_log=True)
    if state.seq == 0:
        return Vacuumed()
    found = _find_deletable(store, state, keys, retain_s)
    if dry_run:
        return found
    # Before lists are deleted, _latest.json must name one that stays: a publisher that was killed
    # after its commit has written none.
    commits.repair_derived(store, state)
    if found.forgotten or any(_may_be_committed(key, state.seq) for key in found.files):
        state = _commit_empty(store, state, tuple(found.forgotten))
        found = replace(_find_deletable(store, state, keys, retain_s), forgotten=found.forgotten)
    found = replace(found, derived=_not_named(store, found.derived))
    with ThreadPoolExecutor(N_READERS) as pool:
        for group in (found.derived, found.files, found.bundles):
            list(pool.map(lambda key: store.delete([key]), group))
    return replace(found, n_temporaries=store.sweep(_TEMPORARY_S))


def _list_all(store: Store) -> list[str]:
    tables = (f"{table}/" for table in LOGGED_TABLES)
    prefixes = (*tables, BUNDLES, "_snapshots/", "_checkpoints/", FOLDER)
    return [key for prefix in prefixes for key in store.list(prefix)]


def _may_be_committed(key: str, seq: int) -> bool:
    """Whether a commit after `seq` may add this file. The name has the seq it was written for."""
    name = _PART.search(key)
    return name is None or int(name[1]) > seq


def _commit_empty(store: Store, state: State, forgotten: tuple[str, ...]) -> State:
    """Commit without files. After it, no writer can commit files that it wrote before."""
    run_id = f"vacuum-{uuid.uuid4().hex[:8]}"
    for _ in range(COMMIT_TRIES):
        record = new_record(state.seq + 1, run_id, datetime.now(UTC))
        record = replace(record, forgotten=forgotten)
        if commits.write_record(store, record):
            state = commits.replay(store, state, [record])
            commits.write_derived(store, state)
            return state
        state = commits.read_state(store, since=state)
    raise StoreError(
        f"{store.root}: no commit in {COMMIT_TRIES} tries, because other writers were faster; "
        "vacuum while fewer runs write here"
    )


def _find_deletable(store: Store, state: State, keys: Sequence[str], retain_s: float) -> Vacuumed:
    kept = _find_kept(store, state, retain_s)
    tables = tuple(f"{table}/" for table in LOGGED_TABLES)
    return Vacuumed(
        seq=state.seq,
        first_seq=kept.first_seq,
        files=[key for key in keys if key.startswith(tables) and key not in kept.files],
        bundles=[key for key in keys if key in kept.published],
        derived=[
            *(key for key in keys if _is_outdated(key, kept.first_seq)),
            *superseded(keys),
        ],
        forgotten=sorted((kept.published & state.consumed).difference(keys)),
    )


def _not_named(store: Store, derived: Sequence[str]) -> Sequence[str]:
    """`derived` without the file lists that _latest.json names, and newer ones."""
    named = commits.derived_seq(store)
    return [key for key in derived if commits.list_seq(key) < named or not commits.list_seq(key)]


def _find_kept(store: Store, state: State, retain_s: float) -> _Kept:
    horizon_s = _store_time_s(store) - retain_s
    added: set[str] = set()
    for seq, record, committed_s in _newest_first(store, state.seq):
        if committed_s <= horizon_s:
            first = commits.read_state(store, seq)  # the newest commit when the retention began
            files = {path for files in first.files.values() for path in files}
            return _Kept(seq, frozenset(files | added), first.consumed)
        added.update(file.path for files in record.added.values() for file in files)
    return _Kept(1, frozenset(added), frozenset())


def _newest_first(store: Store, seq: int) -> Iterator[tuple[int, Record, float]]:
    """(seq, record, time in seconds by the store's clock) of each commit, from `seq` to 1."""
    seqs = iter(range(seq, 0, -1))
    with ThreadPoolExecutor(N_READERS) as pool:
        while group := list(itertools.islice(seqs, 4 * N_READERS)):
            records = pool.map(lambda one: commits.read_record(store, one), group)
            times = pool.map(lambda one: _written_s(store, commits.record_key(one)), group)
            yield from zip(group, records, times, strict=True)


def _store_time_s(store: Store) -> float:
    """The present time by the clock of the store: when it wrote an object."""
    key = f"_probe/{uuid.uuid4().hex}"
    store.put(key, b"what time is it")
    try:
        return _written_s(store, key)
    finally:
        store.delete([key])


def _written_s(store: Store, key: str) -> float:
    uri = store.uri(key)
    with uri_in_errors(uri):
        written: datetime = store.filesystem.modified(uri)
    return written.timestamp()


def _is_outdated(key: str, first_seq: int) -> bool:
    """Whether a derived file is used only by readers of commits before `first_seq`."""
    folder, _, rest = key.partition("/")
    seq = rest.removesuffix(".json").partition("/")[0]
    # Readers replay from the last checkpoint before first_seq, so it is kept, too.
    oldest = {
        "_snapshots": first_seq,
        "_checkpoints": first_seq - first_seq % commits.CHECKPOINT_EVERY,
    }
    return seq.isdigit() and int(seq) < oldest.get(folder, 0)
