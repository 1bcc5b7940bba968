"""Bundles: the rows of one finished row batch, as one object. Knows nothing of tables.

A bundle is a parquet object with rows of schema.BUNDLE. A worker writes it once, as a whole, to
_bundles/{run_id}/{uuid}-{first half of its sha256}.parquet. Its metadata names the run that made
it, so a later run can publish it if that run died.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DamagedError, StoreError, one_line
from pipeline.schema import BUNDLE, SCHEMA_VERSION
from pipeline.storage.read_twice import read_twice
from pipeline.storage.store import Store
from pipeline.tables.parquet import from_parquet, to_parquet
from pipeline.tables.run_records import RunInfo

BUNDLES = "_bundles/"
# Columns of BUNDLE that older programs did not write, and what they mean without one. A bundle that
# waits while the program is upgraded can still be published.
ADDED_LATER: Mapping[str, str | float | int | list[Any]] = {
    "gap_s": 0.0,
    "start_offset_s": 0.0,
    "audio_streams": 0,  # not known
    "audio_stream": 0,
    "start": 0,  # not known
    "channel": 0,  # all
    "measures": [],  # not measured
    "quality": [],
}
BALANCE_S = 0.0005  # s, the allowed difference of labelled + silence + failed from the duration


def write_bundle(store: Store, run: RunInfo, rows: pa.Table) -> str:
    """Store one finished row batch (schema.BUNDLE) and return the key of the bundle.

    Raises ValueError if the columns differ, the seconds of a row do not add up, or window_index and
    n_windows of a row do not fit.
    """
    if not rows.schema.equals(BUNDLE):
        raise ValueError(f"bundle rows have the wrong columns:\n{rows.schema}\nexpected:\n{BUNDLE}")
    _check_rows(rows)
    metadata = {"run": json.dumps(asdict(run)), "schema_version": str(SCHEMA_VERSION)}
    data = to_parquet(rows, metadata)
    key = f"{BUNDLES}{run.run_id}/{uuid.uuid4().hex}-{_digest(data)}.parquet"
    store.put(key, data)
    return key


def read_bundle(store: Store, key: str) -> tuple[RunInfo, pa.Table] | None:
    """The run that made a bundle, and its rows. None if both of two reads find it damaged.

    Raises FileNotFoundError if it does not exist, StoreError if a newer program wrote it.
    """
    try:
        return read_twice(lambda: _read(store, key), DamagedError)
    except DamagedError:
        return None


def _read(store: Store, key: str) -> tuple[RunInfo, pa.Table]:
    data, uri = store.get(key), store.uri(key)
    if not _is_whole(key, data):
        raise DamagedError(f"{uri}: its sha256 is not the one in its name")
    try:
        rows = from_parquet(data)
        metadata = rows.schema.metadata
        version = int(metadata[b"schema_version"])
        run = RunInfo(**json.loads(metadata[b"run"]))
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{uri}: cannot be read: {one_line(error)}") from error
    if version > SCHEMA_VERSION:
        raise StoreError(f"{uri}: written by a newer program; upgrade this one")
    rows = _with_added(rows.replace_schema_metadata(None))
    if not rows.schema.equals(BUNDLE):
        raise DamagedError(f"{uri}: has the wrong columns")
    return run, rows


def _with_added(rows: pa.Table) -> pa.Table:
    """The columns of BUNDLE; those of ADDED_LATER that are missing have their neutral value."""
    missing = [name for name in ADDED_LATER if name not in rows.column_names]
    for name in missing:
        field = BUNDLE.field(name)
        values = pa.repeat(pa.scalar(ADDED_LATER[name], field.type), rows.num_rows)
        rows = rows.append_column(field, values)
    if missing and {*BUNDLE.names} <= {*rows.column_names}:
        rows = rows.select(BUNDLE.names)
    return _with_added_fields(rows)


def _with_added_fields(rows: pa.Table) -> pa.Table:
    """Fields of `segments` that are missing are null, where they may be."""
    field = BUNDLE.field("segments")
    place = rows.schema.get_field_index("segments")
    if place < 0 or rows.schema.field(place).type == field.type:
        return rows
    try:
        return rows.set_column(place, field, rows["segments"].cast(field.type))
    except pa.ArrowInvalid:  # other fields, or types: its columns are wrong
        return rows


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _is_whole(key: str, data: bytes) -> bool:
    """Page checksums do not cover the footer, and the footer names the run."""
    _, dash, digest = key.rpartition("/")[2].removesuffix(".parquet").partition("-")
    return not dash or digest == _digest(data)  # older programs wrote names without a digest


def _check_rows(rows: pa.Table) -> None:
    spent_s = pc.add(pc.add(rows["labelled_s"], rows["silence_s"]), rows["failed_s"])
    wrong = pc.greater_equal(pc.abs(pc.subtract(spent_s, rows["duration_s"])), pa.scalar(BALANCE_S))
    if unbalanced := rows.filter(wrong)["recording_id"].to_pylist():
        raise ValueError(
            f"labelled_s + silence_s + failed_s is not duration_s in {unbalanced[0]!r} "
            f"({len(unbalanced)} rows)"
        )
    index, count = rows["window_index"], rows["n_windows"]
    zero = pa.scalar(0, pa.int32())
    is_last = pc.equal(count, pc.add(index, pa.scalar(1, pa.int32())))
    valid = pc.and_(pc.greater_equal(index, zero), pc.or_(pc.equal(count, zero), is_last))
    if misplaced := rows.filter(pc.invert(valid))["recording_id"].to_pylist():
        raise ValueError(
            f"n_windows must be 0, or window_index + 1 on the last window, in {misplaced[0]!r} "
            f"({len(misplaced)} rows)"
        )
