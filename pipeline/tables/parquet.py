"""Parquet files in memory, with page checksums written and verified. Knows bytes and columns."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError, one_line
from pipeline.schema import LOGGED_TABLES
from pipeline.storage.read_twice import read_twice
from pipeline.storage.store import Store
from pipeline.storage.store_errors import uri_in_errors
from pipeline.tables.older_files import in_todays_meaning, with_needed

N_READERS = 8  # requests at a time; a small GET is mostly waiting

_DAMAGED = (pa.ArrowException, OSError, ValueError)  # what pyarrow raises for wrong bytes


def to_parquet(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """A whole parquet file in memory, so that a write that fails half-way leaves no valid file."""
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata(dict(metadata))
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_parquet(data: bytes) -> pa.Table:
    """All rows of a parquet file in memory, page checksums verified.

    Without checksums, Arrow returns wrong rows for a flipped bit, without an error. No threads: see
    _read_columns.
    """
    parquet = pq.ParquetFile(
        pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True
    )
    return parquet.read(use_threads=False)


def read_files(
    store: Store, table: str, paths: Iterable[str], columns: Sequence[str] | None = None
) -> pa.Table:
    """Rows of parquet files of one table, in the order of `paths`, page checksums verified.

    A nullable column that is missing, because an older program wrote the file, is null. Raises
    StoreError for a file that is damaged, and still is when read again.
    """
    schema = LOGGED_TABLES[table]
    if columns is not None:
        if unknown := [name for name in columns if name not in schema.names]:
            raise ValueError(f"{table} has no columns {unknown}; it has {schema.names}")
        schema = pa.schema([schema.field(name) for name in columns])
    with ThreadPoolExecutor(N_READERS) as pool:
        parts = list(pool.map(lambda path: _read_file(store, path, schema), paths))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _read_file(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    try:
        return read_twice(lambda: _read_columns(store, path, schema), _DAMAGED)
    except (FileNotFoundError, PermissionError):
        raise
    except _DAMAGED as error:
        reason = one_line(error).removeprefix(f"{store.uri(path)}: ")
        raise StoreError(
            f"{store.uri(path)}: cannot be read or is damaged ({reason}); if this happens again, "
            "restore the file from a backup or an older version"
        ) from error


def _read_columns(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    # Arrow's own threads must not read through a Python file: a thread that waits for the GIL when
    # the interpreter exits aborts the finished process (arrow#50482, seen here with 26.0.1). So
    # this uses no pre_buffer and no threads. Without a cache, a column chunk is one range request.
    uri = store.uri(path)
    with uri_in_errors(uri), store.filesystem.open(uri, "rb", cache_type="none") as file:
        parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        names = [name for name in schema.names if name in parquet.schema_arrow.names]
        # Page checksums do not cover the names of the columns.
        if lost := [f.name for f in schema if f.name not in names and not f.nullable]:
            raise pa.ArrowInvalid(f"it has no column {lost[0]}")
        table = parquet.read(with_needed(names), use_threads=False)
    return with_absent_columns(in_todays_meaning(table), schema)


def with_absent_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, in its order; those that an older program did not write are null."""
    columns = [
        _column(table, field) if field.name in table.column_names else _nulls(table.num_rows, field)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _column(table: pa.Table, field: "pa.Field[Any]") -> "pa.ChunkedArray[Any]":
    """As an older program wrote it; the fields of a struct that it did not write are null."""
    column = table[field.name]
    return column if column.type == field.type else column.cast(field.type)


def _nulls(n_rows: int, field: "pa.Field[Any]") -> "pa.Array[Any]":
    if not field.nullable:
        raise pa.ArrowInvalid(f"it has no column {field.name}")
    return pa.nulls(n_rows, field.type)
