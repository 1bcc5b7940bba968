"""What is done already, to be asked for by name. Knows the ledger's columns; reads no files.

Ten million rows of the ledger are 1.2 GB as text. Here they are 40 bytes each in numpy arrays: the
id as a 128-bit hash, sorted, the work key as the 128 bits that it is, the rest in a few bytes.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.arrow import Column, Integers, Mask, pc, to_mask
from pipeline.manifest.keys import Keys, from_hex, hash_texts, to_hex

_ROWS = 1 << 18  # looked up at a time


@dataclass(frozen=True, slots=True)
class Found:
    """The ledger rows of some recordings, in their order; zeros where `is_known` is not."""

    is_known: Mask
    keys: Keys
    attempts: npt.NDArray[np.int32]
    is_error: Mask
    is_permanent: Mask

    def states(self) -> Column:
        """What later work calls these rows when it replaces them; "" for unknown ones."""
        attempts = pa.array(self.attempts).cast(pa.string())
        joined = pc.binary_join_element_wise(to_hex(self.keys), attempts, ":")
        return pc.if_else(pa.array(self.is_known), joined, "")


@dataclass(frozen=True, slots=True)
class LedgerIndex:
    """The ledger in the order of its hashed ids; row 0 stands for all that are not in it."""

    high: npt.NDArray[np.uint64]  # the first half of the ids from row 1 on, sorted
    low: npt.NDArray[np.uint64]  # the second half, from row 1 on
    keys: Keys
    attempts: npt.NDArray[np.int32]
    is_error: Mask
    is_permanent: Mask

    @classmethod
    def build(cls, ledger: pa.Table | Iterable[pa.Table], permanent: Collection[str] = ()) -> Self:
        """Of columns recording_id, work_key, attempts, status and error_type; best in parts."""
        kinds = pa.array(sorted(permanent), pa.string())
        parts: list[list[Any]] = [
            *([np.zeros((1, 2), np.uint64)], [np.zeros((1, 2), np.uint64)]),
            *([np.zeros(1, np.int32)], [np.zeros(1, bool)], [np.zeros(1, bool)]),
        ]
        for table in [ledger] if isinstance(ledger, pa.Table) else ledger:
            parts[0].append(hash_texts(table["recording_id"]))
            parts[1].append(from_hex(table["work_key"]))
            parts[2].append(table["attempts"].to_numpy().astype(np.int32))
            parts[3].append(to_mask(pc.equal(table["status"], "error")))
            parts[4].append(to_mask(pc.is_in(table["error_type"], kinds)))
        pa.default_memory_pool().release_unused()  # what reading took; sorting needs as much
        ids = np.concatenate(parts[0])
        parts[0] = []  # joined once is enough: each column is let go as it is put in order
        order = np.append(0, 1 + np.argsort(ids[1:, 0]))
        high, low = ids[order[1:], 0], ids[order[1:], 1]
        del ids
        columns = []
        for part in parts[1:]:
            columns.append(np.concatenate(part)[order])
            part.clear()
        return cls(high, low, *columns)

    def find(self, recording_ids: Column) -> Found:
        """What the ledger holds of these recordings."""
        row = self._rows_of(hash_texts(recording_ids))
        return Found(
            is_known=row > 0,
            keys=self.keys[row],
            attempts=self.attempts[row],
            is_error=self.is_error[row],
            is_permanent=self.is_permanent[row],
        )

    def _rows_of(self, ids: Keys) -> Integers:
        """Where each id is, 0 if nowhere."""
        order = np.argsort(ids[:, 0])  # neighbours then share the cache: five times as fast
        high, low = ids[order, 0], ids[order, 1]
        place = np.searchsorted(self.high, high)
        row = np.zeros(len(ids), np.int64)
        searching = np.arange(len(ids))
        while searching.size:  # one turn, but for halves that are equal by chance
            inside = place[searching] < len(self.high)
            searching = searching[inside]
            searching = searching[self.high[place[searching]] == high[searching]]
            found = self.low[place[searching]] == low[searching]
            row[order[searching[found]]] = place[searching[found]] + 1
            searching = searching[~found]
            place[searching] += 1
        return row


def find_missing(todo: pa.Table, ledger: pa.Table | Iterable[pa.Table]) -> pa.Table:
    """The planned recordings that the ledger does not hold in the attempt that was planned."""
    index = LedgerIndex.build(ledger)
    kept = []
    for start in range(0, todo.num_rows, _ROWS):
        rows = todo.slice(start, _ROWS)
        held = index.find(rows["recording_id"])
        same = held.is_known & (held.keys == from_hex(rows["work_key"])).all(axis=1)
        same &= held.attempts == rows["attempts"].to_numpy()
        kept.append(rows.filter(pa.array(~same)))
    return pa.concat_tables(kept) if kept else todo
