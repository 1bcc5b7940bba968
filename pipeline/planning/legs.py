"""Planned rows, kept compressed and handed out in legs. Knows no column's meaning.

Ten million planned rows take 4 GB as one table. A run needs only one leg of them at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from pipeline.manifest.uniqueness import pack, unpack
from pipeline.schema import PLANNED

LEG_ROWS = 1_000_000  # about 400 MB
_PACKED_ROWS = 1 << 16  # at least, compressed at a time: small tables cost more than their rows


@dataclass(frozen=True, slots=True)
class Legs:
    """Planned rows (schema.PLANNED) in order, compressed."""

    packed: Sequence[pa.Buffer] = ()
    sizes: Sequence[int] = ()  # rows of each

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> Self:
        """Legs that hold the rows of these tables, which are read one after the other."""
        packed, sizes = [], []
        for table in _merged(tables):
            packed.append(pack(table))
            sizes.append(table.num_rows)
        return cls(packed, sizes)

    @property
    def n_rows(self) -> int:
        return sum(self.sizes)

    def __iter__(self) -> Iterator[pa.Table]:
        """The rows, about LEG_ROWS at a time; no leg is empty."""
        waiting: list[pa.Table] = []
        n_rows = 0
        for buffer, size in zip(self.packed, self.sizes, strict=True):
            if waiting and n_rows + size > LEG_ROWS:
                yield pa.concat_tables(waiting)
                waiting, n_rows = [], 0
            if size:
                waiting.append(unpack(buffer))
                n_rows += size
        if waiting:
            yield pa.concat_tables(waiting)

    @property
    def table(self) -> pa.Table:
        """All rows at once."""
        return pa.concat_tables([PLANNED.empty_table(), *self])


def _merged(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least _PACKED_ROWS, but for the last."""
    waiting: list[pa.Table] = []
    for table in tables:
        if table.num_rows:
            waiting.append(table)
        if sum(part.num_rows for part in waiting) >= _PACKED_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
