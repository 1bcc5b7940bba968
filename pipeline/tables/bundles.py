"""Bundles: what a worker leaves of one finished row batch. Knows one object; nothing of tables.

A bundle is a parquet object with rows of schema.BUNDLE, written once, in one piece, as
_bundles/{run_id}/{uuid}-{the first half of its sha256}.parquet. It says in its metadata who made
it, so it can be published by a later run when its own has died.
"""

import hashlib
import json
import uuid
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StoreError
from pipeline.schema import BUNDLE, SCHEMA_VERSION
from pipeline.storage.store import Store
from pipeline.tables.parquet import from_parquet, to_parquet
from pipeline.tables.run_records import RunInfo

BUNDLES = "_bundles/"
BALANCE_S = 0.0005  # labelled + silence + failed may miss the duration by this much, s


def write_bundle(store: Store, run: RunInfo, rows: pa.Table) -> str:
    """Store one finished row batch (schema.BUNDLE); the key of the bundle.

    Raises ValueError if the columns differ, a row's seconds do not add up, or a window is numbered
    beyond its recording's count.
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
    """Who made it and its rows; None if it is damaged, also when read a second time.

    Raises FileNotFoundError if it is gone, StoreError if a newer program wrote it.
    """
    for _ in range(2):  # a bit may flip on the way as well as in the store
        data = store.get(key)
        if not _is_whole(key, data):
            continue
        try:
            rows = from_parquet(data)
            metadata = rows.schema.metadata
            version = int(metadata[b"schema_version"])
            run = RunInfo(**json.loads(metadata[b"run"]))
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            continue
        if version > SCHEMA_VERSION:
            raise StoreError(f"{store.uri(key)}: written by a newer program; upgrade this one")
        if rows.schema.equals(BUNDLE):
            return run, rows.replace_schema_metadata(None)
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _is_whole(key: str, data: bytes) -> bool:
    """Page checksums do not cover the footer, which says whose rows these are."""
    _, dash, digest = key.rpartition("/")[2].removesuffix(".parquet").partition("-")
    return not dash or digest == _digest(data)  # older programs wrote names without one


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
