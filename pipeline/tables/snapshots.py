"""Snapshots of the tables for readers. Knows files and columns; knows nothing of how rows are made.

Every read follows the commit log. So all tables show the same commit, without the superseded and
abandoned files that a glob over the directories would include.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from fsspec import AbstractFileSystem

from pipeline.errors import StoreError
from pipeline.schema import MEASURE_FIELDS, TABLES
from pipeline.storage.store import Store, open_store
from pipeline.tables.commit_log import State, read_state
from pipeline.tables.older_files import REPLACED
from pipeline.tables.parquet import read_files
from pipeline.tables.review_table import committed_reviews, create_review_views
from pipeline.tables.snapshot_files import SnapshotFiles

if TYPE_CHECKING:
    import duckdb

_PATTERN = {*"*?[]{}"}  # DuckDB takes these characters in a path for a pattern

_SEGMENTS = """
    CREATE VIEW segments AS
    SELECT
        t.recording_id, t.segment_id, r.uri, t.start_s, t.end_s,
        t.text, t.confidence, t.confidence_frames, t.confidence_min,
        l.language, l.probability AS language_probability,
        e.emotion, e.probability AS emotion_probability, e.emotion_forced,
        coalesce(v.events, []) AS events,
        t.rich_text, t.words, t.n_tokens, t.itn, r.extra, t.channel
    FROM transcripts t
    JOIN languages l USING (segment_id)
    JOIN emotions e USING (segment_id)
    JOIN recordings r ON r.recording_id = t.recording_id
    LEFT JOIN (
        SELECT segment_id, list(event ORDER BY start_s, source DESC) AS events
        FROM events GROUP BY segment_id
    ) v USING (segment_id)
