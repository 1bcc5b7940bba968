"""What is left to do: the manifest without the recordings that the tables hold. Opens no audio.

A recording is done when the ledger holds its work key: a hash of its recording_id, its URI and
interval, the version of the object in the store, and the fingerprint of models and configuration.
So a recording is labelled again when its audio, the models or the configuration change, and only
then.

Ten million rows against ten million take 25 CPU-seconds and 1.5 GiB (jobs.benchmark planning): the
manifest is compared in slices, the ledger takes 40 bytes a row, and only rows to do are kept whole.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.arrow import Mask, pc, replace_columns, to_mask
from pipeline.errors import PERMANENT, ErrorType
from pipeline.manifest.keys import from_hex, work_keys
from pipeline.manifest.read import Manifest
from pipeline.manifest.rows import public
from pipeline.planning.ledger_index import LedgerIndex
from pipeline.schema import PLANNED
from pipeline.storage.versions import DENIED, MISSING, UNREACHABLE, look_up_versions


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do. `todo` has the schema PLANNED."""

    todo: pa.Table
    n_manifest: int
    n_done: int  # already in the tables, including errors
    n_errors_kept: int  # of these, errors that are not retried
    n_changed: int  # to do because their audio has changed
    n_retried: int  # to do because they failed before
    n_duplicates: int  # manifest rows that repeat another row
    bytes: int  # to read
    known_s: float  # seconds of audio to do, of the rows whose duration the manifest gives


@dataclass(frozen=True, slots=True)
class _Slice:
    """The plan for some rows of the manifest."""

    todo: pa.Table
    is_done: Mask
    is_error: Mask  # in the ledger
    is_changed: Mask
    is_retried: Mask


def make_plan(
    manifest: Manifest,
    ledger: pa.Table | Iterable[pa.Table],
    fingerprint: str,
    options: Mapping[str, Any],
    *,
    retry: Literal["none", "errors"] = "none",
    max_attempts: int = 3,
) -> Plan:
    """Compare the manifest with the ledger (recording_id, work_key, attempts, status, error_type).

    `retry="errors"` plans recordings again that failed for a reason outside their audio, until they
    have had `max_attempts` attempts in all. A labelled recording whose file is now missing, or not
    allowed, keeps its labels. Raises StoreError when the store does not answer: without the
    versions, everything would be labelled again.
    """
    index = LedgerIndex.build(ledger, PERMANENT)
    limit = max_attempts if retry == "errors" else 0
    slices = []
    for rows in manifest.batches():
        rows = _with_versions(rows, options)
        keys = work_keys(replace_columns(rows, uri=public(rows["uri"])), fingerprint)
        slices.append(_compare(rows.append_column("work_key", keys), index, limit))
    todo = pa.concat_tables([PLANNED.empty_table(), *(part.todo for part in slices)])
    return Plan(
        todo=todo,
        n_manifest=manifest.n_rows,
        n_done=sum(int(part.is_done.sum()) for part in slices),
        n_errors_kept=sum(int((part.is_done & part.is_error).sum()) for part in slices),
        n_changed=sum(int(part.is_changed.sum()) for part in slices),
        n_retried=sum(int(part.is_retried.sum()) for part in slices),
        n_duplicates=manifest.n_duplicates,
        bytes=pc.sum(todo["bytes"]).as_py() or 0,
        known_s=pc.sum(todo["length_s"]).as_py() or 0.0,
    )


def _compare(rows: pa.Table, index: LedgerIndex, max_attempts: int) -> _Slice:
    """Compare rows that have versions and work keys with the ledger."""
    known = index.find(rows["recording_id"])
    is_same = known.is_known & (known.keys == from_hex(rows["work_key"])).all(axis=1)
    is_gone = to_mask(pc.is_in(rows["version"], pa.array([MISSING, DENIED, UNREACHABLE])))
    is_retried = is_same & known.is_error & ~known.is_permanent & (known.attempts < max_attempts)
    is_done = (is_same & ~is_retried) | (is_gone & known.is_known & ~known.is_error)
    attempts = np.where(is_same, known.attempts + 1, 1)
    rows = rows.append_column("supersedes", known.states())
    rows = rows.append_column("attempts", pa.array(attempts, pa.int32()))
    return _Slice(
        todo=rows.filter(pa.array(~is_done)).select(PLANNED.names).cast(PLANNED),
        is_done=is_done,
        is_error=known.is_error,
        is_changed=known.is_known & ~is_same & ~is_done,
        is_retried=is_retried,
    )


def _with_versions(rows: pa.Table, options: Mapping[str, Any]) -> pa.Table:
    """Rows with the version and size of each object from the store, unless the manifest has them.

    The store is not asked for objects that are not allowed. They count as denied, so their labels,
    if there are any, are kept.
    """
    stage, kind, uri, version, size = (
        rows[name].combine_chunks()
        for name in ("error_stage", "error_type", "uri", "version", "bytes")
    )
    is_good = pc.equal(stage, "")
    version = pc.if_else(is_good, version, "")
    version = pc.if_else(pc.equal(kind, ErrorType.NOT_ALLOWED), DENIED, version)
    is_asked = pc.and_(is_good, pc.equal(version, ""))
    size = pc.if_else(is_good, size, 0)
    uris = uri.filter(is_asked)
    if len(uris):
        encoded = uris.dictionary_encode()
        facts = look_up_versions(encoded.dictionary.to_pylist(), options)
        found = pa.array([fact for fact, _ in facts], pa.string()).take(encoded.indices)
        sizes = pa.array([size for _, size in facts], pa.int64()).take(encoded.indices)
        version = pc.replace_with_mask(version, is_asked, found)
        size = pc.replace_with_mask(size, is_asked, sizes)
    return replace_columns(rows, version=version, bytes=size)
