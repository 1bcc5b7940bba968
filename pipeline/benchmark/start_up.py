"""How long a command takes before it does anything. Knows commands and clocks; labels the demo."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.benchmark.corpus import DEMO

_CONFIG = DEMO.parent / "demo.yaml"
_FIRST_ROW = " labelling "  # the log line of a run whose first row is labelled


@dataclass(frozen=True, slots=True)
class StartUp:
    """One command; the least of some repeats, by the clock and in CPU seconds of all processes."""

    name: str
    wall_s: float
    cpu_s: float
    first_row_s: float  # until the first row is labelled; 0: it labels nothing


def measure_start_up(repeats: int, on_start: Callable[[str], None]) -> list[StartUp]:
    """Help, a refusal, and the demo in one process and on Ray, each in processes of its own."""
    label = [sys.executable, "-m", "jobs", "label"]
    commands = {
        "label --help": [*label, "--help"],
        "a refusal": [*label, str(_CONFIG), "--set", "label.langauge=zh"],
        "the demo, one process": [*label, str(_CONFIG), "--set", "ray.local=always"],
        "the demo, on Ray": [*label, str(_CONFIG), "--set", "ray.local=never"],
    }
    results = []
    for name, command in commands.items():
        on_start(name)
        results.append(min((_measure(name, command) for _ in range(repeats)), key=_wall_s))
    return results


def _wall_s(result: StartUp) -> float:
    return result.wall_s


def _measure(name: str, command: Sequence[str]) -> StartUp:
    before = _cpu_s()
    started = time.perf_counter()
    first_row_s = 0.0
    with tempfile.TemporaryDirectory(prefix="start-up-") as folder:
        arguments = ["--set", f"output={folder}"] if "--set" in command else []
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=DEMO.parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for line in process.stdout or ():
            if _FIRST_ROW in line and not first_row_s:
                first_row_s = time.perf_counter() - started
        process.wait()
    return StartUp(name, time.perf_counter() - started, _cpu_s() - before, first_row_s)


def _cpu_s() -> float:
    """Of child processes that have ended; Ray's own, which the driver leaves alone, are not in."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def as_rows(results: Sequence[StartUp]) -> list[tuple[str, str, str, str]]:
    """For a table: name, wall seconds, CPU seconds, seconds to the first row."""
    return [
        (
            one.name,
            f"{one.wall_s:.1f}",
            f"{one.cpu_s:.1f}",
            f"{one.first_row_s:.1f}" if one.first_row_s else "",
        )
        for one in results
    ]
