"""Make the ids of a packed manifest unique. Opens nothing."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrow import Column, Integers, Mask, pc
from pipeline.errors import ErrorType
from pipeline.manifest.identity import identities
from pipeline.manifest.keys import hash_ids
from pipeline.manifest.rows import NUMBERED
from pipeline.storage.redaction import identity_uri, public_uri

Hashes = Any  # uint64 (n,)

_PART = ("offset_s", "length_s", "channel")  # of the file
_COMPARED = 1000  # dropped rows whose other columns are compared, for a note

_PACKED = pa.ipc.IpcWriteOptions(compression="zstd")


def pack(table: pa.Table) -> pa.Buffer:
    """A table as a compressed Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_PACKED) as writer:
        writer.write_table(table)
    return sink.getvalue()


def unpack(buffer: pa.Buffer) -> pa.Table:
    """The table that was packed."""
    return pa.ipc.open_stream(buffer).read_all()


def drop_repeated(table: pa.Table) -> tuple[pa.Table, int, str]:
    """Rows without those that repeat an earlier one of this table, their number, and a note.

    The note is "" unless a dropped row differs in other columns. Most repetitions of a file of
    equal rows end here, so that `make_unique` need not hold them all.
    """
    hashes = hash_ids(table["recording_id"])
    if np.unique(hashes).size == hashes.size:
        return table, 0, ""
    first = _first_with_same(table["recording_id"])
    later = np.flatnonzero(first != np.arange(table.num_rows))
    later = later[_is_same(table, later, first[later])]
    is_kept = np.ones(table.num_rows, bool)
    is_kept[later] = False
    note = _explain_difference(table, later, first[later])
    return table.filter(pa.array(is_kept)), int(later.size), note


def _is_same(table: pa.Table, second: Integers, first: Integers) -> Mask:
    """Whether rows with the same id have the same address and range, too."""
    is_same = np.ones(second.size, bool)
    for column in (identities(table["uri"]), *(table[name] for name in _PART)):
        second_values, first_values = (column.take(index) for index in (second, first))
        is_same &= np.asarray(pc.equal(second_values, first_values)).astype(bool)
    return is_same


def _explain_difference(table: pa.Table, second: Integers, first: Integers) -> str:
    """A sentence about the first dropped row, of some, that has other values in `extra`."""
    rows = table.select(["row", "extra"])
    pairs = zip(
        rows.take(second[:_COMPARED]).to_pylist(maps_as_pydicts="strict"),
        rows.take(first[:_COMPARED]).to_pylist(maps_as_pydicts="strict"),
        strict=True,
    )
    for late, early in pairs:
        keys = late["extra"].keys() | early["extra"].keys()
        if names := sorted(k for k in keys if late["extra"].get(k) != early["extra"].get(k)):
            return (
                f"row {late['row']} repeats the address and range of row {early['row']} and is "
                f"left out, although it differs in {', '.join(names[:5])}; to label both, give "
                "each its own recording_id"
            )
    return ""


def make_unique(packed: list[pa.Buffer], hashes: Hashes, starts: Integers) -> int:
    """Drop repeated rows and return their number; turn other rows with a used id into errors.

    `hashes` are those of all ids, in order; rows `starts[i]` to `starts[i + 1]` are in `packed[i]`,
    which is changed in place. Only rows with equal hashes are unpacked and compared in full.
    """
    ordered = np.sort(hashes)
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    positions = np.flatnonzero(np.isin(hashes, shared)) if shared.size else shared
    while positions.size:
        unique, n_dropped = _deduplicate(_unpack_rows(packed, positions, starts))
        others = np.delete(np.arange(hashes.size), positions)
        taken = others[np.isin(hashes[others], hash_ids(unique["recording_id"]))]
        if not taken.size:
            _replace_rows(packed, positions, starts, unique)
            return n_dropped
        positions = np.union1d(positions, taken)  # these rows have the ids of renamed rows
    return 0


