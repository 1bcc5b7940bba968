"""One id for each row of a packed manifest. Knows ids and places; opens nothing."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrow import Column, Integers, pc
from pipeline.errors import ErrorType
from pipeline.manifest.keys import hash_ids
from pipeline.manifest.rows import NUMBERED, public

Hashes = Any  # uint64 (n,)


_PACKED = pa.ipc.IpcWriteOptions(compression="zstd")


def pack(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_PACKED) as writer:
        writer.write_table(table)
    return sink.getvalue()


def unpack(buffer: pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(buffer).read_all()


def make_unique(packed: list[pa.Buffer], hashes: Hashes, starts: Integers) -> int:
    """Drop and count repeated rows; rename another recording under a used id, as an error.

    Only rows whose id shares its hash with another one's are unpacked and compared in full.
    """
    ordered = np.sort(hashes)
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    places = np.flatnonzero(np.isin(hashes, shared)) if shared.size else shared
    while places.size:
        settled, n_dropped = _settle(_take(packed, places, starts))
        others = np.delete(np.arange(hashes.size), places)
        taken = others[np.isin(hashes[others], hash_ids(settled["recording_id"]))]
        if not taken.size:
            _put(packed, places, starts, settled)
            return n_dropped
        places = np.union1d(places, taken)  # a new name is somebody's own: look at that row, too
    return 0


def _take(packed: Sequence[pa.Buffer], places: Integers, starts: Integers) -> pa.Table:
    """The rows at these places, with the place as a column."""
    tables = []
    for index, buffer in enumerate(packed):
        inside = places[(places >= starts[index]) & (places < starts[index + 1])]
        if inside.size:
            rows = unpack(buffer).take(inside - starts[index])
            tables.append(rows.append_column("place", pa.array(inside)))
    return pa.concat_tables(tables)


def _put(packed: list[pa.Buffer], places: Integers, starts: Integers, settled: pa.Table) -> None:
    """These rows instead of what lay at `places`."""
    where = settled["place"].to_numpy()
    for index, buffer in enumerate(packed):
        first, last = starts[index], starts[index + 1]
        inside = places[(places >= first) & (places < last)]
        if not inside.size:
            continue
        table = unpack(buffer)
        kept = np.delete(np.arange(table.num_rows), inside - first)
        old = table.take(kept).append_column("place", pa.array(kept + first))
        new = settled.filter(pa.array((where >= first) & (where < last)))
        packed[index] = pack(pa.concat_tables([old, new]).sort_by("place").select(NUMBERED.names))


def _settle(table: pa.Table) -> tuple[pa.Table, int]:
    """Rows with an id each, and how many exact repetitions were dropped."""
    n_dropped = 0
    while True:
        first = _first_with_same(table["recording_id"])
        later = np.flatnonzero(first != np.arange(table.num_rows))
        if not later.size:
            return table, n_dropped
        same = np.ones(later.size, bool)
        for column in (public(table["uri"]), table["offset_s"], table["length_s"]):
            ours, theirs = (column.take(index) for index in (later, first[later]))
            same &= np.asarray(pc.equal(ours, theirs)).astype(bool)
        table = _rename(table, later[~same], first[later[~same]])
        kept = np.ones(table.num_rows, bool)
        kept[later[same]] = False
        table = table.filter(pa.array(kept))
        n_dropped += int(same.sum())


def _first_with_same(ids: Column) -> Integers:
    """For each row, the first row that has its id."""
    encoded: Column = pc.dictionary_encode(ids.cast(pa.large_string()))
    chunks: list[Integers] = [
        chunk.indices.to_numpy() for chunk in encoded.chunks
    ]  # one dictionary for all
    codes: Integers = np.concatenate([np.empty(0, np.int64), *chunks])
    first: Integers = np.empty(
        codes.size, np.int64
    )  # by code; of several writes the last one stays
    first[codes[::-1]] = np.arange(codes.size)[::-1]
    return np.asarray(first[codes])


def _rename(table: pa.Table, clashes: Integers, originals: Integers) -> pa.Table:
    """Clashing rows as DuplicateId errors, under ids that say what they are of."""
    ours, theirs = (
        table.select(["recording_id", "uri", "offset_s", "length_s", "row"]).take(index).to_pylist()
        for index in (clashes, originals)
    )
    changes = {
        "recording_id": [f"{row['recording_id']}~{_place_hash(row)}" for row in ours],
        "error_stage": ["manifest"] * len(ours),
        "error_type": [ErrorType.DUPLICATE_ID] * len(ours),
        "error_message": [
            f"row {row['row']}: row {other['row']} ({other['uri']}) has the same recording_id; "
            "give each its own"
            for row, other in zip(ours, theirs, strict=True)
        ],
    }
    place = np.zeros(table.num_rows, np.int64)
    place[clashes] = np.arange(clashes.size)
    is_clash = np.zeros(table.num_rows, bool)
    is_clash[clashes] = True
    for name, values in changes.items() if ours else ():
        changed = pc.if_else(pa.array(is_clash), pa.array(values).take(place), table[name])
        table = table.set_column(table.column_names.index(name), table.field(name), changed)
    return table


def _place_hash(row: Mapping[str, Any]) -> str:
    place = f"{row['uri']}\x1f{row['offset_s']}\x1f{row['length_s']}"
    return blake2b(place.encode(), digest_size=4).hexdigest()
