"""Snapshots of the tables for readers. Knows files and columns; knows nothing of how rows are made.

Every read follows the commit log, so all tables show the same commit and no superseded or
abandoned file is ever seen. A glob over the directories would see them.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from pipeline.commits import State, read_state
from pipeline.schema import TABLES
from pipeline.storage import Store, StoreError, open_store

if TYPE_CHECKING:
    import duckdb

N_READERS = 8  # requests in flight; a small GET is latency, not work
_SEGMENTS = """
    CREATE VIEW segments AS
    SELECT
        t.recording_id, t.segment_id, r.uri, t.start_s, t.end_s,
        t.text, t.confidence,
        l.language, l.probability AS language_probability,
        e.emotion, e.probability AS emotion_probability, e.emotion_forced,
        coalesce(v.events, []) AS events,
        t.rich_text, t.words, t.n_tokens, t.itn
    FROM transcripts t
    JOIN languages l USING (segment_id)
    JOIN emotions e USING (segment_id)
    JOIN recordings r ON r.recording_id = t.recording_id
    LEFT JOIN (
        SELECT segment_id, list(event ORDER BY start_s, source DESC) AS events
        FROM events GROUP BY segment_id
    ) v USING (segment_id)
"""
_LEDGER = ("recording_id", "work_key", "attempts", "status", "error_type")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tables of one model at one commit."""

    seq: int
    fingerprint: str
    filesystem: AbstractFileSystem  # reads the files, for DuckDB, pandas and polars, too
    _store: Store
    _state: State

    def files(self, table: str) -> list[str]:
        """Full paths or URIs of the parquet files of a table."""
        _check_table(table)
        listed = self._state.table(table, self.fingerprint)
        return [self._store.uri(file.path) for file in listed]

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a table, with exactly the columns and types of schema.TABLES."""
        paths = [file.path for file in self._state.table(table, self.fingerprint)]
        _check_table(table)
        return read_files(self._store, table, paths, columns)


def open_snapshot(
    root: str,
    storage_options: Mapping[str, Any] | None = None,
    seq: int | None = None,
    fingerprint: str | None = None,
) -> Snapshot:
    """The tables under `root` after commit `seq` (default: the newest).

    `fingerprint` picks the model and configuration, in full or as its first letters; by default
    the current one. Raises StoreError if there is nothing to read, saying what to do.
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
    return Snapshot(state.seq, chosen, store.filesystem, store, state)


def connect(
    root: str,
    storage_options: Mapping[str, Any] | None = None,
    seq: int | None = None,
    fingerprint: str | None = None,
) -> "duckdb.DuckDBPyConnection":
    """DuckDB with a view per table on one snapshot, and `segments`, the join of all of them.

    Needs nothing but DuckDB to read: local files directly, S3 through this project's filesystem.
    """
    import duckdb

    snapshot = open_snapshot(root, storage_options, seq, fingerprint)
    connection = duckdb.connect()
    if "://" in snapshot._store.root:
        connection.register_filesystem(snapshot.filesystem)
    for table, schema in TABLES.items():
        files = snapshot.files(table)
        if files:
            quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
            source = f"read_parquet([{quoted}], union_by_name = true)"
        else:
            connection.register(f"empty_{table}", schema.empty_table())
            source = f"empty_{table}"
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM {source}")
    connection.execute(_SEGMENTS)
    return connection


def ledger(
    root: str, storage_options: Mapping[str, Any] | None = None, *, fingerprint: str
) -> pa.Table:
    """What is done under a fingerprint: recording_id, work_key, attempts, status, error_type.

    One row per recording; empty when nothing was committed yet. The state of a recording, which
    new work must name in `supersedes`, is f"{work_key}:{attempts}".
    """
    store = open_store(root, storage_options)
    paths = [file.path for file in read_state(store).table("recordings", fingerprint)]
    return read_files(store, "recordings", paths, _LEDGER)


def read_files(
    store: Store, table: str, paths: Iterable[str], columns: Sequence[str] | None = None
) -> pa.Table:
    """Rows of parquet files of one table, in the order of `paths`, page checksums verified.

    A column that a file of an older program lacks is null. Raises OSError for a damaged page.
    """
    schema = TABLES[table]
    if columns is not None:
        if unknown := [name for name in columns if name not in schema.names]:
            raise ValueError(f"{table} has no columns {unknown}; it has {schema.names}")
        schema = pa.schema([schema.field(name) for name in columns])
    with ThreadPoolExecutor(N_READERS) as pool:
        parts = list(pool.map(lambda path: _read_file(store, path, schema), paths))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _read_file(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    # Arrow's own threads must never read through a Python file: one that still wants the GIL when
    # the interpreter exits aborts the finished process (arrow#50482, seen here with 26.0.1). So
    # no pre_buffer and no threads here; without a cache, each column chunk is one range request.
    with store.filesystem.open(store.uri(path), "rb", cache_type="none") as file:
        parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        names = [name for name in schema.names if name in parquet.schema_arrow.names]
        table = parquet.read(names, use_threads=False)
    columns = [
        table[field.name] if field.name in names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _check_table(table: str) -> None:
    if table not in TABLES:
        raise ValueError(f"there is no table {table!r}; there are {list(TABLES)}")


def _resolve(prefix: str, known: set[str], root: str) -> str:
    fitting = sorted(name for name in known if prefix and name.startswith(prefix))
    if len(fitting) != 1:
        raise StoreError(
            f"{root}: fingerprint {prefix!r} fits {fitting or 'none'} of {sorted(known)}"
        )
    return fitting[0]
