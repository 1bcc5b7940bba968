"""The segments that a card shows: a sample, and lists for review. Knows SQL; writes no HTML.

Each list is the head of one column of one table (DuckDB keeps N rows, and sorts no more). Only then
are the other columns of the chosen rows read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report.queries import fetch, take_in_turn

if TYPE_CHECKING:
    import duckdb

N_SAMPLE = 12
N_LISTED = 8  # in each list for review
MAX_TEXT = 300  # characters of a text that are read


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """One labelled segment. Times are seconds from the start of its file."""

    segment_id: str
    recording_id: str
    uri: str
    start_s: float
    end_s: float
    text: str  # its first MAX_TEXT characters
    confidence: float | None  # None: no text
    language: str
    language_probability: float
    language_runner_up: str
    language_runner_up_probability: float
    emotion: str
    emotion_probability: float
    emotion_runner_up: str
    emotion_runner_up_probability: float
    events: Sequence[str]
    script: str
    script_fits: bool
    channel: int  # from 1; 0: all, mixed


@dataclass(frozen=True, slots=True)
class SegmentList:
    """Segments to look at for one reason."""

    title: str
    note: str  # how they were chosen
    doubt: str  # what to look at: "confidence", "language", "emotion", "script", or "" for nothing
    rows: Sequence[SegmentRow]


@dataclass(frozen=True, slots=True)
class WarnedRecording:
    """A recording that was labelled, with what is odd about its file."""

    recording_id: str
    uri: str
    duration_s: float
    warning: str


@dataclass(frozen=True, slots=True)
class _Choice:
    title: str
    note: str
    doubt: str
    segment_ids: str  # the query of their ids, the first row first


_CHOICES = (
    _Choice(
        "Lowest confidence",
        "Segments with text. Confidence is the mean probability of its tokens.",
        "confidence",
        f"""SELECT segment_id FROM transcripts WHERE n_tokens > 0
        ORDER BY confidence, segment_id LIMIT {N_LISTED}""",
    ),
    _Choice(
        "Two likely languages",
        "The second language is nearly as probable as the first.",
        "language",
        f"""SELECT segment_id FROM languages
        ORDER BY probability - runner_up_probability, segment_id LIMIT {N_LISTED}""",
    ),
    _Choice(
        "Two likely emotions",
        "The second emotion is nearly as probable as the first. Without EMO_UNKNOWN.",
        "emotion",
        f"""SELECT segment_id FROM emotions WHERE emotion <> 'unknown'
        ORDER BY probability - runner_up_probability, segment_id LIMIT {N_LISTED}""",
    ),
    _Choice(
        "EMO_UNKNOWN",
        "The model gives no emotion. First those where a known emotion is the most probable.",
        "emotion",
        f"""SELECT segment_id FROM emotions WHERE emotion = 'unknown'
        ORDER BY runner_up_probability DESC, segment_id LIMIT {N_LISTED}""",
    ),
)
_SAMPLE = f"""
    SELECT arg_min(segment_id, hash(segment_id), {N_SAMPLE}) FROM transcripts
    GROUP BY language ORDER BY count(*) DESC, language"""
_WARNED = f"""
    SELECT recording_id, uri, duration_s, left(warning, {MAX_TEXT}) AS warning FROM recordings
    WHERE warning <> '' AND status = 'ok' ORDER BY hash(recording_id) LIMIT {N_LISTED}"""
# The ids are chosen first in each table, so that no join is larger than the lists.
_ROWS = f"""
    WITH t AS (SELECT * FROM transcripts WHERE segment_id IN (SELECT unnest($ids))),
        l AS (SELECT * FROM languages WHERE segment_id IN (SELECT unnest($ids))),
        e AS (SELECT * FROM emotions WHERE segment_id IN (SELECT unnest($ids))),
        r AS (SELECT recording_id, uri FROM recordings
            WHERE recording_id IN (SELECT recording_id FROM t)),
        v AS (SELECT segment_id, list(DISTINCT event ORDER BY event) AS events FROM events
            WHERE segment_id IN (SELECT unnest($ids)) GROUP BY 1)
    SELECT segment_id, t.recording_id, r.uri, t.start_s, t.end_s, left(t.text, {MAX_TEXT}) AS text,
        CASE WHEN t.n_tokens > 0 THEN t.confidence END AS confidence,
        l.language, l.probability AS language_probability, l.runner_up AS language_runner_up,
        l.runner_up_probability AS language_runner_up_probability,
        e.emotion, e.probability AS emotion_probability, e.runner_up AS emotion_runner_up,
        e.runner_up_probability AS emotion_runner_up_probability,
        coalesce(v.events, []) AS events,
        script_of(t.text) AS script, script_fits(l.language, t.text) AS script_fits,
        coalesce(t.channel, 0) AS channel
    FROM t JOIN l USING (segment_id) JOIN e USING (segment_id)
    JOIN r ON r.recording_id = t.recording_id LEFT JOIN v USING (segment_id)"""


def list_segments(
    connection: "duckdb.DuckDBPyConnection", misfits: Sequence[str]
) -> tuple[SegmentList, list[SegmentList]]:
    """A sample, and the lists for review that have rows. The connection has define_scripts().

    `misfits` are ids of segments whose script does not fit their language.
    """
    groups = [row[0] for row in connection.execute(_SAMPLE).fetchall()]
    sample = take_in_turn(groups, N_SAMPLE)
    chosen = [_ids(connection, choice.segment_ids) for choice in _CHOICES]
    every = sorted({*sample, *misfits}.union(*chosen))
    rows = {row.segment_id: row for row in fetch(connection, SegmentRow, _ROWS, {"ids": every})}

    def listed(title: str, note: str, doubt: str, ids: Sequence[str]) -> SegmentList:
        return SegmentList(title, note, doubt, [rows[each] for each in ids])

    lists = [
        listed(
            "Script does not fit",
            "The text is in a script that its language is not written in.",
            "script",
            misfits,
        ),
        *(
            listed(choice.title, choice.note, choice.doubt, ids)
            for choice, ids in zip(_CHOICES, chosen, strict=True)
        ),
    ]
    note = "Drawn by a hash of the segment's id, each language in turn."
    return listed("Sample", note, "", sample), [each for each in lists if each.rows]


def list_warned(connection: "duckdb.DuckDBPyConnection") -> list[WarnedRecording]:
    """Some labelled recordings with a warning, drawn by a hash of their id."""
    return fetch(connection, WarnedRecording, _WARNED)


def _ids(connection: "duckdb.DuckDBPyConnection", sql: str) -> list[str]:
    return [row[0] for row in connection.execute(sql).fetchall()]
