"""Bundles become rows of the tables; newer rows replace older ones; models are kept apart."""

import json

import pytest

from pipeline.errors import StoreError
from pipeline.schema import TABLES
from pipeline.storage.store import Store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_record, read_state
from pipeline.tables.publisher import Published, Publisher, publish
from tests.support.bundle_rows import NO_GAPS, OTHER_MODEL, OTHER_RUN, RUN, bundle, whole, window
from tests.support.small_output import FIRST, SECOND, contents, write_first, write_second


def test_a_bundle_becomes_rows_in_all_tables(store: Store) -> None:
    write_first(store)
    published = publish(store, RUN)
    assert published == Published(
        seq=1, n_recordings=6, n_errors=1, n_segments=14, audio_s=80.0, n_dropped=0
    )
    assert contents(store.root) == FIRST


def test_publishing_again_commits_nothing(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    assert publish(store, RUN) == Published(seq=1)


def test_the_tables_have_the_schemas_of_the_contract(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    snapshot = open_snapshot(store.root)
    for table, schema in TABLES.items():
        assert snapshot.read(table).schema.equals(schema)


def test_a_row_of_recordings_has_the_facts_of_all_windows(store: Store) -> None:
    rows = whole("long", 2, warning="clipped")
    rows[1]["warning"] = "cut short"
    rows[1] |= {"error_stage": "label", "error_type": "OutOfMemory", "error_message": "too much"}
    write_bundle(store, RUN, bundle(*reversed(rows)))
    publish(store, RUN)
    (row,) = open_snapshot(store.root).read("recordings").to_pylist()
    assert row.pop("committed_at").tzinfo is not None
    assert row == {
        "recording_id": "long",
        "uri": "/audio/long.wav",
        "offset_s": 0.0,
        "version": "v1",
        "status": "error",
        "error_stage": "label",
        "error_type": "OutOfMemory",
        "error_message": "too much",
        "warning": "clipped; cut short",
        "attempts": 1,
        "duration_s": 20.0,
        "labelled_s": 10.0,
        "silence_s": 10.0,
        "failed_s": 0.0,
        "n_segments": 4,
        "sample_rate_hz": 16_000,
        "channels": 1,
        "codec": "pcm_s16le",
        "bytes": 1000,
        "extra": [("corpus", "made up")],
        "model": "demo",
        "model_hash": RUN.model_hash,
        "fingerprint": RUN.fingerprint,
        "work_key": "long-v1",
        "run_id": "run-a",
        **{"member": None, "channel": None, "n_streams": 1},
        **NO_GAPS,
    }


def test_segments_are_numbered_in_time_order_over_all_windows(store: Store) -> None:
    rows = whole("long", 3)
    rows[1]["segments"].reverse()
    write_bundle(store, RUN, bundle(rows[2], rows[0]))
    write_bundle(store, RUN, bundle(rows[1]))
    publish(store, RUN)
    transcripts = open_snapshot(store.root).read("transcripts")
    assert transcripts["segment_id"].to_pylist() == [f"long-{n:06d}" for n in range(6)]
    assert transcripts["start_s"].to_pylist() == [0.0, 4.0, 10.0, 14.0, 20.0, 24.0]


def test_labels_of_a_failed_recording_are_kept(store: Store) -> None:
    rows = whole("long", 2)
    rows[1] |= {"error_stage": "decode", "error_type": "Truncated", "segments": []}
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    snapshot = open_snapshot(store.root)
    assert snapshot.read("recordings")["status"].to_pylist() == ["error"]
    assert snapshot.read("transcripts").num_rows == 2


def test_files_are_sorted_by_recording(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("c"), window("a")))
    write_bundle(store, RUN, bundle(window("d"), window("b")))
    publish(store, RUN)
    (file,) = read_state(store).table("transcripts", RUN.fingerprint)
    ids = open_snapshot(store.root).read("transcripts")["recording_id"].to_pylist()
    assert ids == ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert (file.first_id, file.last_id) == ("a", "d")


def test_a_large_publish_makes_several_parts_in_one_commit(store: Store) -> None:
    for name in "abcdefgh":
        write_bundle(store, RUN, bundle(*whole(name, 2)))
    assert publish(store, RUN, part_bytes=4000).seq == 1
    assert len(read_state(store).table("transcripts", RUN.fingerprint)) > 1
    assert set(contents(store.root)) == set("abcdefgh")


def test_changed_audio_supersedes_in_one_commit(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    old = {path for files in read_state(store).files.values() for path in files}
    write_second(store)
    published = publish(store, OTHER_RUN)
    assert (published.seq, published.n_recordings, published.n_dropped) == (2, 3, 1)
    assert contents(store.root) == SECOND
    listed = {path for files in read_state(store).files.values() for path in files}
    assert not old & listed
    assert set(store.list("transcripts/")) & old, "the old files stay for older snapshots"
    assert open_snapshot(store.root, seq=1).read("recordings").num_rows == len(FIRST)


def test_a_retried_error_leaves_the_good_parts_alone(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    files = read_state(store).files["recordings"]
    write_bundle(store, RUN, bundle(window("bad", supersedes="bad-v1:1", attempts=2)))
    publish(store, RUN)
    (removed,) = read_record(store, 2).removed["recordings"]
    assert (files[removed].rows, files[removed].first_id) == (1, "bad")
    assert contents(store.root) == FIRST | {"bad": ("ok", "v1", 2)}


def test_an_error_may_fail_again(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("bad", error="Timeout")))
    publish(store, RUN)
    again = window("bad", error="Timeout", supersedes="bad-v1:1", attempts=2)
    write_bundle(store, RUN, bundle(again))
    publish(store, RUN)
    assert contents(store.root) == {"bad": ("error", "v1", 2)}


def test_parts_that_are_rewritten_in_one_commit_are_merged(store: Store) -> None:
    for name in "abcd":
        write_bundle(store, RUN, bundle(window(name), window(f"{name}2")))
        publish(store, RUN)
    changed = [window(name, version="v2", supersedes=f"{name}-v1:1") for name in "abcd"]
    write_bundle(store, RUN, bundle(*changed))
    publish(store, RUN)
    assert len(read_state(store).table("recordings", RUN.fingerprint)) == 1
    assert len(contents(store.root)) == 8


def test_bundles_of_a_dead_run_are_published_by_the_next(store: Store) -> None:
    write_first(store)
    publish(store, OTHER_RUN)
    assert contents(store.root) == FIRST
    rows = open_snapshot(store.root).read("recordings", ["run_id"])
    assert set(rows["run_id"].to_pylist()) == {"run-a"}
    assert read_record(store, 1).runs[0]["run_id"] == "run-a"


def test_readers_see_a_new_model_when_its_run_is_complete(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("a"), window("b")))
    publish(store, RUN, make_current=True)
    write_bundle(store, OTHER_MODEL, bundle(window("a"), window("c")))
    publish(store, OTHER_MODEL)
    assert open_snapshot(store.root).fingerprint == RUN.fingerprint
    assert set(contents(store.root, fingerprint=OTHER_MODEL.fingerprint)) == {"a", "c"}
    assert publish(store, OTHER_MODEL, make_current=True).n_uncovered == 1  # "b"
    assert open_snapshot(store.root).fingerprint == RUN.fingerprint
    write_bundle(store, OTHER_MODEL, bundle(window("b", error="NotAudio")))
    assert publish(store, OTHER_MODEL, make_current=True).n_uncovered == 0
    assert open_snapshot(store.root).fingerprint == OTHER_MODEL.fingerprint
    assert set(contents(store.root, fingerprint=RUN.fingerprint[:4])) == {"a", "b"}


def test_the_first_rows_of_an_output_are_current_at_once(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("a")))
    publish(store, RUN)
    assert open_snapshot(store.root).fingerprint == RUN.fingerprint


