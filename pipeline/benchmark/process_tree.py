"""CPU time and memory of this process and of all processes that it started."""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


class ProcessTree:
    """CPU seconds since this was made, and peak memory, of this process and its descendants."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._root = psutil.Process()
        self._cpu_s: dict[psutil.Process, float] = {}
        self.sample()
        self._cpu_s_before = sum(self._cpu_s.values())

    def sample(self) -> None:
        """Read the CPU time and the memory of each process that is alive."""
        private, shared = [0], [0]
        for process in [self._root, *self._root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times, memory = process.cpu_times(), process.memory_info()
                self._cpu_s[process] = times.user + times.system
                private.append(memory.rss - memory.shared)
                shared.append(memory.shared)
        self.peak_bytes = max(self.peak_bytes, sum(private) + max(shared))

    def cpu_s(self) -> float:
        """Of a process that has ended, the CPU time at its last sample counts."""
        return sum(self._cpu_s.values()) - self._cpu_s_before


@contextmanager
def watch_tree(every_s: float = 0.25) -> Iterator[ProcessTree]:
    """Sample all descendants, because Ray's workers are not waited for by this process.

    A process that starts and ends between two samples is not counted. Memory is the private memory
    of all processes plus the largest shared memory of any one of them, so libraries and Ray's
    object store count once. PSS would be exact, but its 9 ms of CPU time for a process of 600 MB
    would change the measured CPU time; a sample takes 2 ms for 100 processes on the machine.
    """
    tree = ProcessTree()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every_s):
            tree.sample()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield tree
    finally:
        stop.set()
        thread.join()
        tree.sample()


def peak_bytes() -> int:
    """The most memory that this process has used so far.

    VmHWM of /proc, because ru_maxrss also counts what the parent used before this process began.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
