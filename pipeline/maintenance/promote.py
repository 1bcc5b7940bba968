"""Make one fingerprint the default of readers. Knows the log; knows nothing of settings.

A commit of its own, which adds and removes no file: readers of older snapshots, publishers and a
vacuum are not disturbed. `promote` with the former fingerprint undoes it.
"""

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.errors import StoreError
from pipeline.storage.store import Store
from pipeline.tables import commit_log as commits
from pipeline.tables.commit_log import COMMIT_TRIES, State, new_record
from pipeline.tables.coverage import count_uncovered, n_recordings


@dataclass(frozen=True, slots=True)
class Promoted:
    """What one call of promote() did."""

    seq: int  # the newest commit now
    fingerprint: str  # the default of readers now
    before: str  # the default of readers before; the same if there was nothing to do
    n_recordings: int  # that readers get now
    n_recordings_before: int
    n_hidden: int  # recordings of the former default that the new one lacks


def promote(store: Store, fingerprint: str) -> Promoted:
    """Commit that `fingerprint`, as a whole, is the default of readers.

    Raises StoreError if it has no recordings, or if other writers commit first COMMIT_TRIES times
    in a row.
    """
    state = State()
    for _ in range(COMMIT_TRIES):
        state = commits.read_state(store, since=state)
        if not n_recordings(state, fingerprint):
            raise StoreError(f"{store.root}: no recordings under fingerprint {fingerprint!r}")
        try:
            done = _describe(store, state, fingerprint)
        except FileNotFoundError:  # another writer replaced the files, and a vacuum deleted them
            continue
        if state.current_fingerprint == fingerprint:
            return done
        run_id = f"promote-{uuid.uuid4().hex[:8]}"
        record = replace(
            new_record(state.seq + 1, run_id, datetime.now(UTC)), current_fingerprint=fingerprint
        )
        if commits.write_record(store, record):
            commits.write_derived(store, commits.replay(store, state, [record]))
            return replace(done, seq=record.seq)
    raise StoreError(
        f"{store.root}: no commit in {COMMIT_TRIES} tries, because other writers were faster; "
        "promote while fewer runs write here"
    )


def _describe(store: Store, state: State, fingerprint: str) -> Promoted:
    return Promoted(
        seq=state.seq,
        fingerprint=fingerprint,
        before=state.current_fingerprint,
        n_recordings=n_recordings(state, fingerprint),
        n_recordings_before=n_recordings(state, state.current_fingerprint),
        n_hidden=count_uncovered(store, state, fingerprint),
    )
