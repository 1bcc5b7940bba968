"""Reviews as a table: folded by a commit, and laid over the segments of a snapshot.

Every reader sees the reviews of its snapshot. One that must miss nothing (the explorer, exports,
evaluation) adds those that were saved since, from their objects. See tables/reviews.py.
"""

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.schema import SCHEMA_VERSION
from pipeline.storage.store import Store
from pipeline.tables import commit_log as commits
from pipeline.tables.commit_log import COMMIT_TRIES, DataFile, Record, State, new_record
from pipeline.tables.parquet import read_files, to_parquet
from pipeline.tables.reviews import from_row, newest_keys, read_reviews, to_table

if TYPE_CHECKING:
    import duckdb

TABLE = "reviews"
FINGERPRINT = ""  # the files belong to no model

SAME_SHARE = 0.8  # share of the joint stretch that a review and a segment must have in common

# A review belongs to the segment of the same audio and channel that covers nearly the same stretch.
# Segments hardly overlap, so there is at most one; of two reviews of one, the nearer and newer.
_FITTED = f"""
    CREATE OR REPLACE VIEW fitted_reviews AS
    SELECT
        s.segment_id, v.* EXCLUDE (segment_id, shown), v.shown.text AS shown_text,
        v.shown.language AS shown_language, v.shown.emotion AS shown_emotion,
        v.shown.events AS shown_events, v.segment_id AS shown_segment_id
    FROM reviews v
    JOIN recordings r ON r.recording_id = v.recording_id AND r.version = v.version
    JOIN transcripts s ON s.recording_id = v.recording_id
        AND s.channel IS NOT DISTINCT FROM v.channel
        AND least(s.end_s, v.end_s) - greatest(s.start_s, v.start_s)
            >= {SAME_SHARE} * (greatest(s.end_s, v.end_s) - least(s.start_s, v.start_s))
    QUALIFY row_number() OVER (
        PARTITION BY s.segment_id
        ORDER BY abs(s.start_s - v.start_s) + abs(s.end_s - v.end_s), v.saved_at DESC
    ) = 1
"""

_VALID = """
    CREATE OR REPLACE VIEW segment_reviews AS
    SELECT * FROM fitted_reviews WHERE verdict <> 'withdrawn'
"""
# What a person said where one did, else what the model said.
_REVIEWED = """
    CREATE OR REPLACE VIEW segments_reviewed AS
    SELECT
        s.* REPLACE (
            coalesce(v.text, s.text) AS text,
            coalesce(v.language, s.language) AS language,
            coalesce(v.emotion, s.emotion) AS emotion,
            coalesce(v.events, s.events) AS events
        ),
        v.verdict, v.reviewer, v.note, v.revision, s.text AS model_text
    FROM segments s
    LEFT JOIN (SELECT * FROM segment_reviews WHERE verdict <> 'unsure') v USING (segment_id)
"""


@dataclass(frozen=True, slots=True)
class Folded:
    """What one call of fold_reviews() did."""

    seq: int  # the newest commit now
    n_new: int = 0  # revisions that the table did not have


def committed_reviews(store: Store, state: State) -> pa.Table:
    """The reviews that the commits up to `state` have folded: rows of schema.REVIEWS."""
    paths = [file.path for file in state.table(TABLE, FINGERPRINT)]
    return read_files(store, TABLE, paths)


def current_reviews(store: Store, state: State) -> pa.Table:
    """The newest revision of every review, folded or not: rows of schema.REVIEWS."""
    return _merged(store, committed_reviews(store, state))[0]


def fold_reviews(store: Store) -> Folded:
    """Commit the reviews that were saved since the last fold. No commit if there are none.

    Any number of processes may call this. The table stays one file: people save thousands of
    reviews, not millions. Raises StoreError if a review or the log is damaged, or if other writers
    commit first COMMIT_TRIES times in a row.
    """
    run_id = f"reviews-{uuid.uuid4().hex[:8]}"
    state = State()
    for _ in range(COMMIT_TRIES):
        state = commits.read_state(store, since=state, whole_log=state.seq == 0)
        rows, n_new = _merged(store, committed_reviews(store, state))
        if not n_new:
            return Folded(state.seq)
        record = _record(store, state, rows, run_id)
        if commits.write_record(store, record):
            commits.write_derived(store, commits.replay(store, state, [record]))
            return Folded(record.seq, n_new)
    raise StoreError(
        f"{store.root}: no commit in {COMMIT_TRIES} tries, because other writers were faster; "
        "fold the reviews while fewer runs write here"
    )


def count_new(store: Store, state: State) -> int:
    """Reviews that were saved since the last fold."""
    return len(_new_keys(store, committed_reviews(store, state)))


def create_review_views(connection: "duckdb.DuckDBPyConnection", reviews: pa.Table) -> None:
    """Views `reviews`, `segment_reviews` (those that fit a segment) and `segments_reviewed`.

    The connection must have the views of tables.connect. `reviews` are rows of schema.REVIEWS.
    """
    connection.register(TABLE, reviews)
    connection.execute(_FITTED)
    connection.execute(_VALID)
    connection.execute(_REVIEWED)


def _merged(store: Store, folded: pa.Table) -> tuple[pa.Table, int]:
    """`folded` with the newer revisions among the objects, and the number of these."""
    new = read_reviews(store, _new_keys(store, folded))
    if not new:
        return folded, 0
    newest = {review.interval.folder: review for review in map(from_row, folded.to_pylist())}
    newest |= {review.interval.folder: review for review in new}
    return to_table(newest.values()), len(new)


def _new_keys(store: Store, folded: pa.Table) -> list[str]:
    known = {
        review.interval.folder: review.revision for review in map(from_row, folded.to_pylist())
    }
    return [
        key
        for folder, (revision, key) in newest_keys(store).items()
        if known.get(folder, 0) < revision
    ]


def _record(store: Store, state: State, rows: pa.Table, run_id: str) -> Record:
    """Write the table; the record that puts it in the place of the old one."""
    record = new_record(state.seq + 1, run_id, datetime.now(UTC))
    data = to_parquet(rows, {"schema_version": str(SCHEMA_VERSION), "fingerprint": FINGERPRINT})
    path = f"{TABLE}/c{record.seq:08d}-{uuid.uuid4().hex}-0.parquet"
    store.put(path, data)
    file = DataFile(
        path=path,
        rows=rows.num_rows,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        fingerprint=FINGERPRINT,
        first_id=rows["recording_id"][0].as_py(),
        last_id=rows["recording_id"][-1].as_py(),
    )
    removed = tuple(file.path for file in state.table(TABLE, FINGERPRINT))
    return replace(record, added={TABLE: (file,)}, removed={TABLE: removed})


def lost_reviews(store: Store, state: State) -> Iterator[str]:
    """Folded reviews whose objects are gone. Raises StoreError if a newest object is damaged."""
    objects = newest_keys(store)
    read_reviews(store, [key for _, key in objects.values()])
    for review in map(from_row, committed_reviews(store, state).to_pylist()):
        revision, _ = objects.get(review.interval.folder, (0, ""))
        if revision < review.revision:
            yield (
                f"{store.uri(review.interval.folder)}: revision {review.revision} of "
                f"{review.shown.segment_id} is missing; restore it from a backup"
            )
