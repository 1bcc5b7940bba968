"""compact() merges small parts and loses no row, also while others write."""

import pytest

from pipeline.errors import StoreError
from pipeline.maintenance.compact import compact
from pipeline.maintenance.verify import verify
from pipeline.storage.store import Store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_state
from pipeline.tables.parts import part_files
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import OTHER_MODEL, OTHER_RUN, RUN, bundle, window
from tests.support.crashing_stores import InterruptedStore
from tests.support.small_output import contents, n_parts, publish_each


def test_small_parts_become_one(store: Store) -> None:
    publish_each(store, "cadb")
    before = contents(store.root)
    done = compact(store)
    assert (done.n_parts_before, done.n_parts_after, done.n_commits) == (4, 1, 1)
    assert contents(store.root) == before
    assert n_parts(store) == 1
    ids = open_snapshot(store.root).read("transcripts")["recording_id"].to_pylist()
    assert ids == ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert not verify(store).problems


def test_compacting_again_does_nothing(store: Store) -> None:
    publish_each(store, "abc")
    write_bundle(store, RUN, bundle(window("bad", error="NotAudio")))
    publish(store, RUN)
    seq = compact(store).seq
    again = compact(store)
    assert (again.seq, again.n_commits) == (seq, 0)


def test_good_and_failed_parts_stay_apart(store: Store) -> None:
    publish_each(store, "ab")
    publish_each(store, "xy", error="NotAudio")
    compact(store)
    assert n_parts(store) == 2
    write_bundle(store, RUN, bundle(window("x", supersedes="x-v1:1", attempts=2)))
    publish(store, RUN)
    assert contents(store.root)["x"] == ("ok", "v1", 2)


def test_each_model_is_compacted_separately(store: Store) -> None:
    publish_each(store, "ab")
    for name in "ab":
        write_bundle(store, OTHER_MODEL, bundle(window(name)))
        publish(store, OTHER_MODEL)
    assert compact(store).n_commits == 2
    assert set(contents(store.root, fingerprint=OTHER_MODEL.fingerprint)) == {"a", "b"}
    assert set(contents(store.root, fingerprint=RUN.fingerprint)) == {"a", "b"}


def test_parts_are_merged_up_to_a_good_size(store: Store) -> None:
    for name in "abcdefgh":
        write_bundle(store, RUN, bundle(window(name, n_segments=300)))
        publish(store, RUN)
    state = read_state(store)
    sizes = [
        sum(file.bytes for _, file in part_files(state, path)) for path in state.files["recordings"]
    ]
    done = compact(store, good_bytes=max(sizes) * 2)
    assert done.n_commits >= 2
    assert 2 <= n_parts(store) <= 5
    assert set(contents(store.root)) == set("abcdefgh")


def test_a_compacted_recording_can_be_superseded(store: Store) -> None:
    publish_each(store, "ab")
    compact(store)
    write_bundle(store, OTHER_RUN, bundle(window("b", version="v2", supersedes="b-v1:1")))
    publish(store, OTHER_RUN)
    assert contents(store.root) == {"a": ("ok", "v1", 1), "b": ("ok", "v2", 1)}


def test_a_compaction_that_lost_the_race_starts_again(store: Store) -> None:
    publish_each(store, "ab")

    def supersede() -> None:
        write_bundle(store, OTHER_RUN, bundle(window("b", version="v2", supersedes="b-v1:1")))
        publish(store, OTHER_RUN)

    compact(InterruptedStore(store, supersede))
    assert contents(store.root) == {"a": ("ok", "v1", 1), "b": ("ok", "v2", 1)}
    assert n_parts(store) == 1


def test_a_publisher_that_a_compaction_overtook_starts_again(store: Store) -> None:
    publish_each(store, "ab")
    write_bundle(store, OTHER_RUN, bundle(window("b", version="v2", supersedes="b-v1:1")))
    publish(InterruptedStore(store, lambda: compact(store)), OTHER_RUN)
    assert contents(store.root) == {"a": ("ok", "v1", 1), "b": ("ok", "v2", 1)}
    assert not verify(store).problems


def test_a_damaged_part_is_not_compacted(store: Store) -> None:
    publish_each(store, "ab")
    path = next(iter(read_state(store).files["emotions"]))
    store.put(path, store.get(path)[:-1])
    with pytest.raises(StoreError, match="differs from what was committed"):
        compact(store)
    assert read_state(store).seq == 2
