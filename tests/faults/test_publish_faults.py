"""Publishers that are killed, that compete, or that have no disk space or permissions."""

import errno
import itertools
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pyarrow.dataset
import pytest

from pipeline.errors import StoreError
from pipeline.maintenance import compact as compact_module
from pipeline.maintenance import vacuum as vacuum_module
from pipeline.maintenance.compact import compact
from pipeline.maintenance.vacuum import vacuum
from pipeline.maintenance.verify import verify
from pipeline.storage.store import LocalStore, Store, open_store
from pipeline.tables import open_snapshot, publisher
from pipeline.tables.bundles import read_bundle, write_bundle
from pipeline.tables.commit_log import read_record, read_state, record_key
from pipeline.tables.publisher import publish
from tests.support.background import repeated
from tests.support.bundle_rows import OTHER_RUN, RUN, bundle, window
from tests.support.crashing_stores import CrashingStore
from tests.support.publisher_process import (
    forkserver,
    publish_forever,
    publish_paused,
    publish_rounds,
)
from tests.support.small_output import FIRST, contents, write_first

pytestmark = pytest.mark.usefixtures("patience")

N_KILLS = int(os.environ.get("SENSEVOICE_TEST_KILLS", "12"))


@contextmanager
def verifier(store: Store) -> Iterator[list[int]]:
    """Verify the output again and again in a thread; yields [the number of checks]."""
    n_recordings = 0

    def check() -> None:
        nonlocal n_recordings
        verdict = verify(store)
        assert verdict.problems == []
        assert verdict.n_recordings >= n_recordings, "recordings are lost"
        n_recordings = verdict.n_recordings
        time.sleep(0.05)

    with repeated(check) as counts:
        yield counts


def wait_for_commits(store: Store, n: int) -> None:
    """Wait until there are `n` commits more than now, for 10 s at most."""
    wanted = len(store.list("_log/")) + n
    deadline = time.monotonic() + 10
    while len(store.list("_log/")) < wanted and time.monotonic() < deadline:
        time.sleep(0.01)


def recordings_in_bundles(store: Store) -> set[str]:
    names = set()
    for key in store.list("_bundles/"):
        found = read_bundle(store, key)
        assert found is not None
        names |= set(found[1]["recording_id"].to_pylist())
    return names


@pytest.mark.usefixtures("kills")
def test_a_publisher_may_be_killed_at_any_time(tmp_path: Path) -> None:
    """SIGKILL after a random time, again and again, while another thread verifies the output.

    Seen on 2 cores: 12 kills, 20 commits, 153 checks, 3 files left by a kill before a commit, 0
    violations. SENSEVOICE_TEST_KILLS=200: 761 commits, 931 checks, 0 violations.
    """
    store = open_store(str(tmp_path / "root"))
    context = forkserver()
    chance = random.Random(7)
    with verifier(store) as counts:
        for turn in range(N_KILLS):
            ready = context.Event()
            arguments = (store.root, f"k{turn}x", turn, ready)
            process = context.Process(target=publish_forever, args=arguments, daemon=True)
            process.start()
            assert ready.wait(60)
            wait_for_commits(store, chance.randrange(3))
            time.sleep(chance.uniform(0.0, 0.4))
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join(10)
            assert process.exitcode == -signal.SIGKILL
    publish(store, OTHER_RUN)  # the next run publishes the bundles that are left
    assert set(contents(store.root)) == recordings_in_bundles(store)
    verdict = verify(store)
    assert (verdict.problems, verdict.n_waiting) == ([], 0)
    assert counts[0] >= N_KILLS / 2
    assert verdict.seq >= N_KILLS / 2
    # The negative control: a glob, which ignores the log, counts superseded rows, too.
    globbed = pyarrow.dataset.dataset(Path(store.root, "recordings")).count_rows()
    assert globbed > verdict.n_recordings


def test_two_publisher_processes_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Two processes, six rounds each; every third recording is in both. A thread verifies.

    Seen on 2 cores: 9 commits, 9 checks, 0 violations.
    """
    store = open_store(str(tmp_path / "root"))
    context = forkserver()
    won = context.Queue()
    with verifier(store) as counts:
        processes = [
            context.Process(target=publish_rounds, args=(store.root, name, 6, won), daemon=True)
            for name in "pq"
        ]
        for process in processes:
            process.start()
        results = [won.get(timeout=120) for _ in range(12)]
        for process in processes:
            process.join(30)
            assert process.exitcode == 0
    assert len(contents(store.root)) == 6 * 5
    assert sum(n_recordings for n_recordings, _ in results) == 6 * 5
    assert sum(n_dropped for _, n_dropped in results) == 6
    assert counts[0] > 0


def overtake_a_stopped_publisher(store: Store, ignores_condition: bool) -> None:
    """SIGSTOP before its commit; another one commits the same rows and more; vacuum; SIGCONT."""
    write_bundle(store, RUN, bundle(window("late")))
    arguments = (store.root, ignores_condition)
    process = forkserver().Process(target=publish_paused, args=arguments, daemon=True)
    process.start()
    status = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + 30
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "the publisher does not reach its commit"
        time.sleep(0.01)
    write_bundle(store, OTHER_RUN, bundle(window("a")))
    publish(store, OTHER_RUN)
    vacuum(store, retain_s=0)  # deletes the files of the stopped one: its commit cannot succeed
    assert process.pid is not None
    os.kill(process.pid, signal.SIGCONT)
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_stopped_publisher_cannot_commit_files_that_were_deleted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    overtake_a_stopped_publisher(store, ignores_condition=False)
    assert set(contents(store.root)) == {"a", "late"}
    assert (verify(store).problems, read_state(store).seq) == ([], 1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_without_conditional_writes_it_commits_the_deleted_files(tmp_path: Path) -> None:
    """The negative control: the same stop, and the same check finds the fault."""
    store = open_store(str(tmp_path))
    overtake_a_stopped_publisher(store, ignores_condition=True)
    assert any("is missing, but a commit lists it" in text for text in verify(store).problems)


class Skewed(datetime):
    """A clock that is wrong by `skew`."""

    skew = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(time.time() + cls.skew.total_seconds(), tz)


def test_clocks_that_are_wrong_by_a_day_change_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishers, compact() and vacuum() take turns. Wrong clocks change only the retention."""
    store = open_store(str(tmp_path))
    for module in (publisher, compact_module, vacuum_module):
        monkeypatch.setattr(module, "datetime", Skewed)
    for turn in range(6):
        monkeypatch.setattr(Skewed, "skew", timedelta(days=-1 if turn % 2 else 1))
        before = f"a-v{turn - 1}:1" if turn else ""
        rows = [window("a", version=f"v{turn}", supersedes=before), window(f"b{turn}")]
        write_bundle(store, RUN, bundle(*rows))
        publish(store, RUN)
        compact(store)
        vacuum(store, retain_s=3600)
        assert contents(store.root)["a"] == ("ok", f"v{turn}", 1)
        assert not verify(store).problems
    stamps = [read_record(store, seq).committed_at for seq in range(1, read_state(store).seq + 1)]
    assert stamps != sorted(stamps), "the control: the clocks did go backwards"
    assert len(contents(store.root)) == 7


