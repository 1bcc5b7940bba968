"""Type names and helpers for Arrow columns and numpy arrays. Knows nothing of their meaning."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute  # its type stubs reject a plain str or bool next to an array

Column = Any  # pyarrow Array or ChunkedArray
Row = dict[str, Any]  # one row, by column name
Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def to_mask(values: Column) -> Mask:
    """A boolean column as numpy; null is false."""
    return np.asarray(pc.fill_null(values, False)).astype(bool)


def replace_columns(rows: pa.Table, **columns: Column) -> pa.Table:
    """`rows` with new values in some of its columns; names, order and types stay."""
    for name, column in columns.items():
        rows = rows.set_column(rows.column_names.index(name), rows.field(name), column)
    return rows
