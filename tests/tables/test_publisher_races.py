"""Publishers that crash at any operation, or that others overtake; each with its control."""

import itertools
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StoreError
from pipeline.maintenance.verify import verify
from pipeline.storage.store import Store, open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_state, record_key
from pipeline.tables.publisher import Published, Publisher, publish
from pipeline.tables.run_records import RunInfo
from tests.support.bundle_rows import OTHER_RUN, RUN, bundle, window
from tests.support.crashing_stores import (
    CRASHES,
    Crash,
    CrashingStore,
    InterruptedStore,
    VisibleWriteStore,
)
from tests.support.s3_server import S3
from tests.support.small_output import FIRST, SECOND, contents, write_first, write_second

pytestmark = pytest.mark.usefixtures("patience")


def prepare_first(store: Store) -> None:
    write_first(store)


def prepare_second(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    write_second(store)


@pytest.mark.parametrize("moment", CRASHES)
@pytest.mark.parametrize(
    ("prepare", "expected"), [(prepare_first, FIRST), (prepare_second, SECOND)]
)
def test_a_crash_at_any_store_operation_leaves_every_recording_once(
    tmp_path: Path,
    prepare: Callable[[Store], None],
    expected: dict[str, tuple[str, str, int]],
    moment: str,
) -> None:
    """Each operation of two publishes, in three ways: 140 crashes, 0 violations."""
    prepare(open_store(str(tmp_path / "prepared")))
    for n in itertools.count():
        root = shutil.copytree(tmp_path / "prepared", tmp_path / str(n))
        store = open_store(str(root))
        crashing = CRASHES[moment](store, n)
        crashed = False
        try:
            publish(crashing, RUN, make_current=True)
        except Crash:
            crashed = True
            publish(store, OTHER_RUN)
        assert contents(store.root) == expected
        assert read_state(store).consumed == set(store.list("_bundles/"))
        if not crashed:
            break  # there is no nth operation: all were tried
    assert n > 10


def test_a_store_that_writes_under_the_final_name_can_tear_the_log(tmp_path: Path) -> None:
    """The negative control of the test before."""
    prepare_first(open_store(str(tmp_path / "prepared")))
    n_torn = 0
    for n in range(30):
        store = open_store(str(shutil.copytree(tmp_path / "prepared", tmp_path / str(n))))
        with suppress(Crash):
            publish(VisibleWriteStore(store, n), RUN)
        n_torn += bool(verify(store).problems)
    assert n_torn == 2, "the record, and _latest.json"


def race(store: Store, ignores_condition: bool) -> None:
    """One publisher is about to commit `a` when another one commits `a` and `b`."""
    write_bundle(store, RUN, bundle(window("a")))

    def other() -> None:
        write_bundle(store, OTHER_RUN, bundle(window("b")))
        publish(store, OTHER_RUN)

    publish(InterruptedStore(store, other, ignores_condition), RUN)


def test_a_publisher_that_lost_the_race_builds_its_commit_again(store: Store) -> None:
    race(store, ignores_condition=False)
    assert set(contents(store.root)) == {"a", "b"}
    assert read_state(store).seq == 1, "the other publisher has committed everything"


def test_a_store_that_ignores_the_condition_loses_recordings(store: Store) -> None:
    """The negative control: the same check finds the loss."""
    race(store, ignores_condition=True)
    assert set(contents(store.root)) == {"a"}


def test_a_publisher_starts_again_if_a_listed_bundle_is_gone(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("a")))
    (key,) = store.list("_bundles/")

    class OutdatedListing(CrashingStore):
        n_lists = 0

        def list(self, prefix: str) -> Sequence[str]:
            self.n_lists += prefix == "_bundles/"
            gone = ["_bundles/run-a/gone.parquet"] if self.n_lists == 1 else []
            return [*self._store.list(prefix), *(gone if prefix == "_bundles/" else [])]

    publisher = Publisher(OutdatedListing(store), RUN)
    assert publisher.publish().n_recordings == 1
    assert read_state(store).consumed == {key}


def test_a_publisher_that_always_loses_says_why(store: Store) -> None:
    class LosingStore(CrashingStore):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            return False

    write_bundle(store, RUN, bundle(window("a")))
    with pytest.raises(StoreError, match="no commit in 20 tries, because other publishers"):
        publish(LosingStore(store), RUN)


def contend(open_root: Callable[[], Store], n_publishers: int, n_rounds: int) -> list[Published]:
    """Each publisher has two recordings of its own a round, and one that all publishers have."""

    def work(name: str) -> list[Published]:
        store = open_root()
        run = RunInfo(f"run-{name}", RUN.fingerprint, "demo", RUN.model_hash, "none")
        results = []
        for turn in range(n_rounds):
            mine = [window(f"{name}{turn}{n}", attempt_id=name) for n in range(2)]
            shared = window(f"shared{turn}", attempt_id=name)
            write_bundle(store, run, bundle(*mine, shared))
            results.append(publish(store, run))
        return results

    with ThreadPoolExecutor(n_publishers) as pool:
        return [one for results in pool.map(work, "pqrs"[:n_publishers]) for one in results]


def check_contention(
    root: str, options: dict[str, Any] | None, results: list[Published], n: int
) -> None:
    n_rounds = len(results) // n
    assert len(contents(root, options)) == n_rounds * (2 * n + 1)
    assert sum(one.n_recordings for one in results) == n_rounds * (2 * n + 1)
    assert sum(one.n_dropped for one in results) == n_rounds * (n - 1)


def test_contending_publishers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    root = str(tmp_path)
    results = contend(lambda: open_store(root), n_publishers=3, n_rounds=4)
    check_contention(root, None, results, 3)


@pytest.mark.parametrize("fault", ["plain", "lost"])
def test_contending_publishers_on_s3_lose_and_repeat_nothing(s3: S3, fault: str) -> None:
    root, options = f"{s3.new_bucket(fault)}/root", s3.storage_options
    results = contend(lambda: open_store(root, options), n_publishers=2, n_rounds=3)
    check_contention(root, options, results, 2)


def test_a_commit_whose_answer_was_lost_is_recognized(s3: S3) -> None:
    store = open_store(s3.new_bucket("lost"), s3.storage_options)
    write_first(store)
    assert publish(store, RUN).seq == 1
    assert contents(store.root, s3.storage_options) == FIRST
    assert store.list("_log/") == [record_key(1)]
