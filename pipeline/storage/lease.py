"""A lease, for one writer at a time on a store without conditional writes. Knows no commits.

A lease is an object that its holder rewrites every few seconds. It is weaker than a conditional
write: a commit can still be lost if two runs start at the same moment, or if a holder is paused for
longer than the lease lasts, between its last check and its write. A store that passes the probe
does not need it.
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
_EXPIRE_S = 20.0  # a lease that was not renewed for this long may be taken over
_SETTLE_S = 2.0  # wait after taking it: another run may have taken it at the same moment


@contextmanager
def sole_writer(
    store: Store,
    *,
    renew_s: float = _RENEW_S,
    expire_s: float = _EXPIRE_S,
    settle_s: float = _SETTLE_S,
) -> Iterator[Store]:
    """The store, while this process holds its lease. Raises StoreError if another process does.

    A lease that did not change for `expire_s` while this process watched it is taken over. The
    clocks of the two machines are not compared.
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
                f"{now.get('host')}); wait until that run has ended"
            )
        seen = now


def _renew(
    leased: "_LeasedStore", owner: dict[str, object], renew_s: float, done: threading.Event
) -> None:
    n_renewals = 0
    while not done.wait(renew_s):
        n_renewals += 1
        try:
            leased.check()
            _write(leased.inner, owner, n_renewals)
        except StoreError:
            return  # the lease is lost: the next commit checks it and raises the error
        except OSError:
            continue  # the store did not answer: the next commit raises an error if it stays so


def _write(store: Store, owner: dict[str, object], n_renewals: int) -> None:
    store.put(KEY, json.dumps({**owner, "turn": n_renewals}).encode())


def _read(store: Store) -> dict[str, object]:
    """The lease; {} if there is none. An unreadable lease counts as held."""
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
    """A store whose conditional write is a read and then a write, while the lease is held."""

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
        """Raise StoreError if another process holds the lease."""
        holder = _read(self.inner)
        if holder.get("lease") != self._lease:
            raise StoreError(
                f"{self.root}: the lease was lost to process {holder.get('pid')} on "
                f"{holder.get('host')}; stop one of the two runs"
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
