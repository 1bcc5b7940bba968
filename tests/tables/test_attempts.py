"""Which attempts a publisher commits: windows that wait, repeated and late tasks."""

from pipeline.storage.store import Store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_state
from pipeline.tables.publisher import Published, publish
from tests.support.bundle_rows import OTHER_RUN, RUN, bundle, whole, window
from tests.support.small_output import FIRST, SECOND, contents, write_first, write_second


def test_a_recording_waits_for_all_its_windows(store: Store) -> None:
    first, second, third = whole("long", 3)
    write_bundle(store, RUN, bundle(first, window("a")))
    write_bundle(store, RUN, bundle(third))
    assert publish(store, RUN).n_waiting == 1
    assert set(contents(store.root)) == {"a"}
    write_bundle(store, RUN, bundle(second))
    assert publish(store, RUN).n_recordings == 1
    assert set(contents(store.root)) == {"a", "long"}


def test_rows_that_an_open_bundle_gave_before_do_not_count_as_dropped(store: Store) -> None:
    first, second = whole("long", 2)
    write_bundle(store, RUN, bundle(first, window("a")))
    publish(store, RUN)
    write_bundle(store, RUN, bundle(second))
    assert publish(store, RUN).n_dropped == 0
    assert len(read_state(store).consumed) == 2


def test_windows_that_wait_cause_no_commit(store: Store) -> None:
    write_bundle(store, RUN, bundle(whole("long", 2)[0]))
    assert publish(store, RUN) == Published(seq=0, n_waiting=1)


def test_windows_of_two_attempts_are_never_mixed(store: Store) -> None:
    write_bundle(store, RUN, bundle(whole("long", 2, attempt_id="x")[0]))
    write_bundle(store, RUN, bundle(whole("long", 2, attempt_id="y")[1]))
    assert publish(store, RUN).n_recordings == 0
    write_bundle(store, RUN, bundle(whole("long", 2, attempt_id="y")[0]))
    published = publish(store, RUN)
    assert (published.n_recordings, published.n_dropped, published.n_waiting) == (1, 1, 0)
    assert set(contents(store.root)) == {"long"}


def test_a_window_that_was_labelled_twice_counts_once(store: Store) -> None:
    first, second = whole("long", 2)
    write_bundle(store, RUN, bundle(first))
    write_bundle(store, RUN, bundle(first))
    write_bundle(store, RUN, bundle(second))
    assert publish(store, RUN).n_segments == 4
    assert set(contents(store.root)) == {"long"}


def test_of_several_attempts_the_smallest_bundle_key_wins(store: Store) -> None:
    keys = {
        write_bundle(store, RUN, bundle(window("a", attempt_id=name))): name for name in "xyzuvw"
    }
    published = publish(store, RUN)
    assert (published.n_recordings, published.n_dropped) == (1, 5)
    text = open_snapshot(store.root).read("transcripts")["text"][0].as_py()
    assert text.split(" ")[2] == keys[min(keys)]


def test_a_late_bundle_is_dropped(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    write_bundle(store, RUN, bundle(window("a", attempt_id="late"), window("b")))
    published = publish(store, RUN)
    assert (published.n_recordings, published.n_dropped) == (0, 2)
    assert contents(store.root) == FIRST
    assert read_state(store).consumed == set(store.list("_bundles/"))


def test_a_late_bundle_of_an_older_version_is_dropped(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    write_second(store)
    publish(store, OTHER_RUN)
    late = window("b", version="v3", supersedes="b-v1:1")
    write_bundle(store, RUN, bundle(late, window("bad", supersedes="bad-v1:1", attempts=2)))
    assert publish(store, RUN).n_dropped == 2
    assert contents(store.root) == SECOND
