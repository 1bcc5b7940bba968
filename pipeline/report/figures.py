"""Tables to figures: hours and shares by label, histograms, errors. Knows columns, prints nothing.

All of it is SQL over one snapshot (`tables.connect`): a corpus of any size comes back as a page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.scripts import define_scripts
from pipeline.tables import Snapshot

if TYPE_CHECKING:
    import duckdb

N_EXAMPLES = 3  # of each error type
N_MISMATCHES = 12
_LENGTHS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)  # edges of recording lengths


@dataclass(frozen=True, slots=True)
class Totals:
    """What a snapshot holds. Counts by label are in falling order."""

    n_ok: int
    n_errors: int
    hours: float
    labelled_hours: float
    n_segments: int
    languages: Mapping[str, int]
    emotions: Mapping[str, int]
    events: Mapping[str, int]
    errors: Mapping[str, int]  # recordings by error_type


@dataclass(frozen=True, slots=True)
class Share:
    """How much carries a label."""

    label: str
    n: int  # segments; events heard
    seconds: float
    n_unknown: int = 0  # of a language: segments without an emotion (EMO_UNKNOWN)


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a histogram: [low, high), the last one closed or without end."""

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
class Mismatch:
    """A segment whose text is not in a script of its language."""

    segment_id: str
    start_s: float
    language: str
    script: str
    text: str


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Recordings that failed in one way. Examples are (uri, message)."""

    stage: str
    type: str
    n: int
    examples: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class RunShare:
    """What one run gave to the snapshot."""

    run_id: str
    n_recordings: int
    n_errors: int
    seconds: float
    committed_at: str  # of its last commit, ISO 8601


@dataclass(frozen=True, slots=True)
class Figures:
    """What a report shows of one snapshot."""

    n_recordings: int
    n_errors: int
    n_silent: int  # without an error and without a segment
    n_warnings: int
    audio_s: float  # = labelled_s + silence_s + failed_s
    labelled_s: float
    silence_s: float
    failed_s: float
    n_segments: int
    n_with_text: int
    n_emotion_unknown: int
    nospeech_s: float
    median_confidence: float  # of segments with text; 0 without any
    languages: Sequence[Share]
    emotions: Sequence[Share]
    events: Sequence[Share]
    recording_lengths: Sequence[Bin]
    segment_lengths: Sequence[Bin]
    confidences: Sequence[Bin]
    scripts: Sequence[ScriptCount]
    mismatches: Sequence[Mismatch]
    errors: Sequence[ErrorGroup]
    runs: Sequence[RunShare]
    models: Sequence[tuple[str, str]]  # (model, model_hash)


def count_totals(snapshot: Snapshot) -> Totals:
    """Read only the columns that the figures need."""
    columns = ["status", "error_type", "duration_s", "labelled_s", "n_segments"]
    recordings = snapshot.read("recordings", columns=columns)
    failed = pc.not_equal(recordings["status"], "ok")
    return Totals(
        n_ok=recordings.num_rows - (pc.sum(failed).as_py() or 0),
        n_errors=pc.sum(failed).as_py() or 0,
        hours=(pc.sum(recordings["duration_s"]).as_py() or 0.0) / 3600,
        labelled_hours=(pc.sum(recordings["labelled_s"]).as_py() or 0.0) / 3600,
        n_segments=pc.sum(recordings["n_segments"]).as_py() or 0,
        languages=count_values(snapshot.read("languages", columns=["language"])["language"]),
        emotions=count_values(snapshot.read("emotions", columns=["emotion"])["emotion"]),
        events=count_values(snapshot.read("events", columns=["event"])["event"]),
        errors=count_values(recordings.filter(failed)["error_type"]),
    )


def count_values(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, most frequent first."""
    counts = {pair["values"]: pair["counts"] for pair in pc.value_counts(column).to_pylist()}
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def measure(connection: "duckdb.DuckDBPyConnection") -> Figures:
    """All figures of a snapshot (see tables.connect)."""
    define_scripts(connection)

    def ask(sql: str) -> list[tuple[Any, ...]]:
        return connection.execute(sql).fetchall()

    (totals,) = ask("""
        SELECT count(*), count(*) FILTER (status = 'error'),
            count(*) FILTER (status = 'ok' AND n_segments = 0), count(*) FILTER (warning <> ''),
            coalesce(sum(duration_s), 0), coalesce(sum(labelled_s), 0),
            coalesce(sum(silence_s), 0), coalesce(sum(failed_s), 0)
        FROM recordings""")
    ((n_segments, n_with_text, median),) = ask("""
        SELECT count(*), count(*) FILTER (n_tokens > 0),
            coalesce(approx_quantile(confidence, 0.5) FILTER (n_tokens > 0), 0)
        FROM transcripts""")
    languages = [Share(*row) for row in ask(_LANGUAGES)]
    scripts = ask(_SCRIPTS)
    emotions = [Share(*row) for row in ask(_by_label("emotions", "emotion"))]
    return Figures(
        n_recordings=totals[0],
        n_errors=totals[1],
        n_silent=totals[2],
        n_warnings=totals[3],
        audio_s=totals[4],
        labelled_s=totals[5],
        silence_s=totals[6],
        failed_s=totals[7],
        n_segments=n_segments,
        n_with_text=n_with_text,
        n_emotion_unknown=sum(share.n for share in emotions if share.label == "unknown"),
        nospeech_s=sum(share.seconds for share in languages if share.label == "nospeech"),
        median_confidence=median,
        languages=languages,
        emotions=emotions,
        events=[Share(*row) for row in ask(_by_label("events", "event"))],
        recording_lengths=_between(_LENGTHS_S, ask(_RECORDING_LENGTHS)),
        segment_lengths=_evenly(ask(_SEGMENT_LENGTHS), 1.0),
        confidences=_evenly(ask(_CONFIDENCES), 0.05, n_bins=20),
        scripts=[ScriptCount(*row[:4]) for row in scripts],
        mismatches=_mismatches(scripts),
        errors=[
            ErrorGroup(stage, kind, n, [(e["uri"], e["message"]) for e in examples])
            for stage, kind, n, examples in ask(_ERRORS)
        ],
        runs=[RunShare(*row) for row in ask(_RUNS)],
        models=[
            (row[0], row[1]) for row in ask("SELECT DISTINCT model, model_hash FROM recordings")
        ],
    )