"""
# The commonest error of a language label is a short segment that differs from all others of its
# recording. A view of its own: as columns of `recordings` every query would pay for it.
_LANGUAGES = """
    CREATE VIEW recording_languages AS
    SELECT
        recording_id, arg_max(language, {'s': seconds, 'l': language}) AS recording_language,
        max(seconds) / sum(seconds) AS language_agreement
    FROM (
        SELECT recording_id, language, sum(end_s - start_s) AS seconds
        FROM languages WHERE language <> 'nospeech' GROUP BY ALL
    ) GROUP BY recording_id
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tables of one model at one commit."""

    seq: int
    fingerprint: str
    store: Store
    state: State

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The fsspec filesystem of the files; DuckDB, pandas and polars take it, too."""
        return self.store.filesystem

    def files(self, table: str) -> list[str]:
        """Full paths or URIs of the parquet files of a table."""
        _check_table(table)
        listed = self.state.table(table, self.fingerprint)
        return [self.store.uri(file.path) for file in listed]

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a table, with exactly the columns and types of schema.TABLES.

        Raises StoreError if a file is damaged, or was deleted by a vacuum.
        """
        paths = [file.path for file in self.state.table(table, self.fingerprint)]
        _check_table(table)
        try:
            return read_files(self.store, table, paths, columns)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.store.root}: commit {self.seq} can no longer be read ({error}): a vacuum "
                "has deleted files that newer commits do not need; open a newer snapshot"
            ) from error

    def parts(self) -> list[str]:
        """Keys of the `recordings` files, by first recording_id: one for each part (see parts)."""
        listed = self.state.table("recordings", self.fingerprint)
        return [file.path for file in sorted(listed, key=lambda file: (file.first_id, file.path))]


def open_snapshot(
    root: str,
    storage_options: Mapping[str, Any] | None = None,
    seq: int | None = None,
    fingerprint: str | None = None,
) -> Snapshot:
    """The tables under `root` after commit `seq` (default: the newest).

    `fingerprint` chooses the model and configuration; its first letters are enough. The default is
    the current one. Raises StoreError if there is nothing to read; the message says what to do.
    """
    store = open_store(root, storage_options)
    state = read_state(store, seq)
    if state.seq == 0:
        raise StoreError(f"{root}: no tables here yet; run the label job with this output first")
    if fingerprint is None:
        chosen = state.current_fingerprint
    else:
        known = {file.fingerprint for file in state.files["recordings"].values()}
        chosen = _resolve(fingerprint, known | {state.current_fingerprint}, root)
    return Snapshot(state.seq, chosen, store, state)


def connect(
    root: str,
    storage_options: Mapping[str, Any] | None = None,
    seq: int | None = None,
    fingerprint: str | None = None,
) -> "duckdb.DuckDBPyConnection":
    """DuckDB with a view of each table of one snapshot, and `segments`, the join of all of them.

    Also `reviews`, as of that commit, and `segments_reviewed`: the segments as corrected by people.

    DuckDB reads local files itself, and remote ones through this project's filesystem. It may do
    all that your account may: for SQL of others, use locked_sql.connect_locked.
    """
    import duckdb

    connection = duckdb.connect()
    create_all_views(connection, open_snapshot(root, storage_options, seq, fingerprint))
    return connection


def create_all_views(
    connection: "duckdb.DuckDBPyConnection", snapshot: Snapshot, *, read_only: bool = False
) -> list[str]:
    """Create all views of `connect`; returns the files as DuckDB opens them."""
    uris = create_views(connection, snapshot, read_only=read_only)
    connection.execute(_SEGMENTS)
    connection.execute(_LANGUAGES)
    create_review_views(connection, committed_reviews(snapshot.store, snapshot.state))
    return uris


def create_views(
    connection: "duckdb.DuckDBPyConnection",
    snapshot: Snapshot,
    prefix: str = "",
    *,
    read_only: bool = False,
) -> list[str]:
    """Create a view of each table, named `prefix` + table; returns the files as DuckDB opens them.

    DuckDB reads local files itself if `read_only` is false and their paths have no character that
    it takes for a pattern; other files through snapshot_files. Columns are those of schema.TABLES;
    one that no file has is null. `recordings` also has those of `measures`. DuckDB does not
    look for columns in the path: below a directory `language=yue`, each row would have this
    language.
    """
    files = SnapshotFiles(snapshot.store, f"{snapshot.seq} {snapshot.fingerprint} {prefix}")
    is_native = not (read_only or "://" in snapshot.store.root or _PATTERN & {*snapshot.store.root})
    if not is_native:
        connection.register_filesystem(files)
    opened: list[str] = []
    sources: dict[str, str] = {}
    for table, schema in TABLES.items():
        keys = [file.path for file in snapshot.state.table(table, snapshot.fingerprint)]
        uris = [snapshot.store.uri(key) if is_native else files.add(key) for key in keys]
        source = _source(connection, uris, f"{prefix}empty_{table}", schema)
        if table in REPLACED:
            source = f"SELECT * REPLACE ({REPLACED[table]}) FROM ({source})"
        sources[table] = source
        opened += uris
    sources["recordings"] = _with_measures(sources["recordings"], sources["measures"])
    for table, source in sources.items():
        connection.execute(f"CREATE VIEW {prefix}{table} AS {source}")
    return opened


def _with_measures(recordings: str, measures: str) -> str:
    """SQL for the recordings with what was measured of each; null if nothing was."""
    shown = ", ".join(f"m.{name}" for name, _ in MEASURE_FIELDS)
    return (
        f"SELECT r.*, {shown} FROM ({recordings}) r LEFT JOIN ({measures}) m "
        "ON m.recording_id = r.recording_id AND m.version = r.version"
    )


def _source(
    connection: "duckdb.DuckDBPyConnection", uris: Sequence[str], empty: str, schema: pa.Schema
) -> str:
    """SQL for the rows of these files, with all columns; `empty` may be used as a name."""
    quoted = ", ".join("'" + uri.replace("'", "''") + "'" for uri in uris)
    read = f"read_parquet([{quoted}], union_by_name = true, hive_partitioning = false)"
    source = f"SELECT * FROM {read}"
    connection.register(empty, schema.empty_table())
    if not uris:
        return f"SELECT * FROM {empty}"
    present, wanted = (
        {row[:2] for row in connection.execute(f"DESCRIBE {one}").fetchall()}
        for one in (source, f"SELECT * FROM {empty}")
    )
    if wanted <= present:  # also the fields of their structs
        return source
    columns = ", ".join(f'"{name}"' for name in schema.names)  # older programs wrote fewer
    return f"SELECT {columns} FROM ({source} UNION ALL BY NAME SELECT * FROM {empty})"


def _check_table(table: str) -> None:
    if table not in TABLES:
        raise ValueError(f"there is no table {table!r}; there are {list(TABLES)}")


def _resolve(prefix: str, known: set[str], root: str) -> str:
    fitting = sorted(name for name in known if prefix and name.startswith(prefix))
    if len(fitting) != 1:
        raise StoreError(
            f"{root}: fingerprint {prefix!r} fits {fitting or 'none'} of {sorted(known)}; "
            "give the first letters of one of these"
        )
    return fitting[0]
