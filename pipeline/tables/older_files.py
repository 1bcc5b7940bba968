"""Rows of files that an older SCHEMA_VERSION wrote, in today's meaning. Knows columns; no store.

Version 1 stored the confidence 0 for a segment without text, version 2 stores null.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.arrow import pc

# What DuckDB reads instead of a column: right for files of every version, which it cannot tell.
REPLACED: Mapping[str, str] = {"transcripts": "if(n_tokens > 0, confidence, NULL) AS confidence"}

_NEEDS = {"confidence": "n_tokens"}  # a column whose meaning has changed: what tells its new value
_NO_CONFIDENCE = pa.nulls(1, pa.float32())[0]  # pa.scalar would import pandas


def with_needed(names: Sequence[str]) -> list[str]:
    """The columns to read from a file so that in_todays_meaning() can work on `names`."""
    return [*dict.fromkeys([*names, *(_NEEDS[name] for name in names if name in _NEEDS)])]


def in_todays_meaning(rows: pa.Table) -> pa.Table:
    """Rows of one file, read with its metadata; those of this version as they are."""
    version = int((rows.schema.metadata or {}).get(b"schema_version", b"1"))
    if version > 1 or "confidence" not in rows.column_names:
        return rows
    has_text = pc.greater(rows["n_tokens"], pa.scalar(0, pa.int32()))
    told = pc.if_else(has_text, rows["confidence"], _NO_CONFIDENCE)
    return rows.set_column(rows.column_names.index("confidence"), "confidence", told)