class Failing(CrashingStore):
    """A store that fails every write from the nth operation on."""

    def __init__(self, store: Store, n: int, error: OSError) -> None:
        super().__init__(store)
        self._from, self._error = n, error

    def _fail(self) -> None:
        if self.n_done >= self._from:
            raise self._error

    def put(self, key: str, data: bytes) -> None:
        self._fail()
        super().put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._fail()
        return super().put_if_absent(key, data)


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (PermissionError(errno.EACCES, "Access Denied"), 0),
        (OSError(errno.ENOSPC, "No space left"), 2),
    ],
    ids=["permission", "space"],
)
def test_writes_that_fail_from_any_operation_on_lose_nothing(
    tmp_path: Path, error: OSError, first: int
) -> None:
    """Every second operation: each error at half of them."""
    write_first(open_store(str(tmp_path / "prepared")))
    n_failed = 0
    for n in itertools.count(first, 4):
        store = open_store(str(shutil.copytree(tmp_path / "prepared", tmp_path / str(n))))
        failing = Failing(store, n, error)
        try:
            publish(failing, RUN)
        except OSError as caught:
            assert caught is error
            n_failed += 1
        assert not verify(store).problems
        publish(store, OTHER_RUN)
        assert contents(store.root) == FIRST
        if failing.n_done < n:
            break
    assert n_failed > 5


@contextmanager
def small_disk(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_a_publisher_and_leaves_no_partial_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_first(store)
    with small_disk(2_000), pytest.raises(OSError, match="large"):
        publish(store, RUN)
    assert read_state(store).seq == 0
    assert not list(tmp_path.rglob(".*.tmp"))
    publish(store, RUN)
    assert contents(store.root) == FIRST


class ShortWriteStore(LocalStore):
    """The negative control: calls os.write once and ignores how much it has written."""

    def put(self, key: str, data: bytes) -> None:
        path = Path(self.uri(key))
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, data)
        os.close(descriptor)


def test_a_store_that_ignores_short_writes_leaves_partial_files(tmp_path: Path) -> None:
    store = ShortWriteStore(str(tmp_path))
    write_first(store)
    with small_disk(4_000), suppress(OSError):  # the record is too long, too
        publish(store, RUN)
    sizes = {path.stat().st_size for path in tmp_path.glob("recordings/*/*.parquet")}
    assert 4_000 in sizes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_a_publisher_without_permission_stops_until_it_has_it_again(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if "pytest-of-" in str(path):  # one more with pytest-xdist
            path.chmod(0o755)
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, 65_534, 65_534)
    store = open_store(str(root))
    os.seteuid(65_534)
    try:
        write_first(store)
        publish(store, RUN)
        write_bundle(store, RUN, bundle(window("new")))
        (root / "_log").chmod(0o555)
        with pytest.raises(PermissionError):
            publish(store, RUN)
        assert not verify(store).problems
        (root / "_log").chmod(0o755)
        publish(store, RUN)
    finally:
        os.seteuid(0)
    assert set(contents(store.root)) == {*FIRST, "new"}


def test_a_damaged_bundle_loses_only_its_own_recordings(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_first(store)
    key = write_bundle(store, RUN, bundle(window("x"), window("y")))
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 0x10
    store.put(key, bytes(data))
    assert publish(store, RUN).n_unreadable == 1
    assert contents(store.root) == FIRST, "x and y have no ledger row, so they are planned again"
    assert not verify(store).problems


@pytest.mark.parametrize(
    "act", [lambda store: publish(store, RUN), lambda store: open_snapshot(store.root)]
)
def test_a_hole_in_the_log_stops_writers_and_readers(
    tmp_path: Path, act: Callable[[Store], Any]
) -> None:
    store = open_store(str(tmp_path))
    for name in "abc":
        write_bundle(store, RUN, bundle(window(name)))
        publish(store, RUN)
    before = store.list("")
    store.delete([record_key(2)])
    with pytest.raises(StoreError, match="is missing, but commit 3 exists"):
        act(store)
    assert store.list("") == [key for key in before if key != record_key(2)]
