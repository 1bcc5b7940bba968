"""A small output that tests publish, and a check of what an output of bundle_rows contains."""

from collections import Counter
from hashlib import sha256
from typing import Any

from pipeline.storage.store import Store, open_store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_state
from pipeline.tables.publisher import publish
from pipeline.tables.run_records import RunInfo
from tests.support.bundle_rows import OTHER_RUN, RUN, bundle, whole, window


def contents(
    root: str, options: dict[str, Any] | None = None, fingerprint: str | None = None
) -> dict[str, tuple[str, str, int]]:
    """recording_id -> (status, version, attempts), after a check that the tables agree.

    The check: every recording once, every segment once in each table, all from one attempt, events
    with their segments, and every file as it was committed.
    """
    snapshot = open_snapshot(root, options, fingerprint=fingerprint)
    recordings = snapshot.read("recordings").to_pylist()
    ids = [row["recording_id"] for row in recordings]
    assert len(ids) == len(set(ids)), "a recording has two rows"
    by_id = {row["recording_id"]: row for row in recordings}
    transcripts = snapshot.read("transcripts").to_pylist()
    segment_ids = [row["segment_id"] for row in transcripts]
    expected = [f"{i}-{n:06d}" for i in by_id for n in range(by_id[i]["n_segments"])]
    assert Counter(segment_ids) == Counter(expected), "segments are missing or repeated"
    for table in ("languages", "emotions"):
        assert Counter(snapshot.read(table)["segment_id"].to_pylist()) == Counter(segment_ids)
    events = Counter(snapshot.read("events")["segment_id"].to_pylist())
    assert events == Counter(segment_ids * 2), "events are missing or repeated"
    attempts: dict[str, set[str]] = {}
    for row in transcripts:
        recording_id, version, attempt, _ = row["text"].split(" ")
        assert recording_id == row["recording_id"]
        assert version == by_id[recording_id]["version"], "a superseded label is still there"
        attempts.setdefault(recording_id, set()).add(attempt)
    assert all(len(found) == 1 for found in attempts.values()), "labels of two attempts are mixed"
    _check_files(root, options)
    return {i: (by_id[i]["status"], by_id[i]["version"], by_id[i]["attempts"]) for i in ids}


def _check_files(root: str, options: dict[str, Any] | None) -> None:
    store = open_store(root, options)
    for files in read_state(store).files.values():
        for file in files.values():
            assert sha256(store.get(file.path)).hexdigest() == file.sha256


def write_first(store: Store) -> None:
    """Six recordings in three bundles; `a` is in two of them, and so are the windows of `long`."""
    long = whole("long", 3)
    write_bundle(store, RUN, bundle(window("a"), window("b"), window("bad", error="NotAudio")))
    write_bundle(store, RUN, bundle(window("c"), *long[:2]))
    write_bundle(store, RUN, bundle(long[2], window("quiet", n_segments=0), window("a")))


FIRST = {
    "a": ("ok", "v1", 1),
    "b": ("ok", "v1", 1),
    "bad": ("error", "v1", 1),
    "c": ("ok", "v1", 1),
    "long": ("ok", "v1", 1),
    "quiet": ("ok", "v1", 1),
}


def write_second(store: Store) -> None:
    """Changed audio, a retried error, a new recording, and a late task of the first run."""
    changed = window("b", version="v2", supersedes="b-v1:1")
    retried = window("bad", supersedes="bad-v1:1", attempts=2)
    write_bundle(store, OTHER_RUN, bundle(changed, retried, window("new")))
    write_bundle(store, RUN, bundle(window("c", attempt_id="late")))


SECOND = FIRST | {"b": ("ok", "v2", 1), "bad": ("ok", "v1", 2), "new": ("ok", "v1", 1)}


def publish_each(store: Store, names: str, error: str = "", run: RunInfo = RUN) -> None:
    """One commit and one part for each letter of `names`."""
    for name in names:
        write_bundle(store, run, bundle(window(name, error=error)))
        publish(store, run)


def n_parts(store: Store) -> int:
    return len(read_state(store).table("recordings", RUN.fingerprint))
