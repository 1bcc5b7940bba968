"""CPU and memory of this process and everything it started. Reads /proc, so Linux only."""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Tree:
    """What this process and its descendants have used, dead ones by their last sighting."""

    cpu_ticks: dict[int, int] = field(default_factory=dict)
    peak_bytes: int = 0
    before: int = 0

    def look(self) -> None:
        found = dict(_descendants(os.getpid()))
        for pid, ticks in found.items():
            self.cpu_ticks[pid] = max(ticks, self.cpu_ticks.get(pid, 0))
        self.peak_bytes = max(self.peak_bytes, sum(map(_resident_bytes, found)))

    def cpu_s(self) -> float:
        return (sum(self.cpu_ticks.values()) - self.before) / _TICKS_PER_S


@contextmanager
def watch_tree(every_s: float = 0.25) -> Iterator[Tree]:
    """CPU and memory of all descendants, sampled: Ray's workers are children that none waits for.

    A process that starts and ends between two looks is missed. Memory that processes
    share (the object store) counts once for each.
    """
    tree = Tree()
    tree.look()
    tree.before = sum(tree.cpu_ticks.values())
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every_s):
            tree.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield tree
    finally:
        stop.set()
        thread.join()
        tree.look()


def _descendants(root: int) -> Iterator[tuple[int, int]]:
    """(pid, CPU ticks) of a process and everything under it."""
    parents, ticks = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # After the name in brackets: state, parent (fields 3, 4) ... utime, stime (14, 15).
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
    for pid, n_ticks in ticks.items():
        ancestor = pid
        while ancestor and ancestor != root:
            ancestor = parents.get(ancestor, 0)
        if ancestor == root:
            yield pid, n_ticks


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
