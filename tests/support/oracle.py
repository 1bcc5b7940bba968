"""What must hold of the tables at any time, after any fault; checked by counting.

`violations` is for any snapshot at any time, `assert_exactly_once` for a finished corpus. Neither
uses the code that writes tables. tests/faults/test_oracle.py has their negative controls.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.storage.store import open_store
from pipeline.tables import Snapshot, open_snapshot
from tests.support.background import repeated

PER_SEGMENT = ("languages", "emotions")


def violations(snapshot: Snapshot) -> list[str]:
    """Contradictions within a table, or between tables, of one snapshot."""
    recordings = snapshot.read("recordings").to_pylist(maps_as_pydicts="strict")
    ids = snapshot.read("transcripts", columns=["segment_id"])["segment_id"].to_pylist()
    found = [f"{name} twice" for name, count in Counter(ids).items() if count > 1]
    names = Counter(row["recording_id"] for row in recordings)
    found += [f"recording {name}: {count} rows" for name, count in names.items() if count > 1]
    n_segments = Counter(segment.rpartition("-")[0] for segment in ids)
    for row in recordings:
        name = row["recording_id"]
        if n_segments.pop(name, 0) != row["n_segments"]:
            found.append(f"recording {name}: its n_segments differs from transcripts")
        spent_s = row["labelled_s"] + row["silence_s"] + row["failed_s"]
        if abs(spent_s - row["duration_s"]) > 1e-3:
            found.append(f"recording {name}: {spent_s} s spent of {row['duration_s']} s")
    found += [f"transcripts of {name}, which has no row" for name in n_segments]
    for table in PER_SEGMENT:
        others = snapshot.read(table, columns=["segment_id"])["segment_id"].to_pylist()
        if Counter(others) != Counter(ids):
            found.append(f"{table} and transcripts hold different segments")
    events = snapshot.read("events", columns=["segment_id"])["segment_id"].to_pylist()
    found += [f"event of {name}, which is no segment" for name in set(events) - set(ids)]
    return found


def assert_exactly_once(
    root: str, ids: Iterable[str], options: Mapping[str, Any] | None = None
) -> Snapshot:
    """Each of these recordings has one row, and no other recording has one."""
    snapshot = open_snapshot(str(root), options)
    rows = Counter(
        snapshot.read("recordings", columns=["recording_id"])["recording_id"].to_pylist()
    )
    assert rows == Counter(ids)
    assert violations(snapshot) == []
    return snapshot


@dataclass
class Readings:
    """What a reader found in the snapshots of an output while a run was writing it."""

    n_checks: int = 0
    n_snapshots: int = 0  # different commits among the checked ones
    violations: list[str] = field(default_factory=list)
    _seq: int = 0
    _ids: set[str] = field(default_factory=set)

    def check(self, snapshot: Snapshot) -> None:
        rows = snapshot.read("recordings", columns=["recording_id"])
        ids = set(rows["recording_id"].to_pylist())
        self.violations += violations(snapshot)
        self.violations += [f"{name} is lost" for name in self._ids - ids]
        if snapshot.seq < self._seq:
            self.violations.append(f"commit {snapshot.seq} after {self._seq}")
        self.n_snapshots += snapshot.seq != self._seq
        self.n_checks += 1
        self._seq, self._ids = snapshot.seq, ids


@contextmanager
def reader(root: str, options: Mapping[str, Any] | None = None) -> Iterator[Readings]:
    """Check the newest snapshot again and again in a thread, and that no recording is lost."""
    readings = Readings()

    def read() -> None:
        time.sleep(0.05)
        if open_store(root, options).list("_log/"):
            readings.check(open_snapshot(root, options))

    with repeated(read):
        yield readings
