"""Tables to figures: hours and shares by label, histograms, errors. Knows columns; no HTML.

Every figure is SQL over one snapshot, so its size in memory does not grow with the corpus.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.report.accuracy import Accuracy, read_accuracy
from pipeline.report.breakdown import Breakdown, break_down
from pipeline.report.queries import fetch, take_in_turn
from pipeline.report.scripts import define_scripts
from pipeline.report.segment_lists import (
    SegmentList,
    WarnedRecording,
    list_segments,
    list_warned,
)
from pipeline.tables import Snapshot
from pipeline.tables.snapshots import create_views

if TYPE_CHECKING:
    import duckdb

N_EXAMPLES = 3  # of each error type
N_MISMATCHES = 8
_N_DRAWN = 20  # of each error type, to find examples with different messages
_LENGTHS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)  # edges of recording lengths
_NUMBER = re.compile(r"[\d.,]+")


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all recordings. audio_s = labelled_s + silence_s + failed_s."""

    n_recordings: int
    n_errors: int
    n_silent: int  # without an error and without a segment
    n_warnings: int
    audio_s: float
    labelled_s: float
    silence_s: float
    failed_s: float
    n_segments: int


@dataclass(frozen=True, slots=True)
class Counts:
    """A snapshot in short. Counts by name are in falling order."""

    totals: Totals
    languages: Mapping[str, int]  # segments
    emotions: Mapping[str, int]  # segments
    events: Mapping[str, int]
    errors: Mapping[str, int]  # recordings by error_type


@dataclass(frozen=True, slots=True)
class Share:
    """How much audio has a label."""

    label: str
    n: int  # segments; of an event: how often it occurs
    seconds: float
    n_unknown: int = 0  # of a language: segments without an emotion (EMO_UNKNOWN)


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a histogram: low <= value < high. The last bar also has all larger values."""

    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class ScriptCount:
    """Segments of a language that are written in a script."""

    language: str
    script: str
    n: int
    fits: bool


@dataclass(frozen=True, slots=True)
class LanguageEmotion:
    """Segments with this language and this emotion."""

    language: str
    emotion: str
    n: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Recordings with the same error type. Examples are (uri, message)."""

    stage: str
    type: str
    n: int
    examples: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class RunShare:
    """The recordings of the snapshot that one run labelled."""

    run_id: str
    n_recordings: int
    n_errors: int
    seconds: float
    committed_at: str  # of its last commit, ISO 8601


@dataclass(frozen=True, slots=True)
class Figures:
    """What a report shows of one snapshot."""

    totals: Totals
    n_with_text: int  # segments
    median_confidence: float  # of segments with text; 0 without any
    n_emotion_unknown: int  # segments
    nospeech_s: float
    languages: Sequence[Share]
    emotions: Sequence[Share]
    events: Sequence[Share]
    recording_lengths: Sequence[Bin]
    segment_lengths: Sequence[Bin]
    confidences: Sequence[Bin]
    scripts: Sequence[ScriptCount]
    language_emotions: Sequence[LanguageEmotion]
    sample: SegmentList
    reviews: Sequence[SegmentList]  # lists for review that have rows
    warned: Sequence[WarnedRecording]
    breakdowns: Sequence[Breakdown]
    errors: Sequence[ErrorGroup]
    runs: Sequence[RunShare]
    models: Sequence[tuple[str, str]]  # (model, model_hash)
    accuracy: Accuracy  # as people found it


def count_labels(snapshot: Snapshot) -> Counts:
    """The short form of `measure_snapshot`, for a terminal. It reads no texts."""
    import duckdb

    with duckdb.connect() as connection:
        create_views(connection, snapshot)
        return Counts(
            totals=fetch(connection, Totals, _TOTALS)[0],
            languages=_count(connection, "language", "languages"),
            emotions=_count(connection, "emotion", "emotions"),
            events=_count(connection, "event", "events"),
            errors=_count(connection, "error_type", "recordings WHERE status = 'error'"),
        )


def measure_snapshot(
    connection: "duckdb.DuckDBPyConnection", by: Sequence[str] | None = None
) -> Figures:
    """All figures of a snapshot (see tables.connect). `by`: see breakdown.break_down."""
    define_scripts(connection)
    ((n_with_text, median_confidence),) = connection.execute(_TEXTS).fetchall()
    pairs = fetch(connection, LanguageEmotion, _LANGUAGE_EMOTIONS)
    languages = _languages(pairs)
    emotions = fetch(connection, Share, _by_label("emotions", "emotion"))
    scripts = connection.execute(_SCRIPTS).fetchall()
    sample, reviews = list_segments(
        connection, take_in_turn([row[4] for row in scripts], N_MISMATCHES)
    )
    return Figures(
        totals=fetch(connection, Totals, _TOTALS)[0],
        n_with_text=n_with_text,
        median_confidence=median_confidence,
        n_emotion_unknown=sum(share.n for share in emotions if share.label == "unknown"),
        nospeech_s=sum(share.seconds for share in languages if share.label == "nospeech"),
        languages=languages,
        emotions=emotions,
        events=fetch(connection, Share, _by_label("events", "event")),
        recording_lengths=_between(_LENGTHS_S, connection.execute(_RECORDING_LENGTHS).fetchall()),
        segment_lengths=_evenly(connection.execute(_SEGMENT_LENGTHS).fetchall(), 1.0),
        confidences=_evenly(connection.execute(_CONFIDENCES).fetchall(), 0.05, n_bins=20),
        scripts=[ScriptCount(*row[:4]) for row in scripts],
        language_emotions=pairs,
        sample=sample,
        reviews=reviews,
        warned=list_warned(connection),
        breakdowns=break_down(connection, by),
        errors=[
            ErrorGroup(stage, kind, n, _unlike([(e["uri"], e["message"]) for e in examples]))
            for stage, kind, n, examples in connection.execute(_ERRORS).fetchall()
        ],
        runs=fetch(connection, RunShare, _RUNS),
        models=connection.execute(_MODELS).fetchall(),
        accuracy=read_accuracy(connection),
    )


