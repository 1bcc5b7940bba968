"""Which recordings of one fingerprint another one lacks. Knows recording_ids only."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.store import Store
from pipeline.tables.commit_log import DataFile, State
from pipeline.tables.parquet import read_files

_BATCH_ROWS = 1 << 20  # recording_ids compared at a time


def n_recordings(state: State, fingerprint: str) -> int:
    """Recordings, failed ones included, that a fingerprint holds."""
    return sum(file.rows for file in state.table("recordings", fingerprint))


def count_uncovered(
    store: Store, state: State, fingerprint: str, added: "Sequence[pa.ChunkedArray]" = ()
) -> int:
    """Recordings of the default fingerprint that `fingerprint` lacks; `added`: ids it is to get.

    Raises FileNotFoundError if a vacuum deleted a file after a newer commit.
    """
    default = state.current_fingerprint
    if default == fingerprint or not n_recordings(state, default):
        return 0
    columns = [*_read_ids(store, state, fingerprint), *added]
    chunks = [chunk for column in columns for chunk in column.chunks]
    ids = pa.chunked_array(chunks, pa.string()).combine_chunks()
    return sum(
        len(held) - int(pc.sum(pc.is_in(held, value_set=ids)).as_py() or 0)
        for held in _read_ids(store, state, default)
    )


def _read_ids(store: Store, state: State, fingerprint: str) -> "Iterator[pa.ChunkedArray]":
    """The recording_ids of a fingerprint, about a million at a time."""
    for files in _groups(state.table("recordings", fingerprint)):
        paths = [file.path for file in files]
        ids: Any = read_files(store, "recordings", paths, ["recording_id"])["recording_id"]
        yield ids


def _groups(files: list[DataFile]) -> Iterator[list[DataFile]]:
    group: list[DataFile] = []
    for file in files:
        if group and sum(one.rows for one in group) + file.rows > _BATCH_ROWS:
            yield group
            group = []
        group.append(file)
    if group:
        yield group
