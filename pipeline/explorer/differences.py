"""Two models of one output, segment by segment, where they differ. Knows tables; knows no HTTP.

The segment of the other model is the one at the middle of this one, so that two models that cut the
speech a little differently are compared, too. The pairs are found once, with one join in the order
of time; a page is then read by its number.
"""

import threading
from contextlib import ExitStack
from typing import Any, Literal, get_args

from pipeline.explorer.positions import check_positions
from pipeline.tables import Snapshot
from pipeline.tables.snapshots import create_views

What = Literal["any", "text", "language", "emotion"]
WHATS: tuple[What, ...] = get_args(What)

_SIDE = """
    CREATE VIEW {side}_segments AS
    SELECT t.recording_id, t.segment_id, t.start_s, t.end_s, t.text, l.language, e.emotion
    FROM {side}_transcripts t
    POSITIONAL JOIN {side}_languages l POSITIONAL JOIN {side}_emotions e
"""
_PAIRS = """
    CREATE TEMP TABLE pairs AS
    SELECT
        a.recording_id, a.segment_id, b.segment_id AS other_id, a.start_s, a.end_s,
        a.text, a.language, a.emotion,
        b.text AS other_text, b.language AS other_language, b.emotion AS other_emotion
    FROM (SELECT *, (start_s + end_s) / 2 AS middle_s FROM a_segments) a
    ASOF JOIN b_segments b ON a.recording_id = b.recording_id AND a.middle_s >= b.start_s
    WHERE b.end_s > a.middle_s
        AND (a.text <> b.text OR a.language <> b.language OR a.emotion <> b.emotion)
"""
_COLUMNS = (
    *("recording_id", "segment_id", "other_id", "start_s", "end_s", "text", "language"),
    *("emotion", "other_text", "other_language", "other_emotion"),
)


class Pairs:
    """The segments on which two snapshots of one output differ."""

    def __init__(self, one: Snapshot, other: Snapshot) -> None:
        """Reads four tables of both; the pairs that differ stay in memory."""
        import duckdb

        self.fingerprint = other.fingerprint
        self._lock = threading.Lock()
        with ExitStack() as stack:
            connection = stack.enter_context(duckdb.connect())
            for side, snapshot in (("a", one), ("b", other)):
                create_views(connection, snapshot, f"{side}_", read_only=True)
                check_positions(connection, snapshot, f"{side}_")
                connection.execute(_SIDE.format(side=side))
            connection.execute(_PAIRS)
            stack.pop_all()
        self._connection = connection

    def page(self, what: What, rank: int, limit: int) -> dict[str, Any]:
        """The pairs from `rank` on in which `what` differs, by recording and time; their number."""
        condition = "true" if what == "any" else f"{what} <> other_{what}"
        query = (
            f"SELECT {', '.join(_COLUMNS)} FROM pairs WHERE {condition} "
            f"ORDER BY recording_id, segment_id LIMIT {limit} OFFSET {rank}"
        )
        with self._lock:
            rows = self._connection.execute(query).fetchall()
            counted = f"SELECT count(*) FROM pairs WHERE {condition}"
            n = self._connection.execute(counted).fetchall()[0][0]
        return {
            "other": self.fingerprint,
            "n": n,
            "rows": [dict(zip(_COLUMNS, row, strict=True)) for row in rows],
        }
