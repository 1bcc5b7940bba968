"""Committed files with other rows, and records that fit them: faults, and files of older code."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.storage.store import Store
from pipeline.tables.commit_log import read_state, record_key
from pipeline.tables.parquet import from_parquet, to_parquet


def put_record(store: Store, seq: int, values: dict[str, Any]) -> None:
    """Write a record as in LOG_VERSION 1, which had no digest."""
    store.put(record_key(seq), json.dumps(values | {"log_version": 1}).encode())


def file_of(store: Store, table: str) -> str:
    return next(iter(read_state(store).files[table]))


def rewrite(
    store: Store,
    table: str,
    change: Callable[[pa.Table], pa.Table],
    metadata: dict[str, str] | None = None,
) -> None:
    """Change the rows of a file and its record, so that only a check of rows can find it."""
    path = file_of(store, table)
    rows = from_parquet(store.get(path))
    kept = {key.decode(): value.decode() for key, value in rows.schema.metadata.items()}
    changed = change(rows.replace_schema_metadata(None))
    data = to_parquet(changed, metadata or kept)
    store.put(path, data)
    record = json.loads(store.get(record_key(1)))
    (file,) = (file for file in record["added"][table] if file["path"] == path)
    ids = changed["recording_id"].to_pylist()
    file |= {
        "rows": len(ids),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "first_id": ids[0],
        "last_id": ids[-1],
    }
    put_record(store, 1, record)