def _unpack_rows(packed: Sequence[pa.Buffer], positions: Integers, starts: Integers) -> pa.Table:
    """The rows at these positions, with an extra column `position`."""
    tables = []
    for index, buffer in enumerate(packed):
        inside = positions[(positions >= starts[index]) & (positions < starts[index + 1])]
        if inside.size:
            rows = unpack(buffer).take(inside - starts[index])
            tables.append(rows.append_column("position", pa.array(inside)))
    return pa.concat_tables(tables)


def _replace_rows(
    packed: list[pa.Buffer], positions: Integers, starts: Integers, rows: pa.Table
) -> None:
    """Replace the rows at `positions` by `rows`, which may be fewer."""
    new_positions = rows["position"].to_numpy()
    for index, buffer in enumerate(packed):
        first, last = starts[index], starts[index + 1]
        inside = positions[(positions >= first) & (positions < last)]
        if not inside.size:
            continue
        table = unpack(buffer)
        kept = np.delete(np.arange(table.num_rows), inside - first)
        old = table.take(kept).append_column("position", pa.array(kept + first))
        new = rows.filter(pa.array((new_positions >= first) & (new_positions < last)))
        whole = pa.concat_tables([old, new]).sort_by("position")
        packed[index] = pack(whole.select(NUMBERED.names))


def _deduplicate(table: pa.Table) -> tuple[pa.Table, int]:
    """Rows with unique ids, and the number of exact repetitions that were dropped."""
    n_dropped = 0
    while True:
        first = _first_with_same(table["recording_id"])
        later = np.flatnonzero(first != np.arange(table.num_rows))
        if not later.size:
            return table, n_dropped
        is_same = _is_same(table, later, first[later])
        table = _rename(table, later[~is_same], first[later[~is_same]])
        is_kept = np.ones(table.num_rows, bool)
        is_kept[later[is_same]] = False
        table = table.filter(pa.array(is_kept))
        n_dropped += int(is_same.sum())


def _first_with_same(ids: Column) -> Integers:
    """For each row, the position of the first row with the same id."""
    encoded: Column = pc.dictionary_encode(ids.cast(pa.large_string()))
    chunks: list[Integers] = [chunk.indices.to_numpy() for chunk in encoded.chunks]
    codes: Integers = np.concatenate([np.empty(0, np.int64), *chunks])  # all chunks share one code
    first: Integers = np.empty(codes.size, np.int64)  # by code
    first[codes[::-1]] = np.arange(codes.size)[::-1]  # of several writes, numpy keeps the last
    return np.asarray(first[codes])


def _rename(table: pa.Table, clashes: Integers, originals: Integers) -> pa.Table:
    """Turn rows with a used id into DuplicateId errors, with ids made from their URI and range."""
    renamed, first = (
        table.select(["recording_id", "uri", *_PART, "row"]).take(index).to_pylist()
        for index in (clashes, originals)
    )
    changes = {
        "recording_id": [f"{row['recording_id']}~{_hash_of_range(row)}" for row in renamed],
        "error_stage": ["manifest"] * len(renamed),
        "error_type": [ErrorType.DUPLICATE_ID] * len(renamed),
        "error_message": [
            f"row {row['row']}: row {other['row']} ({public_uri(other['uri'])}) has the same "
            "recording_id; give each recording its own"
            for row, other in zip(renamed, first, strict=True)
        ],
    }
    new_index = np.zeros(table.num_rows, np.int64)
    new_index[clashes] = np.arange(clashes.size)
    is_clash = np.zeros(table.num_rows, bool)
    is_clash[clashes] = True
    for name, values in changes.items() if renamed else ():
        changed = pc.if_else(pa.array(is_clash), pa.array(values).take(new_index), table[name])
        table = table.set_column(table.column_names.index(name), table.field(name), changed)
    return table


def _hash_of_range(row: Mapping[str, Any]) -> str:
    text = f"{identity_uri(row['uri'])}\x1f{row['offset_s']}\x1f{row['length_s']}"
    if row["channel"]:
        text += f"\x1f{row['channel']}"
    return blake2b(text.encode(), digest_size=4).hexdigest()
