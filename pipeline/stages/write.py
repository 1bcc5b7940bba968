"""Bundle rows to one bundle in the store: the last stage. Knows nothing of commits."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.storage.patience import with_patience
from pipeline.storage.redaction import redact
from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.run_records import RunInfo

_NAMES = pa.list_(pa.string())


def write_rows(
    batch: pa.Table,
    *,
    root: str,
    options: Mapping[str, Any],
    run: RunInfo,
    patience_s: float = 0.0,
) -> pa.Table:
    """Write bundle rows to the store as one bundle; returns a receipt of one row.

    Waits up to `patience_s` for a store that does not answer. If the bundle cannot be written, the
    receipt names the reason in `fault`. It is no exception, because Ray Data would skip this row
    batch and give the next one to the same store.
    """
    try:
        store = open_store(root, options)
        key = with_patience(partial(write_bundle, store, run, batch), patience_s)
    except (OSError, StoreError) as error:
        return _receipt(batch.slice(0, 0), "", redact(f"{type(error).__name__}: {error}"))
    return _receipt(batch, key, "")


def _receipt(batch: pa.Table, key: str, fault: str) -> pa.Table:
    errors = np.array(batch["error_stage"].to_pylist(), np.str_) != ""
    last = np.array(batch["n_windows"]) > 0
    failed = batch.filter(errors)
    return pa.table(
        {
            "bundle": [key],
            "n_recordings": [int(last.sum())],
            "n_errors": [int(errors.sum())],
            "errors": pa.array([failed["error_type"].to_pylist()], _NAMES),
            "example": failed["error_message"].to_pylist()[:1] or [""],
            "audio_s": [float(np.sum(batch["duration_s"]))],
            "n_segments": [sum(len(segments) for segments in batch["segments"].to_pylist())],
            "fault": [fault],
        }
    )
