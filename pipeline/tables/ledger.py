"""What is done under a fingerprint: the ledger columns of the recordings table."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.schema import TABLES
from pipeline.storage.store import open_store
from pipeline.tables.commit_log import read_state

if TYPE_CHECKING:
    pass
from pipeline.tables.parquet import N_READERS, read_files

_LEDGER_ROWS = 1 << 20  # of the ledger at a time: 120 MB


_LEDGER = ("recording_id", "work_key", "attempts", "status", "error_type")


def ledger(
    root: str, storage_options: Mapping[str, Any] | None = None, *, fingerprint: str
) -> pa.Table:
    """What is done under a fingerprint: recording_id, work_key, attempts, status, error_type.

    One row per recording; empty when nothing was committed yet. The state of a recording, which
    new work must name in `supersedes`, is f"{work_key}:{attempts}".
    """
    parts = ledger_parts(root, storage_options, fingerprint=fingerprint)
    schema = pa.schema([TABLES["recordings"].field(name) for name in _LEDGER])
    return pa.concat_tables([schema.empty_table(), *parts])


def ledger_parts(
    root: str, storage_options: Mapping[str, Any] | None = None, *, fingerprint: str
) -> Iterator[pa.Table]:
    """`ledger`, a few files at a time: of ten million recordings, the whole is 1.2 GB."""
    store = open_store(root, storage_options)
    paths: list[str] = []
    n_rows = 0
    for file in read_state(store).table("recordings", fingerprint):
        if paths and (len(paths) == N_READERS or n_rows + file.rows > _LEDGER_ROWS):
            yield read_files(store, "recordings", paths, _LEDGER)
            paths, n_rows = [], 0
        paths.append(file.path)
        n_rows += file.rows
    if paths:
        yield read_files(store, "recordings", paths, _LEDGER)
