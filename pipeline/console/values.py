"""Values of the tables as cells of text and as JSON. Knows types; knows nothing of commands."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np

from pipeline.console.plain_text import visible

_LINES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def to_json(value: Any) -> Any:
    """A value that `json.dumps` takes: times as ISO 8601, nan and inf as null, others as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        return shortest(float(value)) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [to_json(one) for one in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)


def to_cell(value: Any) -> str:
    """A value in a cell: NULL is empty, lists and structs are JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(shortest(value))
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(to_json(value), ensure_ascii=False)
    return str(value)


def to_line(values: Sequence[Any]) -> str:
    r"""Values of one row on one line, between tabs; tabs and line ends in them become \\t, \\n."""
    return "\t".join(visible(to_cell(value).translate(_LINES)) for value in values)


def shortest(value: float) -> float:
    """A float32 of the tables without the digits that it has only as a float64: 0.7006645.

    The value stays the same float32; a float64 that is no float32 stays as it is.
    """
    narrow = np.float32(value) if abs(value) < np.finfo(np.float32).max else None
    return float(str(narrow)) if narrow is not None and float(narrow) == value else value