def _by_label(table: str, column: str) -> str:
    return f"""
        SELECT {column}, count(*), sum(end_s - start_s) AS seconds
        FROM {table} GROUP BY 1 ORDER BY seconds DESC, 1"""


_LANGUAGES = """
    SELECT language, count(*), sum(l.end_s - l.start_s) AS seconds,
        count(*) FILTER (emotion = 'unknown')
    FROM languages l JOIN emotions e USING (segment_id) GROUP BY 1 ORDER BY seconds DESC, 1"""
_RECORDING_LENGTHS = f"""
    SELECT len(list_filter({list(_LENGTHS_S)}, lambda edge: edge <= duration_s)), count(*)
    FROM recordings WHERE status = 'ok' GROUP BY 1"""
_SEGMENT_LENGTHS = """
    SELECT least(floor(end_s - start_s), 60)::INT, count(*) FROM transcripts GROUP BY 1"""
_CONFIDENCES = """
    SELECT least(floor(confidence * 20), 19)::INT, count(*)
    FROM transcripts WHERE n_tokens > 0 GROUP BY 1"""
# By a hash: examples from all over the corpus, and the same ones every time. One pass for both.
_SCRIPTS = f"""
    SELECT language, script, count(*), script_suits(language, script),
        coalesce(arg_min(
            {{'segment_id': segment_id, 'start_s': start_s, 'text': left(text, 200)}},
            hash(segment_id), {N_MISMATCHES}) FILTER (NOT script_suits(language, script)), [])
    FROM (SELECT *, script_of(text) AS script FROM transcripts) GROUP BY 1, 2
    ORDER BY 1, 2"""
_ERRORS = f"""
    SELECT error_stage, error_type, count(*) AS n,
        arg_min({{'uri': uri, 'message': error_message}}, hash(recording_id), {N_EXAMPLES})
    FROM recordings WHERE status = 'error' GROUP BY 1, 2 ORDER BY n DESC, 1, 2"""
_MODELS = "SELECT DISTINCT model, model_hash FROM recordings ORDER BY 1, 2"
_RUNS = """
    SELECT run_id, count(*), count(*) FILTER (status = 'error'), sum(duration_s),
        strftime(max(committed_at) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%SZ')
    FROM recordings GROUP BY 1 ORDER BY 5 DESC, 1 LIMIT 20"""


def _mismatches(scripts: Sequence[tuple[Any, ...]]) -> list[Mismatch]:
    """Examples of each pair of language and script in turn, so that rare pairs show, too."""
    groups = [
        [Mismatch(e["segment_id"], e["start_s"], language, script, e["text"]) for e in examples]
        for language, script, _, _, examples in scripts
    ]
    in_turn = (each for turn in zip_longest(*groups) for each in turn if each is not None)
    return list(islice(in_turn, N_MISMATCHES))


def _between(edges: Sequence[float], counts: Sequence[tuple[Any, ...]]) -> list[Bin]:
    n = dict(counts)
    bounds = [0.0, *edges, float("inf")]
    return [Bin(bounds[i], bounds[i + 1], n.get(i, 0)) for i in range(max(n, default=0) + 1)]


def _evenly(counts: Sequence[tuple[Any, ...]], width: float, n_bins: int = 0) -> list[Bin]:
    """Bins of one width, from 0 to the last that holds anything, or `n_bins` of them."""
    n = dict(counts)
    n_bins = n_bins or max(n, default=0) + 1
    return [Bin(i * width, (i + 1) * width, n.get(i, 0)) for i in range(n_bins)]
