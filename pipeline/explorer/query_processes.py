"""A Browser in a process of its own, which is ended when a request takes too long.

DuckDB cannot stop a scalar function at work: `SELECT length(repeat('x', 500000000))` ran on for 5 s
after its interruption and went past the memory limit (seen with 2.0.1). So what a person writes
runs in a child with limited memory; at its time limit the child is killed and a new one is started.
"""

import multiprocessing
import queue
import resource
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigError, PipelineError, TooSlow
from pipeline.explorer.browse import Browser
from pipeline.tables import open_snapshot
from pipeline.tables.locked_sql import connect_locked

_MEMORY = "1500MB"  # of DuckDB
_ADDRESS_BYTES = 4 << 30  # beyond what the process has when its libraries are loaded
_START_S = 120.0

_Answer = tuple[str, Any]  # ("ok", value) or ("refused", message)


@dataclass(frozen=True, slots=True)
class SnapshotChoice:
    """Which snapshot the processes read."""

    root: str
    options: Mapping[str, Any]
    seq: int
    fingerprint: str


@dataclass(slots=True)
class _Child:
    process: Any
    connection: "Connection[Any, Any]"
    version: int  # of the reviews that it shows


@dataclass(slots=True)
class QueryProcesses:
    """Some processes that answer requests, each one at a time."""

    choice: SnapshotChoice
    limit_s: float = 20.0
    n_processes: int = 2
    _free: "queue.Queue[_Child | None]" = field(default_factory=queue.Queue)
    _reviews: pa.Table | None = None
    _version: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for _ in range(self.n_processes):
            self._free.put(None)  # a process is started when it is first needed

    def use_reviews(self, reviews: pa.Table) -> None:
        """Show these from the next request on."""
        with self._lock:
            self._reviews, self._version = reviews, self._version + 1

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of a Browser. Raises ConfigError with DuckDB's words, TooSlow."""
        with self._taken() as child:
            child.connection.send((method, arguments))
            return _answer(child, self.limit_s)

    def close(self) -> None:
        """End all processes; none may be at work."""
        for _ in range(self.n_processes):
            child = self._free.get()
            if child is not None:
                _end(child)

    @contextmanager
    def _taken(self) -> Iterator[_Child]:
        child = self._free.get()
        try:
            child = child if child is not None and child.process.is_alive() else self._start()
            with self._lock:
                reviews, version = self._reviews, self._version
            if child.version != version and reviews is not None:
                child.connection.send(("use_reviews", (reviews,)))
                _answer(child, _START_S)
                child.version = version
            yield child
        except (TooSlow, EOFError, OSError) as error:
            if child is not None:
                _end(child)
                child = None
            if isinstance(error, TooSlow):
                raise
            raise TooSlow(
                "the process of this request ended, probably because it needed more than "
                f"{_MEMORY}; ask for less at a time"
            ) from error
        finally:
            self._free.put(child)

    def _start(self) -> _Child:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.choice), daemon=True)
        process.start()
        theirs.close()
        child = _Child(process, ours, version=0)
        _answer(child, _START_S)
        return child


def _answer(child: _Child, limit_s: float) -> Any:
    if not child.connection.poll(limit_s):
        raise TooSlow(f"took longer than {limit_s:.0f} s and was ended; ask for less at a time")
    kind, value = child.connection.recv()
    if kind == "refused":
        raise ConfigError(value)
    return value


def _end(child: _Child) -> None:
    child.process.kill()
    child.process.join()
    child.connection.close()


def _serve(connection: "Connection[Any, Any]", choice: SnapshotChoice) -> None:
    """The child: answer requests until the parent closes the pipe."""
    import duckdb

    snapshot = open_snapshot(choice.root, choice.options, choice.seq, choice.fingerprint)
    settings = {"memory_limit": _MEMORY, "threads": "2"}
    with connect_locked(snapshot, settings=settings) as connected:
        try:
            reviews = connected.sql("FROM reviews").to_arrow_table()
            browser = Browser(connected, snapshot, reviews)
        except (PipelineError, duckdb.Error) as error:
            connection.send(("refused", str(error)))
            return
        _limit_memory()
        connection.send(("ok", None))
        while True:
            try:
                method, arguments = connection.recv()
            except EOFError:
                return
            try:
                answer: _Answer = "ok", getattr(browser, method)(*arguments)
            except (PipelineError, duckdb.Error) as error:
                answer = "refused", str(error)
            except Exception as error:  # the process goes on; the page shows what happened
                answer = "refused", f"{type(error).__name__}: {error}"
            connection.send(answer)


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_BYTES, hard))
