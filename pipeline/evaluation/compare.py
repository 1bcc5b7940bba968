"""Compare the labels of two models for the same recordings. Reads two snapshots; writes nothing.

Two models may segment the same speech differently, so segments are matched by time. Two segments
match if they overlap by at least half of the shorter one; all segments connected by matches form
one *stretch*. On each side, a stretch has the language and the emotion of its longest segment, and
the texts of all its segments in order.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rapidfuzz.distance import Levenshtein

from pipeline.tables.snapshots import Snapshot, create_views

if TYPE_CHECKING:
    import duckdb

_BATCH = 10_000  # stretches in memory at a time

_SEGMENTS = """
    CREATE VIEW {side}_segments AS
    SELECT
        t.recording_id, t.segment_id, t.start_s, t.end_s, t.end_s - t.start_s AS duration_s,
        t.text, l.language, e.emotion
    FROM {side}_transcripts t
    JOIN {side}_languages l USING (segment_id)
    JOIN {side}_emotions e USING (segment_id)
"""
# Segments of one side do not overlap by half of their length. So the matches of a recording are in
# the same order on both sides, and a match belongs to the stretch of the one before it if they
# share a segment.
_LINKS = """
    CREATE TEMP TABLE links AS
    WITH pairs AS (
        SELECT
            recording_id, a.segment_id AS a_id, b.segment_id AS b_id,
            a.start_s AS a_start_s, b.start_s AS b_start_s
        FROM a_segments a JOIN b_segments b USING (recording_id)
        WHERE least(a.end_s, b.end_s) - greatest(a.start_s, b.start_s)
            >= greatest(least(a.duration_s, b.duration_s) / 2, 0.001)
    ), marked AS (
        SELECT *, a_id IS DISTINCT FROM lag(a_id) OVER in_time
            AND b_id IS DISTINCT FROM lag(b_id) OVER in_time AS is_new
        FROM pairs
        WINDOW in_time AS (PARTITION BY recording_id ORDER BY a_start_s, b_start_s, a_id, b_id)
    )
    SELECT recording_id, a_id, b_id, count_if(is_new) OVER (
        PARTITION BY recording_id ORDER BY a_start_s, b_start_s, a_id, b_id
        ROWS UNBOUNDED PRECEDING
    ) AS stretch
    FROM marked
"""
_STRETCHES = """
    WITH {sides}
    SELECT a.language, a.emotion, a.text, b.language, b.emotion, b.text
    FROM a_stretches a JOIN b_stretches b USING (recording_id, stretch)
"""
_SIDE = """
    {side}_stretches AS (
        SELECT
            s.recording_id, m.stretch,
            arg_max(language, duration_s) AS language, arg_max(emotion, duration_s) AS emotion,
            string_agg(text, ' ' ORDER BY start_s) AS text
        FROM (SELECT DISTINCT recording_id, stretch, {side}_id AS segment_id FROM links) m
        JOIN {side}_segments s USING (segment_id)
        GROUP BY ALL
    )
"""
_UNMATCHED = """
    SELECT count(*) FROM {side}_segments
    WHERE segment_id NOT IN (SELECT {side}_id FROM links)
    AND recording_id IN (SELECT recording_id FROM {other}_recordings)
"""
_STATUSES = """
    SELECT a.status, a.error_type, b.status, b.error_type, count(*)
    FROM a_recordings a FULL JOIN b_recordings b USING (recording_id) GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a stretch on one side."""

    language: str
    emotion: str
    text: str


@dataclass(slots=True)
class Agreement:
    """How often two models agree, over some stretches."""

    n_stretches: int = 0
    n_language_flips: int = 0
    n_emotion_flips: int = 0
    n_characters: int = 0  # of A's texts, normalised
    n_edits: int = 0  # Levenshtein distance from A's texts to B's

    @property
    def cer(self) -> float:
        """Character error rate of B's texts with A's as the reference; nan if A has no text."""
        return self.n_edits / self.n_characters if self.n_characters else float("nan")


@dataclass(slots=True)
class Comparison:
    """What differs between A and B."""

    by_language: dict[str, Agreement] = field(default_factory=dict)  # the language in A
    language_flips: Counter[tuple[str, str]] = field(default_factory=Counter)  # (A, B)
    emotion_flips: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors_gained: Counter[str] = field(default_factory=Counter)  # ok in A; by error_type in B
    errors_lost: Counter[str] = field(default_factory=Counter)  # ok in B; by error_type in A
    n_both: int = 0  # recordings that both have, good or bad
    n_only_a: int = 0
    n_only_b: int = 0
    n_unmatched_a: int = 0  # segments of the recordings in both without a match in B
    n_unmatched_b: int = 0

    @property
    def total(self) -> Agreement:
        """All languages together."""
        parts = self.by_language.values()
        return Agreement(
            sum(part.n_stretches for part in parts),
            sum(part.n_language_flips for part in parts),
            sum(part.n_emotion_flips for part in parts),
            sum(part.n_characters for part in parts),
            sum(part.n_edits for part in parts),
        )


def compare(a: Snapshot, b: Snapshot) -> Comparison:
    """What B labels differently from A. DuckDB spills to disk what does not fit in memory."""
    import duckdb

    connection = duckdb.connect()
    for side, snapshot in (("a", a), ("b", b)):
        create_views(connection, snapshot, prefix=f"{side}_")
        connection.execute(_SEGMENTS.format(side=side))
    connection.execute(_LINKS)
    result = Comparison()
    _count_recordings(connection, result)
    for a_labels, b_labels in _stretches(connection):
        _count_stretch(result, a_labels, b_labels)
    result.n_unmatched_a = _count_unmatched(connection, "a", "b")
    result.n_unmatched_b = _count_unmatched(connection, "b", "a")
    return result


def normalise(text: str) -> str:
    """Only the letters, digits and marks of a text, NFKC-normalised and case-folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LNM")


def _count_recordings(connection: "duckdb.DuckDBPyConnection", result: Comparison) -> None:
    for a_status, a_type, b_status, b_type, count in connection.execute(_STATUSES).fetchall():
        if a_status is None:
            result.n_only_b += count
        elif b_status is None:
            result.n_only_a += count
        else:
            result.n_both += count
            if (a_status, b_status) == ("ok", "error"):
                result.errors_gained[b_type] += count
            if (a_status, b_status) == ("error", "ok"):
                result.errors_lost[a_type] += count


def _stretches(connection: "duckdb.DuckDBPyConnection") -> Iterator[tuple[Labels, Labels]]:
    sides = ", ".join(_SIDE.format(side=side) for side in "ab")
    cursor = connection.execute(_STRETCHES.format(sides=sides))
    while rows := cursor.fetchmany(_BATCH):
        for row in rows:
            yield Labels(*row[:3]), Labels(*row[3:])


def _count_stretch(result: Comparison, a: Labels, b: Labels) -> None:
    agreement = result.by_language.setdefault(a.language, Agreement())
    agreement.n_stretches += 1
    if a.language != b.language:
        agreement.n_language_flips += 1
        result.language_flips[a.language, b.language] += 1
    if a.emotion != b.emotion:
        agreement.n_emotion_flips += 1
        result.emotion_flips[a.emotion, b.emotion] += 1
    reference, hypothesis = normalise(a.text), normalise(b.text)
    agreement.n_characters += len(reference)
    agreement.n_edits += Levenshtein.distance(reference, hypothesis)


def _count_unmatched(connection: "duckdb.DuckDBPyConnection", side: str, other: str) -> int:
    row = connection.execute(_UNMATCHED.format(side=side, other=other)).fetchone()
    return int(row[0]) if row else 0
