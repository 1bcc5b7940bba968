"""Pages of segments of one snapshot, by SQL. Knows the tables; knows no audio, no HTTP.

transcripts, languages and emotions of a part hold the same segments in the same order (`verify`
checks it), so their rows are put side by side by position: 3 million segments are filtered in a
fifth of a second, where a join by segment_id takes many. A page chooses its keys first and then
reads 50 rows of each table. It continues after a key and not at an offset, so that it has neither
gaps nor doubles, and its time does not depend on how far it is from the start.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.explorer.positions import check_positions
from pipeline.explorer.uncertainty import score_expression
from pipeline.tables.locked_sql import check_select
from pipeline.tables.review_table import create_review_views
from pipeline.tables.snapshots import Snapshot

if TYPE_CHECKING:
    import duckdb

Order = Literal["key", "uncertainty", "random"]
ORDERS: tuple[Order, ...] = get_args(Order)
Cursor = tuple[Any, ...]  # the sort key of the last row of a page

MOST_ROWS = 200  # of a page
N_BINS = 20
_MOST_CHARACTERS = 5_000_000  # of an answer to SQL

_BY_POSITION = """
    CREATE VIEW browse AS
    SELECT
        t.recording_id, t.segment_id, t.start_s, t.end_s, t.end_s - t.start_s AS duration_s,
        t.text, t.rich_text, t.confidence, t.n_tokens, t.itn, t.channel,
        l.language, l.probability AS language_probability, l.runner_up AS language_runner_up,
        l.entropy AS language_entropy,
        e.emotion, e.probability AS emotion_probability, e.runner_up AS emotion_runner_up,
        e.entropy AS emotion_entropy, e.emotion_forced
    FROM transcripts t POSITIONAL JOIN languages l POSITIONAL JOIN emotions e
