"""promote: another fingerprint becomes the default, by a commit that changes nothing else."""

import json

import pytest
from typer.testing import CliRunner

from jobs import promote as job
from pipeline.errors import StoreError
from pipeline.maintenance.promote import promote
from pipeline.maintenance.vacuum import vacuum
from pipeline.maintenance.verify import verify
from pipeline.storage.store import Store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import derived_seq, read_record
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, window


@pytest.fixture
def two(store: Store) -> Store:
    """Three recordings of RUN, which is the default, and one of OTHER_MODEL."""
    write_bundle(store, RUN, bundle(*map(window, "abc")))
    publish(store, RUN)
    write_bundle(store, OTHER_MODEL, bundle(window("a")))
    publish(store, OTHER_MODEL, make_current=True)
    return store


def test_readers_get_the_promoted_labels(two: Store) -> None:
    assert open_snapshot(two.root).fingerprint == RUN.fingerprint
    done = promote(two, OTHER_MODEL.fingerprint)
    assert (done.seq, done.before) == (3, RUN.fingerprint)
    assert (done.n_recordings, done.n_recordings_before, done.n_hidden) == (1, 3, 2)
    with connect(two.root) as connection:
        assert connection.execute("SELECT count(*) FROM recordings").fetchall() == [(1,)]
    assert open_snapshot(two.root, seq=2).fingerprint == RUN.fingerprint


def test_promoting_changes_no_file_and_is_verified(two: Store) -> None:
    snapshot = open_snapshot(two.root)
    promote(two, OTHER_MODEL.fingerprint)
    record = read_record(two, 3)
    assert (record.added, record.removed, record.consumed) == ({}, {}, ())
    assert record.run_id.startswith("promote-")
    assert derived_seq(two) == 3
    assert not verify(two).problems
    vacuum(two, retain_s=0)
    assert snapshot.read("recordings").num_rows == 3


def test_promoting_the_former_fingerprint_undoes_it(two: Store) -> None:
    promote(two, OTHER_MODEL.fingerprint)
    assert promote(two, RUN.fingerprint).seq == 4
    assert open_snapshot(two.root).read("recordings").num_rows == 3


def test_the_default_is_not_promoted_again(two: Store) -> None:
    assert promote(two, RUN.fingerprint).seq == 2


def test_a_fingerprint_without_recordings_is_refused(two: Store) -> None:
    with pytest.raises(StoreError, match="no recordings under"):
        promote(two, "ab" * 16)


def test_a_run_goes_on_after_a_promotion(two: Store) -> None:
    promote(two, OTHER_MODEL.fingerprint)
    write_bundle(two, RUN, bundle(window("d")))
    publish(two, RUN)
    assert open_snapshot(two.root).fingerprint == OTHER_MODEL.fingerprint
    assert publish(two, RUN, make_current=True).n_uncovered == 0
    assert open_snapshot(two.root).read("recordings").num_rows == 4


def test_the_command_says_what_readers_get(two: Store) -> None:
    done = CliRunner().invoke(job.app, [two.root, "e2e2"])
    assert done.exit_code == 0
    assert f"readers now get the 1 recordings under {OTHER_MODEL.fingerprint}" in done.stdout
    assert f"2 recordings are only under {RUN.fingerprint}" in done.stdout
    again = CliRunner().invoke(job.app, [two.root, "e2e2", "--json"])
    assert json.loads(again.stdout)["seq"] == 3


def test_an_unknown_fingerprint_is_refused_by_the_command(two: Store) -> None:
    done = CliRunner().invoke(job.app, [two.root, "zz"])
    assert done.exit_code == 2
    assert "give the first letters of one of these" in done.stderr