def _count(connection: "duckdb.DuckDBPyConnection", column: str, rows: str) -> dict[str, int]:
    sql = f"SELECT {column}, count(*) AS n FROM {rows} GROUP BY 1 ORDER BY n DESC, 1"
    return dict(connection.execute(sql).fetchall())


def _by_label(table: str, column: str) -> str:
    return f"""
        SELECT {column} AS label, count(*) AS n, sum(end_s - start_s) AS seconds
        FROM {table} GROUP BY 1 ORDER BY seconds DESC, 1"""


_TOTALS = """
    SELECT count(*) AS n_recordings, count(*) FILTER (status = 'error') AS n_errors,
        count(*) FILTER (status = 'ok' AND n_segments = 0) AS n_silent,
        count(*) FILTER (warning <> '') AS n_warnings,
        coalesce(sum(duration_s), 0) AS audio_s, coalesce(sum(labelled_s), 0) AS labelled_s,
        coalesce(sum(silence_s), 0) AS silence_s, coalesce(sum(failed_s), 0) AS failed_s,
        coalesce(sum(n_segments), 0) AS n_segments
    FROM recordings"""
_TEXTS = """
    SELECT count(*) FILTER (n_tokens > 0),
        coalesce(approx_quantile(confidence, 0.5) FILTER (n_tokens > 0), 0)
    FROM transcripts"""
_LANGUAGE_EMOTIONS = """
    SELECT language, emotion, count(*) AS n, sum(l.end_s - l.start_s) AS seconds
    FROM languages l JOIN emotions e USING (segment_id) GROUP BY 1, 2 ORDER BY 1, 2"""
_RECORDING_LENGTHS = f"""
    SELECT len(list_filter({list(_LENGTHS_S)}, lambda edge: edge <= duration_s)), count(*)
    FROM recordings WHERE status = 'ok' GROUP BY 1"""
_SEGMENT_LENGTHS = """
    SELECT least(floor(end_s - start_s), 60)::INT, count(*) FROM transcripts GROUP BY 1"""
_CONFIDENCES = """
    SELECT least(floor(confidence * 20), 19)::INT, count(*)
    FROM transcripts WHERE n_tokens > 0 GROUP BY 1"""
# Examples with the smallest hashes: from all parts of the corpus, and the same ones every time.
# Counts and examples in one query, so that the texts are read once.
_SCRIPTS = f"""
    SELECT language, script, count(*), script_suits(language, script),
        coalesce(arg_min(segment_id, hash(segment_id), {N_MISMATCHES})
            FILTER (NOT script_suits(language, script)), [])
    FROM (SELECT *, script_of(text) AS script FROM transcripts) GROUP BY 1, 2
    ORDER BY 1, 2"""
_ERRORS = f"""
    SELECT error_stage, error_type, count(*) AS n,
        arg_min({{'uri': uri, 'message': error_message}}, hash(recording_id), {_N_DRAWN})
    FROM recordings WHERE status = 'error' GROUP BY 1, 2 ORDER BY n DESC, 1, 2"""
_MODELS = "SELECT DISTINCT model, model_hash FROM recordings ORDER BY 1, 2"
_RUNS = """
    SELECT run_id, count(*) AS n_recordings, count(*) FILTER (status = 'error') AS n_errors,
        sum(duration_s) AS seconds,
        strftime(max(r.committed_at) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%SZ') AS committed_at
    FROM recordings r GROUP BY 1 ORDER BY 5 DESC, 1 LIMIT 20"""


def _languages(pairs: Sequence[LanguageEmotion]) -> list[Share]:
    """The sums over the emotions of each language, in falling order of seconds."""
    shares = []
    for language in {pair.language for pair in pairs}:
        own = [pair for pair in pairs if pair.language == language]
        n_unknown = sum(pair.n for pair in own if pair.emotion == "unknown")
        seconds = sum(pair.seconds for pair in own)
        shares.append(Share(language, sum(pair.n for pair in own), seconds, n_unknown))
    return sorted(shares, key=lambda share: (-share.seconds, share.label))


def _unlike(examples: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """At most N_EXAMPLES of them, whose messages differ in more than their numbers."""
    unlike: dict[str, tuple[str, str]] = {}
    for uri, message in examples:
        unlike.setdefault(_NUMBER.sub("", message), (uri, message))
    return list(unlike.values())[:N_EXAMPLES]


def _between(edges: Sequence[float], counts: Sequence[tuple[Any, ...]]) -> list[Bin]:
    """Bins between the edges, from 0 to the last that is not empty."""
    n = dict(counts)
    bounds = [0.0, *edges, float("inf")]
    return [Bin(bounds[i], bounds[i + 1], n.get(i, 0)) for i in range(max(n, default=0) + 1)]


def _evenly(counts: Sequence[tuple[Any, ...]], width: float, n_bins: int = 0) -> list[Bin]:
    """Bins of one width from 0 to the last that is not empty, or `n_bins` of them."""
    n = dict(counts)
    n_bins = n_bins or max(n, default=0) + 1
    return [Bin(i * width, (i + 1) * width, n.get(i, 0)) for i in range(n_bins)]
