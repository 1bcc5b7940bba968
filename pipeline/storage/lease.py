"""One writer at a time on a store that cannot refuse a second one. Knows a lease, not commits.

Weaker than a conditional write, and only for stores that have none. A lease is an object that its
holder rewrites every few seconds. Two runs that start within the same moment, or a holder that is
paused for longer than the lease lasts and wakes up between its last look and its write, can still
lose a commit. Never needed on a store that passes the probe.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from fsspec import AbstractFileSystem

from pipeline.errors import StoreError
from pipeline.storage.store import Store

KEY = "_lease.json"
_RENEW_S = 5.0
_EXPIRE_S = 20.0  # a lease that was not renewed for this long is anybody's
_SETTLE_S = 2.0  # after taking it, wait: somebody may have taken it in the same moment


@contextmanager
def sole_writer(
    store: Store,
    *,
    renew_s: float = _RENEW_S,
    expire_s: float = _EXPIRE_S,
    settle_s: float = _SETTLE_S,
) -> Iterator[Store]:
    """The store, as long as this process holds its lease; raises StoreError if another one does.

    A lease that a dead process left is taken over after `expire_s` without a sign of life, told by
    watching it and not by clocks.
    """
    owner = {"lease": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    _wait_until_free(store, expire_s)
    leased = _LeasedStore(store, str(owner["lease"]))
    _write(store, owner, 0)
    time.sleep(settle_s)
    leased.check()
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(leased, owner, renew_s, done), daemon=True)
    renewer.start()
    try:
        yield leased
    finally:
        done.set()
        renewer.join()
        if _read(store).get("lease") == owner["lease"]:
            store.delete([KEY])


def _wait_until_free(store: Store, expire_s: float) -> None:
    seen = _read(store)
    deadline = time.monotonic() + expire_s
    while seen and time.monotonic() < deadline:
        time.sleep(min(1.0, expire_s / 10))
        now = _read(store)
        if now and now != seen:
            raise StoreError(
                f"{store.root}: another run writes here (process {now.get('pid')} on "
                f"{now.get('host')}); wait until it is done"
            )
        seen = now


def _renew(
    leased: "_LeasedStore", owner: dict[str, object], renew_s: float, done: threading.Event
) -> None:
    turn = 0
    while not done.wait(renew_s):
        turn += 1
        try:
            leased.check()
            _write(leased.inner, owner, turn)
        except StoreError:
            return  # lost: the next commit finds out and says so
        except OSError:
            continue  # the store is away for a moment; the commit that needs it will say so


def _write(store: Store, owner: dict[str, object], turn: int) -> None:
    store.put(KEY, json.dumps({**owner, "turn": turn}).encode())


def _read(store: Store) -> dict[str, object]:
    """{} if there is no lease; a damaged one is somebody's."""
    try:
        data = store.get(KEY)
    except FileNotFoundError:
        return {}
    try:
        values: dict[str, object] = json.loads(data)
    except ValueError:
        values = {"damaged": data.hex()}
    return values


class _LeasedStore:
    """A store whose conditional write is a look and a write, under the lease."""

    def __init__(self, inner: Store, lease: str) -> None:
        self.inner = inner
        self._lease = lease

    @property
    def root(self) -> str:
        return self.inner.root

    @property
    def filesystem(self) -> AbstractFileSystem:
        return self.inner.filesystem

    def check(self) -> None:
        holder = _read(self.inner)
        if holder.get("lease") != self._lease:
            raise StoreError(
                f"{self.root}: the lease was lost to process {holder.get('pid')} on "
                f"{holder.get('host')}; one of the two runs has to stop"
            )

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.check()
        try:
            return self.inner.get(key) == data
        except FileNotFoundError:
            self.inner.put(key, data)
        return self.inner.get(key) == data

    def put(self, key: str, data: bytes) -> None:
        self.inner.put(key, data)

    def get(self, key: str) -> bytes:
        return self.inner.get(key)

    def list(self, prefix: str) -> Sequence[str]:
        return self.inner.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        self.inner.delete(keys)

    def sweep(self, older_s: float) -> int:
        return self.inner.sweep(older_s)

    def uri(self, key: str) -> str:
        return self.inner.uri(key)
