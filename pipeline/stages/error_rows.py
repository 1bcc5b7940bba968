"""Exceptions to columns of a row. Knows the error columns; raises nothing."""

import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.arrow import Row
from pipeline.errors import RecordingError
from pipeline.schema import BUNDLE, PLANNED_FIELDS
from pipeline.storage.redaction import public_uri, redact


def describe_error(stage: str, error: BaseException) -> Row:
    """The three error columns of a row."""
    kind = error.kind if isinstance(error, RecordingError) else type(error).__name__
    message = redact(str(error) or repr(error))
    return {"error_stage": stage, "error_type": kind, "error_message": message[:2000]}


def error_row(planned: Mapping[str, Any], stage: str, kind: str, message: str) -> pa.Table:
    """One bundle row (schema.BUNDLE) for a recording that no worker could finish."""
    row = {name: planned[name] for name, _ in PLANNED_FIELDS} | {
        "uri": public_uri(planned["uri"]),
        "error_stage": stage,
        "error_type": kind,
        "error_message": redact(message)[:2000],
        # A new attempt: windows that were finished before the crash belong to another one.
        "attempt_id": uuid.uuid4().hex,
        "window_index": 0,
        "n_windows": 1,
        "window_start_s": planned["offset_s"],
        "codec": "",
        "warning": "",
        "measures": [],
        "segments": [],
        "quality": [],
    }
    zeros = (
        *("duration_s", "sample_rate_hz", "channels", "labelled_s", "silence_s", "failed_s"),
        *("gap_s", "start_offset_s", "audio_streams", "audio_stream"),
    )
    return pa.Table.from_pylist([row | dict.fromkeys(zeros, 0)], schema=BUNDLE)
