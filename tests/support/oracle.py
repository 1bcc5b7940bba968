"""What must hold of the tables at any moment, whatever has died: told by plain counting.

`violations` may be asked of any snapshot at any time, `assert_exactly_once` when a corpus is done.
Neither uses the code that writes tables. That they can fail is tested too (test_faults).
"""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.storage.store import open_store
from pipeline.tables import Snapshot, open_snapshot

PER_SEGMENT = ("languages", "emotions")


def violations(snapshot: Snapshot) -> list[str]:
    """Every way in which the tables of one snapshot contradict themselves or each other."""
    recordings = snapshot.read("recordings").to_pylist(maps_as_pydicts="strict")
    ids = snapshot.read("transcripts", columns=["segment_id"])["segment_id"].to_pylist()
    found = [f"{name} twice" for name, count in Counter(ids).items() if count > 1]
    names = Counter(row["recording_id"] for row in recordings)
    found += [f"recording {name}: {count} rows" for name, count in names.items() if count > 1]
    n_segments = Counter(segment.rpartition("-")[0] for segment in ids)
    for row in recordings:
        name = row["recording_id"]
        if n_segments.pop(name, 0) != row["n_segments"]:
            found.append(f"recording {name}: its n_segments is not what transcripts hold")
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
    """Every recording of the manifest has one row, and nothing else has."""
    snapshot = open_snapshot(str(root), options)
    rows = Counter(
        snapshot.read("recordings", columns=["recording_id"])["recording_id"].to_pylist()
    )
    assert rows == Counter(ids)
    assert violations(snapshot) == []
    return snapshot


@dataclass
class Readings:
    """What a reader beside a run has seen."""

    n_checks: int = 0
    n_snapshots: int = 0  # different commits among them
    violations: list[str] = field(default_factory=list)


@contextmanager
def reader(root: str, options: Mapping[str, Any] | None = None) -> Iterator[Readings]:
    """Checks every snapshot in a thread; also that what was there once does not go away."""
    readings, stop = Readings(), threading.Event()

    def look() -> None:
        seen: set[str] = set()
        seq = 0
        while not stop.wait(0.05):
            if not open_store(root, options).list("_log/"):
                continue
            snapshot = open_snapshot(root, options)
            now = set(
                snapshot.read("recordings", columns=["recording_id"])["recording_id"].to_pylist()
            )
            readings.violations += violations(snapshot)
            readings.violations += [f"{name} has gone" for name in seen - now]
            if snapshot.seq < seq:
                readings.violations.append(f"commit {snapshot.seq} after {seq}")
            readings.n_snapshots += snapshot.seq != seq
            readings.n_checks += 1
            seen, seq = now, snapshot.seq

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join()