"""
# What a filter may name beyond the columns of `browse`; each costs a join, so only on demand.
_OF_RECORDINGS = "uri, extra, codec, sample_rate_hz, channels, warning"
_EXTRAS = {
    "events": "LEFT JOIN (SELECT segment_id, list(event) AS events FROM events GROUP BY 1) "
    "USING (segment_id)",
    "verdict, reviewer, note": "LEFT JOIN (SELECT segment_id, verdict, reviewer, note FROM "
    "fitted WHERE verdict <> 'withdrawn') "
    "USING (segment_id)",
    _OF_RECORDINGS: f"LEFT JOIN (SELECT recording_id, {_OF_RECORDINGS} FROM recordings) "
    "USING (recording_id)",
}
_OF_REVIEW = (
    *("verdict", "text", "language", "emotion", "events", "note", "reviewer", "saved_at"),
)
_FACETS = ("language", "emotion")
_HISTOGRAMS = {  # column: width of a bin
    "confidence": 0.05,
    "language_probability": 0.05,
    "emotion_probability": 0.05,
    "duration_s": 1.5,
}


@dataclass(frozen=True, slots=True)
class Page:
    """Some segments in their order, and where the next page continues (None: nowhere)."""

    rows: list[dict[str, Any]]
    cursor: Cursor | None


class Browser:
    """One snapshot behind a DuckDB connection that can open nothing else.

    Not for several threads at once. Filters are SQL conditions that a person wrote: run this in a
    process that can be killed (see query_processes.py).
    """

    def __init__(
        self, connection: "duckdb.DuckDBPyConnection", snapshot: Snapshot, reviews: pa.Table
    ) -> None:
        """`connection` has the views of tables.connect. Raises StoreError for unequal tables."""
        self._connection = connection
        self._score = ""
        connection.execute(_BY_POSITION)
        check_positions(connection, snapshot)
        self.use_reviews(reviews)

    def use_reviews(self, reviews: pa.Table) -> None:
        """Show these reviews from now on: rows of schema.REVIEWS."""
        create_review_views(self._connection, reviews)
        self._connection.execute(
            "CREATE OR REPLACE TEMP TABLE fitted AS SELECT * FROM fitted_reviews"
        )

    def page(self, where: str, order: Order, cursor: Cursor | None, limit: int) -> Page:
        """The next `limit` segments that fit the SQL condition `where` ("" for all).

        Raises ConfigError for a condition that is none, duckdb.Error for one that fails.
        """
        limit = min(limit, MOST_ROWS)
        key, after, by = self._order_of(order)
        values: list[Any] = []
        conditions = [self._condition(where)]
        if cursor is not None:
            conditions.append(after)
            values = [cursor[0], *cursor]
        source = self._source(where)
        query = (
            f"SELECT recording_id, segment_id, {key} FROM {source} "
            f"WHERE {' AND '.join(conditions)} ORDER BY {by} LIMIT {limit}"
        )
        keys = self._connection.execute(query, values).fetchall()
        rows = self.details([segment_id for _, segment_id, _ in keys])
        if len(keys) < limit:
            return Page(rows, None)
        recording_id, segment_id, rank = keys[-1]
        return Page(rows, (recording_id, segment_id) if order == "key" else (rank, segment_id))

    def count(self, where: str) -> int:
        """How many segments fit."""
        query = f"SELECT count(*) FROM {self._source(where)} WHERE {self._condition(where)}"
        return int(self._connection.execute(query).fetchall()[0][0])

    def facets(self, where: str) -> dict[str, Any]:
        """The number of segments by label, and histograms, among those that fit.

        {"n": 3, "language": [["zh", 2], ...], "confidence": {"edges": [0, .05, ...], "counts"}}
        """
        source, condition = self._source(where), self._condition(where)
        found: dict[str, Any] = {"n": self.count(where)}
        for name in _FACETS:
            found[name] = self._counts(f"SELECT {name} FROM {source} WHERE {condition}")
        chosen = f"SELECT segment_id FROM {source} WHERE {condition}" if where.strip() else ""
        among = f"WHERE segment_id IN ({chosen})" if chosen else ""
        found["event"] = self._counts(f"SELECT event FROM events {among}")
        found["verdict"] = self._counts(f"SELECT verdict FROM segment_reviews {among}")
        for name, width in _HISTOGRAMS.items():
            found[name] = self._histogram(name, width, source, condition)
        return found

    def segment(self, segment_id: str) -> dict[str, Any] | None:
        """One row of a page; None if the snapshot has no such segment."""
        return next(iter(self.details([segment_id])), None)

    def details(self, segment_ids: Sequence[str]) -> list[dict[str, Any]]:
        """All that the tables say of some segments, in the order asked for."""
        rows = self._rows_of("transcripts", segment_ids)
        languages = self._rows_of("languages", segment_ids)
        emotions = self._rows_of("emotions", segment_ids)
        reviews = self._rows_of("fitted", segment_ids)
        events: dict[str, list[dict[str, Any]]] = {}
        for event in self._dicts("SELECT * FROM events WHERE " + _among(segment_ids), segment_ids):
            events.setdefault(event["segment_id"], []).append(event)
        recordings = self.recordings({row["recording_id"] for row in rows.values()})
        return [
            _shown(
                rows[name],
                languages[name],
                emotions[name],
                events.get(name, []),
                recordings[rows[name]["recording_id"]],
                reviews.get(name),
            )
            for name in segment_ids
            if name in rows
        ]

    def recordings(self, recording_ids: "set[str]") -> dict[str, dict[str, Any]]:
        """Rows of the table `recordings`, by id."""
        ids = sorted(recording_ids)
        marks = ", ".join("?" * len(ids))
        query = f"SELECT * FROM recordings WHERE recording_id IN ({marks})" if ids else ""
        return {row["recording_id"]: row for row in self._dicts(query, ids)} if ids else {}

    def sql(self, statement: str, limit: int) -> dict[str, Any]:
        """The first `limit` rows of one statement that reads; ConfigError for any other."""
        check_select(self._connection, statement)
        answer = self._connection.execute(statement)
        columns = [column[0] for column in answer.description or ()]
        rows = answer.fetchmany(limit + 1)
        self._connection.abort()  # an unfinished answer would refuse the next request
        if sum(len(str(value)) for row in rows for value in row) > _MOST_CHARACTERS:
            raise ConfigError("the answer is too large for a page; select fewer columns or rows")
        return {"columns": columns, "rows": rows[:limit], "truncated": len(rows) > limit}

    def sample(self, where: str, size: int, seed: int) -> list[str]:
        """`size` segment_ids, each of those that fit with the same chance."""
        query = (
            f"SELECT segment_id FROM {self._source(where)} WHERE {self._condition(where)} "
            f"ORDER BY hash(segment_id || '{int(seed)}'), segment_id LIMIT {int(size)}"
        )
        return [row[0] for row in self._connection.execute(query).fetchall()]

    def most_uncertain(self, where: str, size: int, most_each: int) -> list[str]:
        """`size` segment_ids by falling uncertainty, at most `most_each` of one recording."""
        query = f"""
            SELECT segment_id FROM (
                SELECT recording_id, segment_id, {self._scored()} AS score
                FROM {self._source(where)} WHERE {self._condition(where)}
                ORDER BY score DESC, segment_id LIMIT {20 * int(size)}
            )
            QUALIFY row_number() OVER (
                PARTITION BY recording_id ORDER BY score DESC, segment_id
            ) <= {int(most_each)}
            ORDER BY score DESC, segment_id LIMIT {int(size)}
        """
        return [row[0] for row in self._connection.execute(query).fetchall()]

    def _order_of(self, order: Order) -> tuple[str, str, str]:
        """(the sort key beside the segment_id, the condition after a cursor, ORDER BY)."""
        if order == "key":
            after = "recording_id >= ? AND (recording_id, segment_id) > (?, ?)"
            return "NULL", after, "recording_id, segment_id"
        if order == "random":
            key = "hash(segment_id)"
            return key, f"({key} > ? OR ({key} = ? AND segment_id > ?))", f"{key}, segment_id"
        key = self._scored()
        after = f"({key} < ? OR ({key} = ? AND segment_id > ?))"
        return key, after, f"{key} DESC, segment_id"

    def _scored(self) -> str:
        self._score = self._score or score_expression(self._connection)
        return self._score

    def _condition(self, where: str) -> str:
        """`where` as one expression: neither a comment nor a bracket in it can end it early."""
        if not where.strip():
            return "true"
        check_select(self._connection, f"SELECT 1 FROM browse WHERE (\n{where}\n)")
        if len(self._connection.extract_statements(f"SELECT (\n{where}\n)")) != 1:
            raise ConfigError(f"{where!r} is not one SQL condition")
        return f"(\n{where}\n)"

    def _source(self, where: str) -> str:
        written = set(re.findall(r"\w+", where.lower()))
        needed = [join for names, join in _EXTRAS.items() if written & {*names.split(", ")}]
        return " ".join(["browse", *needed])

    def _counts(self, query: str) -> list[list[Any]]:
        counted = f"SELECT *, count(*) FROM ({query}) GROUP BY ALL ORDER BY 2 DESC, 1"
        return [list(row) for row in self._connection.execute(counted).fetchall()]

    def _histogram(self, name: str, width: float, source: str, condition: str) -> dict[str, Any]:
        place = f"least({N_BINS - 1}, floor({name} / {width}))::INT"
        query = (
            f"SELECT {place} AS bin, count(*) FROM {source} WHERE {condition} "
            f"AND {name} IS NOT NULL GROUP BY bin"
        )
        counts = dict(self._connection.execute(query).fetchall())
        edges = [round(width * place, 6) for place in range(N_BINS + 1)]
        return {"edges": edges, "counts": [counts.get(place, 0) for place in range(N_BINS)]}

    def _rows_of(self, table: str, segment_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        query = f"SELECT * FROM {table} WHERE {_among(segment_ids)}"
        return {row["segment_id"]: row for row in self._dicts(query, segment_ids)}

    def _dicts(self, query: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        if not values:
            return []
        answer = self._connection.execute(query, list(values))
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _among(segment_ids: Sequence[str]) -> str:
    return f"segment_id IN ({', '.join('?' * len(segment_ids))})"


def _shown(
    row: Mapping[str, Any],
    language: Mapping[str, Any],
    emotion: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    recording: Mapping[str, Any],
    review: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """One segment, as the page shows it."""
    names = ("segment_id", "recording_id", "start_s", "end_s", "text", "rich_text", "confidence")
    return {name: row[name] for name in (*names, "channel")} | {
        "itn": row["itn"],
        "words": row["words"],
        "language": _label(language, "language"),
        "emotion": _label(emotion, "emotion") | {"forced": emotion["emotion_forced"]},
        "events": [
            {name: event[name] for name in ("event", "probability", "start_s", "end_s", "source")}
            for event in sorted(
                events, key=lambda event: (event["start_s"], event["source"] != "tag")
            )
        ],
        "recording": {
            name: recording[name]
            for name in ("uri", "version", "duration_s", "sample_rate_hz", "channels", "codec")
        }
        | {"warning": recording["warning"], "extra": dict(recording["extra"] or {})},
        "revision": review["revision"] if review else 0,
        "reviewed_s": [review["start_s"], review["end_s"]] if review else None,
        "review": None
        if review is None or review["verdict"] == "withdrawn"
        else {name: review[name] for name in _OF_REVIEW},
    }


def _label(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        "label": row[name],
        "probability": row["probability"],
        "runner_up": row["runner_up"],
        "runner_up_probability": row["runner_up_probability"],
        "probabilities": row["probabilities"],
    }
