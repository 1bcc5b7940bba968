"""Merge small parts into larger ones, and reviews into their table. Knows nothing of runs.

Can run at any time, beside publishers and readers. Readers of older snapshots keep the old parts
until a vacuum deletes them.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow.compute as pc

from pipeline.errors import StoreError
from pipeline.storage.store import Store
from pipeline.tables import commit_log as commits
from pipeline.tables.commit_log import COMMIT_TRIES, DataFile, Record, State, new_record
from pipeline.tables.parquet import read_files
from pipeline.tables.parts import PartWriter, part_files, read_part
from pipeline.tables.review_table import count_new, fold_reviews

GOOD_BYTES = 64 << 20  # on disk, all tables of a part; parts of at least half of it are kept

_NO_LIMIT = 1 << 62  # bytes


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one call of compact() did."""

    seq: int = 0  # the newest commit now
    n_commits: int = 0
    n_parts_before: int = 0  # parts that were merged
    n_parts_after: int = 0  # parts that they became
    n_reviews: int = 0  # saved since the last time, now in the table `reviews`


def compact(store: Store, *, good_bytes: int = GOOD_BYTES) -> Compacted:
    """Merge small parts of one fingerprint into parts of about `good_bytes`, each in one commit.

    Parts are rewritten whole and in all tables, because the files of one part hold the same
    recordings. Memory: a few times the decoded rows of one new part. Raises StoreError if a file is
    not what was committed, or if other writers commit first COMMIT_TRIES times in a row.
    """
    run_id = f"compact-{uuid.uuid4().hex[:8]}"
    n_reviews = fold_reviews(store).n_new
    statuses: dict[str, str] = {}
    state, n_lost = State(), 0
    done = Compacted(n_reviews=n_reviews)
    while n_lost < COMMIT_TRIES:
        state = commits.read_state(store, since=state, whole_log=state.seq == 0)
        try:
            group = next(_groups(store, state, good_bytes, statuses), None)
            if group is None:
                return replace(done, seq=state.seq)
            record = _merge(store, state, group, run_id)
        except FileNotFoundError:  # another writer replaced the parts, and a vacuum deleted them
            n_lost += 1
            continue
        if not commits.write_record(store, record):
            n_lost += 1  # not retried with the same files: a vacuum may have deleted them
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
        f"{store.root}: no commit in {COMMIT_TRIES} tries, because other writers were faster; "
        "compact while fewer runs write here"
    )


def preview(store: Store, *, good_bytes: int = GOOD_BYTES) -> Compacted:
    """What `compact` would do now, if each commit makes one part. Writes nothing."""
    state = commits.read_state(store, whole_log=True)
    groups = list(_groups(store, state, good_bytes, {}))
    n_parts = sum(len(group) for group in groups)
    return Compacted(state.seq, len(groups), n_parts, len(groups), count_new(store, state))


def _groups(
    store: Store, state: State, good_bytes: int, statuses: dict[str, str]
) -> Iterator[list[DataFile]]:
    """`recordings` files of parts to merge, for each commit: neighbours by id, of one status."""
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
                yield group
                group, n_bytes = [], 0
        if len(group) > 1:
            yield group


def _part_bytes(state: State, file: DataFile) -> int:
    return sum(part.bytes for _, part in part_files(state, file.path))


def _status(store: Store, file: DataFile) -> str:
    statuses = read_files(store, "recordings", [file.path], ["status"])["status"]
    return "error" if pc.all(pc.equal(statuses, "error")).as_py() else "ok"


def _merge(store: Store, state: State, group: list[DataFile], run_id: str) -> Record:
    seq = state.seq + 1
    stem = f"c{seq:08d}-{uuid.uuid4().hex}"
    writer = PartWriter(store, group[0].fingerprint, stem, _NO_LIMIT)
    removed: dict[str, list[str]] = defaultdict(list)
    for file in group:
        writer.add(read_part(store, state, file.path))
        for table, part in part_files(state, file.path):
            removed[table].append(part.path)
    return replace(
        new_record(seq, run_id, datetime.now(UTC)),
        added=writer.finish(),
        removed={table: tuple(paths) for table, paths in removed.items()},
    )
