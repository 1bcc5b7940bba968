"""Recordings inside parquet, as Hugging Face's datasets stores them. Knows no other columns.

A column of structs with `bytes` and `path`, or of binary values, holds a file in every row. The
name of a member is its path, else its row. Only sizes and paths are read for a listing; the bytes
of audio are not, unless some are null and the statistics do not say which.
https://huggingface.co/docs/datasets/audio_dataset
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archives.members import Listing, MemberList, as_text
from pipeline.archives.opened import (
    Opened,
    Place,
    changed,
    damaged,
    empty,
    in_memory,
    too_large,
)
from pipeline.archives.streams import OpenArchive
from pipeline.errors import RecordingError, one_line

_DAMAGE = (pa.ArrowException, OSError, ValueError)
_ROWS = 4096  # rows of other columns at a time
_READ_ROWS = 8  # of audio at a time
_GROUP_BITS = 32  # a start is (row group << 32) + row in it + 1


def audio_column(schema: pa.Schema) -> str:
    """The column that holds the bytes of recordings; "" if there is none.

    It is called `audio`, or `datasets` says that it is Audio (another may hold images).
    """
    said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = said.get("info", {}).get("features", {})
    named = [name for name, kind in features.items() if kind.get("_type") == "Audio"]
    for name in [*named, "audio"]:
        kind = schema.field(name).type if name in schema.names else pa.null()
        if _is_struct(kind) or _is_binary(kind):
            return str(name)
    return ""


def has_audio(archive: OpenArchive) -> bool | None:
    """Whether a parquet file holds recordings; None if it is damaged."""
    try:
        return bool(audio_column(pq.read_schema(archive.file)))
    except _DAMAGE as error:
        if not archive.is_damage(error):
            raise
        return None


def place_of(start: int) -> tuple[int, int]:
    """(row group, row in it) of a member."""
    group, row = divmod(start - 1, 1 << _GROUP_BITS)
    return group, row


def list_parquet(archive: OpenArchive) -> Listing:
    """The recordings in a parquet file, one for each row.

    Raises what the store raises; damage is told in the listing.
    """
    members = MemberList()
    try:
        _list_rows(archive, members)
    except _DAMAGE as error:
        if not archive.is_damage(error):
            raise
        return members.listing("parquet", one_line(error))
    return members.listing("parquet")


def _list_rows(archive: OpenArchive, members: MemberList) -> None:
    file = pq.ParquetFile(archive.file, pre_buffer=False)
    column = audio_column(file.schema_arrow)
    is_struct = _is_struct(file.schema_arrow.field(column).type)
    others = [
        field.name
        for field in file.schema_arrow
        if field.name != column and not _holds_binary(field.type)
    ]
    for group in range(file.num_row_groups):
        rows = _rows(file, group, [*others, *([f"{column}.path"] if is_struct else [])])
        nulls = _nulls(file, group, f"{column}.bytes" if is_struct else column)
        size = _mean_size(file, group, column)
        for index, row in enumerate(rows):
            path = (row.get(column) or {}).get("path") if is_struct else None
            number = members.n_rows + 1
            is_null = nulls[index]
            members.add(
                path or f"row={number}",
                (group << _GROUP_BITS) + index + 1,
                size,
                elsewhere=(path or "") if is_null else "",
                error="audio is null" if is_null and not path else "",
                fields=_texts(row, others),
            )


def _rows(file: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    if not columns:
        yield from ({} for _ in range(file.metadata.row_group(group).num_rows))
        return
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
        yield from batch.to_pylist()


def _texts(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    texts = {name: as_text(row[name]) for name in names}
    return {name: text for name, text in texts.items() if text is not None}


def _nulls(file: pq.ParquetFile, group: int, path: str) -> Sequence[bool]:
    """Which rows have no bytes."""
    chunk = _chunk(file, group, path)
    n_rows = file.metadata.row_group(group).num_rows
    known = chunk.statistics.null_count if chunk.statistics is not None else None
    if known is not None and known in (0, n_rows):
        return [known == n_rows > 0] * n_rows
    column, _, leaf = path.partition(".")
    nulls: list[bool] = []
    for batch in file.iter_batches(16, row_groups=[group], columns=[path], use_threads=False):
        values: Any = batch.column(column)
        nulls += (values.field(leaf) if leaf else values).is_null().to_pylist()
    return nulls


def _mean_size(file: pq.ParquetFile, group: int, column: str) -> int:
    """Bytes of a recording in a row group, on average: enough to share out work."""
    path = f"{column}.bytes" if _is_struct(file.schema_arrow.field(column).type) else column
    n_rows = file.metadata.row_group(group).num_rows
    return int(_chunk(file, group, path).total_uncompressed_size // max(1, n_rows))


def _chunk(file: pq.ParquetFile, group: int, path: str) -> Any:
    groups = file.metadata.row_group(group)
    chunks = (groups.column(index) for index in range(groups.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema == path)


def _is_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    return {"bytes", "path"} <= fields.keys() and _is_binary(fields["bytes"])


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_binary(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_binary(kind.field(index).type) for index in range(kind.num_fields))
    return _is_binary(kind) or bool(pa.types.is_fixed_size_binary(kind))


# ---------------------------------------------------------------------- reading


def read_parquet(
    archive: OpenArchive, places: Sequence[Place], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    file = pq.ParquetFile(archive.file, pre_buffer=False)
    column = audio_column(file.schema_arrow)
    if not column:
        yield from (changed("has no column of audio any more") for _ in places)
        return
    values = _Values(file, column)
    for place in places:
        try:
            data = values.at(*place_of(place.start))
        except (pa.ArrowException, OSError, ValueError) as error:
            if archive.watched.failure:
                raise
            yield damaged(error)
            continue
        if data is None:
            yield changed("has no bytes in this row")
        elif len(data) > max_bytes:
            yield too_large(len(data), max_bytes)
        else:
            yield in_memory(data) if data else empty()


class _Values:
    """The binary values of a column, read forward, some at a time."""

    def __init__(self, file: pq.ParquetFile, column: str) -> None:
        self._file = file
        self._column = column
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._first = 0  # row of the batch in the group
        self._batch: Any = ()

    def at(self, group: int, row: int) -> bytes | None:
        """The bytes of a row; None if it is null, or there is no such row."""
        if group != self._group or row < self._first:
            if group >= self._file.num_row_groups:
                return None
            self._group, self._first, self._batch = group, 0, ()
            self._batches = self._file.iter_batches(
                _READ_ROWS, row_groups=[group], columns=[self._column], use_threads=False
            )
        while row >= self._first + len(self._batch):
            self._first += len(self._batch)
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._batch = batch.column(self._column)
        value = self._batch[row - self._first].as_py()
        data: bytes | None = value["bytes"] if isinstance(value, dict) else value
        return data
