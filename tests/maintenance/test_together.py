"""compact() and vacuum() together: with crashes, beside readers and writers, on S3."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.maintenance.compact import compact
from pipeline.maintenance.release import release
from pipeline.maintenance.vacuum import vacuum
from pipeline.maintenance.verify import verify
from pipeline.schema import TABLES
from pipeline.storage.store import Store, open_store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_state
from pipeline.tables.publisher import Publisher
from tests.support.background import repeated
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.crashing_stores import Crash, CrashingStore
from tests.support.s3_server import S3
from tests.support.small_output import contents, n_parts, publish_each

pytestmark = pytest.mark.usefixtures("patience")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_operation_of_compact_or_vacuum_loses_nothing(
    tmp_path: Path, after: bool
) -> None:
    prepared = open_store(str(tmp_path / "prepared"))
    publish_each(prepared, "ab")
    for n in range(int(after), 200, 2):
        store = open_store(str(shutil.copytree(tmp_path / "prepared", tmp_path / str(n))))
        crashing = CrashingStore(store, n, after)
        with suppress(Crash):
            compact(crashing)
            vacuum(crashing, retain_s=0)
            break  # there is no nth operation: all were tried
        compact(store)
        vacuum(store, retain_s=0)
        assert not verify(store).problems
        assert set(contents(store.root)) == {"a", "b"}
        assert n_parts(store) == 1
    assert n > 40


N_COMMITS = 16
N_LIVE = 8  # recordings that are not superseded yet


def publish_recordings(publisher: Publisher, store: Store, n: int) -> None:
    """Commit recording n, and a new version of the one N_LIVE before it."""
    rows = [window(f"r{n}")]
    if n >= N_LIVE:
        old = f"r{n - N_LIVE}"
        rows.append(window(old, version="v2", supersedes=f"{old}-v1:1"))
    write_bundle(store, RUN, bundle(*rows))
    publisher.publish()


def check_newest_snapshot(store: Store) -> None:
    if not read_state(store).seq:
        return
    snapshot = open_snapshot(store.root)
    time.sleep(0.05)
    recordings = snapshot.read("recordings")
    assert recordings.num_rows == len(set(recordings["recording_id"].to_pylist()))
    n_segments = sum(recordings["n_segments"].to_pylist())
    for table in ("transcripts", "languages", "emotions"):
        assert snapshot.read(table).num_rows == n_segments


def test_compact_and_vacuum_in_a_loop_disturb_no_reader_or_writer(store: Store) -> None:
    """At least 16 commits; all but the first eight supersede a recording.

    Seen on 2 cores: 16 commits, 4 to 10 rounds of compact and vacuum, 12 to 27 snapshots read, 0
    violations.
    """

    def maintain() -> None:
        time.sleep(0.2)
        compact(store)
        # A reader takes less than 2 s. Publishers and compactions need no retention.
        vacuum(store, retain_s=2.0)

    publisher, n, deadline = Publisher(store, RUN), 0, time.monotonic() + 60
    with repeated(maintain, lambda: check_newest_snapshot(store)) as counts:
        while n < N_COMMITS or (min(counts) < 4 and time.monotonic() < deadline):
            publish_recordings(publisher, store, n)
            time.sleep(0.05)  # without a pause, a publisher always commits before compact()
            n += 1
    assert min(counts) >= 4
    vacuum(store, retain_s=0)
    expected = {f"r{i}": ("ok", "v2" if i < n - N_LIVE else "v1", 1) for i in range(n)}
    assert contents(store.root) == expected
    assert not verify(store).problems


def test_compact_vacuum_and_release_work_on_s3(s3: S3) -> None:
    store = open_store(f"{s3.new_bucket()}/root", s3.storage_options)
    publish_each(store, "ab")
    compact(store)
    assert len(vacuum(store, retain_s=0).files) == 2 * len(TABLES)
    assert set(contents(store.root, s3.storage_options)) == {"a", "b"}
    release(
        open_snapshot(store.root, s3.storage_options),
        open_store(f"{store.root}-v1", s3.storage_options),
    )
    assert "_SUCCESS" in open_store(f"{store.root}-v1", s3.storage_options).list("")
