"""An object that is replaced by newer content only, also if two writers act at the same time."""

import threading
import time
from pathlib import Path

import pytest

from pipeline.storage import store as store_module
from pipeline.storage.forward import put_forward
from pipeline.storage.store import LocalStore, Store, open_store
from tests.support.crashing_stores import CrashingStore
from tests.support.s3_server import S3


@pytest.fixture(params=["local", "s3", "no conditions"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("s3")
        return open_store(s3.new_bucket(), s3.storage_options)
    store = open_store(str(tmp_path))
    return store if request.param == "local" else CrashingStore(store)


def put(store: Store, n: int) -> bool:
    return put_forward(store, "n", str(n).encode(), lambda present: int(present or b"0") <= n)


def test_only_newer_content_replaces(any_store: Store) -> None:
    assert [put(any_store, n) for n in (1, 3, 2, 3, 4)] == [True, True, False, True, True]
    assert any_store.get("n") == b"4"


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_writer_that_stops_after_its_check_puts_nothing_old_back(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    s3: S3 | None = request.getfixturevalue("s3") if kind == "s3" else None
    root = s3.new_bucket() if s3 else str(tmp_path)
    options = s3.storage_options if s3 else {}
    store = open_store(root, options)
    put(store, 1)
    other = threading.Thread(target=lambda: put(open_store(root, options), 3))
    n_checks = 0

    def slow(present: bytes) -> bool:
        nonlocal n_checks
        n_checks += 1
        if n_checks == 1:
            other.start()
            # On a disk the other one waits for the lock; on S3 it writes at once.
            other.join(0.5 if kind == "local" else 30)
        return int(present) <= 2

    assert put_forward(store, "n", b"2", slow) == (kind == "local")
    other.join()
    assert store.get("n") == b"3"


def test_a_writer_does_not_wait_forever_for_a_stopped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_LOCK_TRIES", 3)
    store = LocalStore(str(tmp_path))
    put(store, 1)
    results: list[bool] = []

    def stopped(present: bytes) -> bool:
        other = threading.Thread(target=lambda: results.append(put(store, 5)))
        other.start()
        other.join()
        return True

    started_s = time.monotonic()
    assert put_forward(store, "n", b"2", stopped)
    assert results == [False]
    assert time.monotonic() - started_s < 5
    assert put(store, 5)
