"""Figures by group: by a manifest column, or by the folder of the recording. Knows SQL; no HTML.

A group's figures come from one query for each table. Only the largest groups are kept.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from pipeline.errors import Refused
from pipeline.report.queries import fetch

if TYPE_CHECKING:
    import duckdb

N_GROUPS = 12  # rows of a breakdown
_FEW = 24  # distinct values of a column that is broken down by default
_MOST_DEFAULTS = 3
_MOST_COLUMNS = 200  # names of extra columns that are looked at
_PREFIX = re.compile(r"prefix:([1-9]\d?)")


@dataclass(frozen=True, slots=True)
class Group:
    """The recordings with one value."""

    value: str
    n_recordings: int
    n_errors: int
    audio_s: float
    n_segments: int
    language: str  # that of most segments; "" without segments
    n_unknown: int  # segments without an emotion (EMO_UNKNOWN)
    confidence: float | None  # mean over segments with text; None without any


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The largest groups of a column, by audio."""

    by: str
    groups: Sequence[Group]
    n_groups: int  # about how many there are


def break_down(
    connection: "duckdb.DuckDBPyConnection", by: Sequence[str] | None = None
) -> list[Breakdown]:
    """One breakdown for each of `by`; None: for what most recordings have, with few values.

    `prefix:N` stands for the first N folders below the folder that all recordings share, any other
    name for a manifest column. Raises Refused for a column that no recording has.
    """
    columns = _columns(connection)
    if by is None:
        names = [*[name for name in columns if columns[name]][:_MOST_DEFAULTS], "prefix:1"]
        found = [_one(connection, name) for name in names]
        return [each for each in found if 1 < each.n_groups <= _FEW]
    for name in by:
        if name not in columns and not _PREFIX.fullmatch(name):
            known = ", ".join(columns) or "none"
            raise Refused(f"--by {name}: no such manifest column; there are: {known}; or prefix:1")
    return [_one(connection, name) for name in by]


def _columns(connection: "duckdb.DuckDBPyConnection") -> dict[str, bool]:
    """The names of the extra columns, and which are broken down by default.

    A default has few values, at least two recordings for each, and is given for most recordings.
    References (ref_...) come last.
    """
    sql = f"""
        WITH entries AS (SELECT unnest(map_entries(extra)) AS entry FROM recordings),
            whole AS (SELECT count(*) AS n FROM recordings)
        SELECT entry.key, approx_count_distinct(entry.value) AS n_values,
            n_values BETWEEN 2 AND least({_FEW}, any_value(whole.n) / 2)
                AND count(*) > any_value(whole.n) / 2
        FROM entries, whole
        GROUP BY 1 ORDER BY starts_with(entry.key, 'ref_'), 1 LIMIT {_MOST_COLUMNS}"""
    return {name: is_default for name, _, is_default in connection.execute(sql).fetchall()}


def _one(connection: "duckdb.DuckDBPyConnection", by: str) -> Breakdown:
    prefix = _PREFIX.fullmatch(by)
    value = _folder_sql(connection, int(prefix[1])) if prefix else "coalesce(extra[$by], '')"
    parameters = None if prefix else {"by": by}
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE grouped AS SELECT recording_id, {value} AS value "
        "FROM recordings",
        parameters,
    )
    ((n_groups,),) = connection.execute(
        "SELECT approx_count_distinct(value) FROM grouped"
    ).fetchall()
    groups = fetch(connection, Group, _GROUPS)
    connection.execute("DROP TABLE grouped")
    return Breakdown(by, groups, len(groups) if len(groups) < N_GROUPS else max(n_groups, N_GROUPS))


def _folder_sql(connection: "duckdb.DuckDBPyConnection", n: int) -> str:
    """SQL for the first `n` folders of `uri` below the folder that all recordings share."""
    ((first, last),) = connection.execute("SELECT min(uri), max(uri) FROM recordings").fetchall()
    # What the first and the last in the order of text begin with, all between them begin with, too.
    pairs = zip(*(str(uri or "").split("/")[:-1] for uri in (first, last)), strict=False)
    n_shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    folders = f"string_split(uri, '/')[{n_shared + 1}:-2]"  # the last part of a path is the file
    return f"array_to_string(({folders})[:{n}], '/')"


_GROUPS = f"""
    WITH largest AS (
        SELECT value, count(*) AS n_recordings, count(*) FILTER (status = 'error') AS n_errors,
            sum(duration_s) AS audio_s, sum(r.n_segments) AS n_segments
        FROM grouped JOIN recordings r USING (recording_id)
        GROUP BY 1 ORDER BY audio_s DESC, n_recordings DESC, value LIMIT {N_GROUPS}),
    shown AS (SELECT * FROM grouped WHERE value IN (SELECT value FROM largest)),
    texts AS (
        SELECT value, mode(language) AS language,
            avg(confidence) FILTER (n_tokens > 0) AS confidence
        FROM transcripts JOIN shown USING (recording_id) GROUP BY 1),
    feelings AS (
        SELECT value, count(*) FILTER (emotion = 'unknown') AS n_unknown
        FROM emotions JOIN shown USING (recording_id) GROUP BY 1)
    SELECT value, n_recordings, n_errors, audio_s, n_segments::BIGINT AS n_segments,
        coalesce(language, '') AS language, coalesce(n_unknown, 0) AS n_unknown, confidence
    FROM largest LEFT JOIN texts USING (value) LEFT JOIN feelings USING (value)
    ORDER BY audio_s DESC, n_recordings DESC, value"""
