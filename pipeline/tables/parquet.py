"""Parquet files in memory, page checksums written and verified. Knows bytes and columns."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.schema import TABLES
from pipeline.storage.store import Store
from pipeline.storage.store_errors import uri_in_errors

if TYPE_CHECKING:
    pass


def to_parquet(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """A whole parquet file in memory: a writer that fails half-way must not leave a valid one."""
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata(dict(metadata))
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_parquet(data: bytes) -> pa.Table:
    """All rows of a parquet file in memory, page checksums verified.

    Without them Arrow returns wrong rows for a flipped bit and says nothing. One thread and a
    buffer of Arrow's own: see tables.read_files.
    """
    parquet = pq.ParquetFile(
        pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True
    )
    return parquet.read(use_threads=False)


_DAMAGED = (pa.ArrowException, OSError, ValueError)  # what pyarrow says of wrong bytes


N_READERS = 8  # requests in flight; a small GET is latency, not work


def read_files(
    store: Store, table: str, paths: Iterable[str], columns: Sequence[str] | None = None
) -> pa.Table:
    """Rows of parquet files of one table, in the order of `paths`, page checksums verified.

    A nullable column that a file of an older program lacks is null. Raises StoreError for a file
    that is damaged, also when read a second time.
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
    with suppress(*_DAMAGED):  # a bit may flip on the way as well as in the store
        return _read_columns(store, path, schema)
    try:
        return _read_columns(store, path, schema)
    except (FileNotFoundError, PermissionError):
        raise
    except _DAMAGED as error:
        reason = str(error).removeprefix(f"{store.uri(path)}: ")
        raise StoreError(
            f"{store.uri(path)}: cannot be read or is damaged ({reason}); if that stays so, "
            "restore it from a backup or an older version"
        ) from error


def _read_columns(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    # Arrow's own threads must never read through a Python file: one that still wants the GIL when
    # the interpreter exits aborts the finished process (arrow#50482, seen here with 26.0.1). So
    # no pre_buffer and no threads here; without a cache, each column chunk is one range request.
    uri = store.uri(path)
    with uri_in_errors(uri), store.filesystem.open(uri, "rb", cache_type="none") as file:
        parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        names = [name for name in schema.names if name in parquet.schema_arrow.names]
        # Page checksums do not cover the names of the columns.
        if lost := [f.name for f in schema if f.name not in names and not f.nullable]:
            raise pa.ArrowInvalid(f"it has no column {lost[0]}")
        table = parquet.read(names, use_threads=False)
    columns = [
        table[field.name] if field.name in names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
