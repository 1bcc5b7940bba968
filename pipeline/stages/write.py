"""Bundle rows to one bundle in the store: the last stage. Knows nothing of commits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.run_records import RunInfo

_NAMES = pa.list_(pa.string())


def write_rows(batch: pa.Table, *, root: str, options: Mapping[str, Any], run: RunInfo) -> pa.Table:
    """Write bundle rows to the store as one bundle; returns a receipt of one row."""
    key = write_bundle(open_store(root, options), run, batch)
    errors = np.array(batch["error_stage"].to_pylist()) != ""
    last = np.array(batch["n_windows"]) > 0
    return pa.table(
        {
            "bundle": [key],
            "n_recordings": [int(last.sum())],
            "n_errors": [int(errors.sum())],
            "errors": pa.array([batch.filter(errors)["error_type"].to_pylist()], _NAMES),
            "example": batch.filter(errors)["error_message"].to_pylist()[:1] or [""],
            "audio_s": [float(np.sum(batch["duration_s"]))],
            "n_segments": [sum(len(segments) for segments in batch["segments"].to_pylist())],
        }
    )