def test_a_run_without_recordings_can_be_current(store: Store) -> None:
    assert publish(store, RUN, make_current=True).seq == 1
    assert open_snapshot(store.root).read("transcripts").num_rows == 0


def test_two_models_are_published_in_one_commit(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("a")))
    write_bundle(store, OTHER_MODEL, bundle(window("a"), window("b")))
    assert publish(store, RUN, make_current=True).n_recordings == 3
    assert set(contents(store.root)) == {"a"}
    assert set(contents(store.root, fingerprint=OTHER_MODEL.fingerprint)) == {"a", "b"}


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_damaged_bundle_is_skipped_and_counted(store: Store, keep: int) -> None:
    write_bundle(store, RUN, bundle(window("a")))
    key = write_bundle(store, RUN, bundle(window("b")))
    data = bytearray(store.get(key))
    data[len(data) // 3] ^= 0xFF
    store.put(key, bytes(data[:keep]))
    assert publish(store, RUN).n_unreadable == 1
    assert read_record(store, 1).unreadable == (key,)
    assert set(contents(store.root)) == {"a"}


def test_a_damaged_table_file_is_not_rewritten(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    path = next(iter(read_state(store).files["events"]))
    data = bytearray(store.get(path))
    data[100] ^= 0xFF
    store.put(path, bytes(data))
    write_second(store)
    with pytest.raises(StoreError, match="differs from what was committed"):
        publish(store, RUN)


def test_a_bundle_whose_name_has_no_digest_is_published(store: Store) -> None:
    key = write_bundle(store, RUN, bundle(window("a")))
    store.put(key.partition("-a/")[0] + "-a/0123456789abcdef.parquet", store.get(key))
    store.delete([key])
    assert publish(store, RUN).n_recordings == 1


def test_rows_whose_seconds_do_not_add_up_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="is not duration_s in 'a'"):
        write_bundle(store, RUN, bundle(window("a") | {"silence_s": 4.9}))


def test_rows_with_other_columns_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="wrong columns"):
        write_bundle(store, RUN, bundle(window("a")).drop_columns(["codec"]))


def test_lost_derived_files_are_written_again(store: Store) -> None:
    write_first(store)
    publish(store, RUN)
    store.delete([*store.list("_snapshots/"), "_latest.json"])
    publish(store, RUN)
    assert json.loads(store.get("_latest.json")) == {"seq": 1}
    assert len(store.list("_snapshots/")) == len(TABLES)


def test_a_publisher_sees_what_others_commit_between_two_calls(store: Store) -> None:
    publisher = Publisher(store, RUN)
    write_first(store)
    publisher.publish()
    write_second(store)
    publish(store, OTHER_RUN)
    write_bundle(store, RUN, bundle(window("b", version="v3", supersedes="b-v2:1")))
    assert publisher.publish().n_recordings == 1
    assert contents(store.root) == SECOND | {"b": ("ok", "v3", 1)}
