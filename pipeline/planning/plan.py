"""What is left to do: the manifest without the recordings that the tables hold. Opens no audio.

A recording is done when the ledger holds its work key: a hash of its recording_id, its URI and
interval, the version of the object in the store, and the fingerprint of models and configuration.
So a recording is labelled again when its audio, the models or the configuration change, and only
then.

Ten million rows against ten million take 25 CPU-seconds and 1.5 GiB (jobs.benchmark planning): the
manifest is compared in slices, the ledger takes 40 bytes a row, and rows to do are compressed. A
first plan of ten million rows takes under 2 GiB, too (jobs.benchmark planning --first).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.arrow import Mask, pc, replace_columns, to_mask
from pipeline.errors import PERMANENT, ErrorType
from pipeline.manifest.identity import identities
from pipeline.manifest.keys import from_hex, work_keys
from pipeline.manifest.read import Manifest
from pipeline.planning.ledger_index import LedgerIndex
from pipeline.planning.legs import Legs
from pipeline.schema import PLANNED, TEXT_COLUMNS
from pipeline.storage.versions import DENIED, MISSING, UNREACHABLE, look_up_versions


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do."""

    legs: Legs  # the rows to do
    n_manifest: int
    n_done: int  # already in the tables, including errors
    n_errors_kept: int  # of these, errors that are not retried
    n_changed: int  # to do because their audio has changed
    n_retried: int  # to do because they failed before
    n_duplicates: int  # manifest rows that repeat another row
    bytes: int  # to read
    known_s: float  # seconds of audio to do, of the rows whose duration the manifest gives
    notes: Sequence[str] = ()  # what the manifest left out, for the user to read

    @property
    def n_todo(self) -> int:
        return self.legs.n_rows

    @property
    def todo(self) -> pa.Table:
        """All rows to do (schema.PLANNED) at once, 400 bytes each; a run takes them leg by leg."""
        return self.legs.table


@dataclass(frozen=True, slots=True)
class _Slice:
    """The plan for some rows of the manifest."""

    todo: pa.Table
    is_done: Mask
    is_error: Mask  # in the ledger
    is_changed: Mask
    is_retried: Mask

    def counts(self) -> dict[str, int]:
        return {
            "done": int(self.is_done.sum()),
            "errors_kept": int((self.is_done & self.is_error).sum()),
            "changed": int(self.is_changed.sum()),
            "retried": int(self.is_retried.sum()),
            "bytes": pc.sum(self.todo["bytes"]).as_py() or 0,
        }


def make_plan(
    manifest: Manifest,
    ledger: pa.Table | Iterable[pa.Table],
    fingerprint: str,
    options: Mapping[str, Any],
    *,
    retry: Literal["none", "errors"] = "none",
    max_attempts: int = 3,
    by_text: bool = False,
) -> Plan:
    """Compare the manifest with the ledger (recording_id, work_key, attempts, status, error_type).

    `retry="errors"` plans recordings again that failed for a reason outside their audio, until they
    have had `max_attempts` attempts in all. With `by_text` (label.align) a recording is work again
    when its text in the manifest has changed. A labelled recording whose file is now missing, or
    not allowed, keeps its labels. Raises StoreError when the store does not answer: without the
    versions, everything would be labelled again.
    """
    index = LedgerIndex.build(ledger, PERMANENT)
    limit = max_attempts if retry == "errors" else 0
    counts: Counter[str] = Counter()
    seconds: list[float] = []

    def todo() -> Iterator[pa.Table]:
        for rows in manifest.batches():
            part = _compare(_keyed(rows, fingerprint, options, by_text), index, limit)
            counts.update(part.counts())
            seconds.append(pc.sum(part.todo["length_s"]).as_py() or 0.0)
            yield part.todo

    return Plan(
        legs=Legs.of(todo()),
        n_manifest=manifest.n_rows,
        n_done=counts["done"],
        n_errors_kept=counts["errors_kept"],
        n_changed=counts["changed"],
        n_retried=counts["retried"],
        n_duplicates=manifest.n_duplicates,
        bytes=counts["bytes"],
        known_s=math.fsum(seconds),
        notes=manifest.notes,
    )


def _keyed(rows: pa.Table, fingerprint: str, options: Mapping[str, Any], by_text: bool) -> pa.Table:
    rows = _with_versions(rows, options)
    uri = identities(rows["uri"])
    if by_text:
        texts = [pc.map_lookup(rows["extra"], name, "first") for name in TEXT_COLUMNS]
        uri = pc.binary_join_element_wise(uri, pc.coalesce(*texts, ""), "\x1f")
    keys = work_keys(replace_columns(rows, uri=uri), fingerprint)
    return rows.append_column("work_key", keys)


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
