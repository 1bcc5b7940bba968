"""Stores whose process dies at a chosen operation, or that let something else happen before it."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.storage.store import Store


class Crash(Exception):
    """The process died at this operation."""


class CrashingStore:
    """A store whose process dies before or after its nth operation; never if n < 0."""

    def __init__(self, store: Store, n: int = -1, after: bool = False) -> None:
        self.root, self.filesystem, self.uri = store.root, store.filesystem, store.uri
        self.n_done = 0
        self._store, self._n, self._after = store, n, after
        self._lock = threading.Lock()

    def _do(self, operation: Callable[[], Any]) -> Any:
        with self._lock:
            turn = self.n_done
            self.n_done += 1
        if turn == self._n and not self._after:
            raise Crash
        try:
            return operation()
        finally:
            if turn == self._n:
                raise Crash  # also after an operation that failed: the answer is lost

    def put(self, key: str, data: bytes) -> None:
        self._do(lambda: self._store.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return bool(self._do(lambda: self._store.put_if_absent(key, data)))

    def get(self, key: str) -> bytes:
        return bytes(self._do(lambda: self._store.get(key)))

    def list(self, prefix: str) -> Sequence[str]:
        return tuple(self._do(lambda: self._store.list(prefix)))

    def delete(self, keys: Iterable[str]) -> None:
        self._do(lambda: self._store.delete(keys))

    def sweep(self, older_s: float) -> int:
        return int(self._do(lambda: self._store.sweep(older_s)))


class TearingStore(CrashingStore):
    """A store whose process dies in the middle of its nth write and leaves half of the bytes."""

    name = ".{}.torn.tmp"  # LocalStore also hides unfinished files like this

    def __init__(self, store: Store, n: int) -> None:
        super().__init__(store)
        self._writes_left = n

    def _tear(self, key: str, data: bytes) -> None:
        if self._writes_left == 0:
            path = Path(self.uri(key))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(self.name.format(path.name)).write_bytes(data[: len(data) // 2])
            raise Crash
        self._writes_left -= 1

    def put(self, key: str, data: bytes) -> None:
        self._tear(key, data)
        super().put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._tear(key, data)
        return super().put_if_absent(key, data)


class VisibleWriteStore(TearingStore):
    """The negative control: writes under the final name from the beginning."""

    name = "{}"


CRASHES: dict[str, Callable[[Store, int], CrashingStore]] = {
    "before": CrashingStore,
    "after": lambda store, n: CrashingStore(store, n, after=True),
    "torn": TearingStore,
}


class InterruptedStore(CrashingStore):
    """Calls `meanwhile` just before the first record is written; may then ignore the condition."""

    def __init__(
        self, store: Store, meanwhile: Callable[[], object], ignores_condition: bool = False
    ) -> None:
        super().__init__(store)
        self._meanwhile: Iterator[Callable[[], object]] = iter([meanwhile])
        self._ignores_condition = ignores_condition

    def put_if_absent(self, key: str, data: bytes) -> bool:
        for meanwhile in self._meanwhile:
            meanwhile()
        if self._ignores_condition:
            self._store.put(key, data)
            return True
        return self._store.put_if_absent(key, data)
