"""verify() finds every fault that these tests plant. Each is the negative control of a check."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner

from jobs import verify as job
from pipeline.maintenance.verify import verify
from pipeline.storage.store import Store, open_store
from pipeline.tables import commit_log as commits
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import record_key
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, whole, window
from tests.support.rewritten import file_of, put_record, rewrite
from tests.support.s3_server import S3


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "root"))
    rows = [window("a"), window("b"), *whole("long", 2), window("quiet", n_segments=0)]
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    return store


def problem(store: Store) -> str:
    problems = verify(store).problems
    assert problems, "no problem was found"
    return "\n".join(problems)


def with_value(column: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        values = rows[column].to_pylist()
        values[row] = value
        field = rows.schema.field(column)
        place = rows.schema.get_field_index(column)
        return rows.set_column(place, field, pa.array(values, field.type))

    return change


def reordered(*order: int) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: rows.take(pa.array(order))


def test_a_good_output_is_verified(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("bad", error="NotAudio")))
    publish(store, RUN)
    write_bundle(store, OTHER_MODEL, bundle(window("a")))
    publish(store, OTHER_MODEL)
    write_bundle(store, RUN, bundle(window("later")))
    verdict = verify(store)
    assert verdict.problems == []
    assert (verdict.seq, verdict.n_fingerprints, verdict.n_recordings) == (3, 2, 6)
    assert (verdict.n_errors, verdict.n_segments, verdict.n_waiting) == (1, 12, 1)
    assert verdict.audio_s == 70.0


def test_an_empty_output_is_verified(tmp_path: Path) -> None:
    assert verify(open_store(str(tmp_path))).problems == []


def test_an_output_on_s3_is_verified(s3: S3) -> None:
    store = open_store(s3.new_bucket(), s3.storage_options)
    write_bundle(store, RUN, bundle(window("a")))
    publish(store, RUN)
    assert (verify(store).n_recordings, verify(store).problems) == (1, [])


def test_an_output_that_was_moved_is_verified(store: Store, tmp_path: Path) -> None:
    moved = Path(store.root).rename(tmp_path / "elsewhere")
    assert verify(open_store(str(moved))).problems == []


ROW_FAULTS = [
    ("recordings", with_value("labelled_s", 0, 5.002), "is not duration_s: 1 of 4, first 'a'"),
    ("recordings", with_value("labelled_s", 0, float("nan")), "is not duration_s"),
    ("recordings", with_value("duration_s", 1, 1.0), "lies outside its recording"),
    ("recordings", with_value("n_segments", 3, 1), "n_segments is not the number of segments"),
    ("recordings", with_value("recording_id", 1, "a"), "a recording has two rows"),
    ("recordings", with_value("recording_id", 1, "c"), "a segment belongs to no recording"),
    ("recordings", with_value("status", 0, "error"), "status and error_stage do not agree"),
    (
        "recordings",
        with_value("fingerprint", 0, "00"),
        "the fingerprint of a row is not the one of its file",
    ),
    ("recordings", reordered(1, 0, 2, 3), "recordings are not sorted by recording_id"),
    ("transcripts", reordered(*range(7)), "n_segments is not the number of segments"),
    ("transcripts", with_value("segment_id", 1, "a-000000"), "not numbered in order, each once"),
    ("transcripts", with_value("start_s", 1, -1.0), "segments are not in time order"),
    ("transcripts", with_value("end_s", 3, 11.0), "a segment lies outside its recording"),
    ("transcripts", with_value("end_s", 3, 3.0), "a segment lies outside its recording"),
    ("transcripts", with_value("confidence", 0, float("nan")), "confidence is not a probability"),
    ("languages", reordered(*range(7)), "languages and transcripts differ in 1 rows"),
    ("languages", reordered(0, *range(8)), "languages and transcripts differ in the order"),
    ("languages", with_value("probability", 2, 1.5), "languages.probability is not a probability"),
    ("emotions", with_value("segment_id", 0, "a-000009"), "emotions and transcripts differ"),
    ("emotions", with_value("start_s", 0, 0.5), "emotions and transcripts differ"),
    ("events", with_value("segment_id", 0, "a-000009"), "an event has no segment"),
    ("events", with_value("segment_id", 0, "b-000000"), "an event's segment is of another"),
    ("events", with_value("end_s", 0, 99.0), "an event lies outside its recording"),
]


@pytest.mark.parametrize(("table", "change", "text"), ROW_FAULTS)
def test_a_wrong_row_is_found(
    store: Store, table: str, change: Callable[[pa.Table], pa.Table], text: str
) -> None:
    rewrite(store, table, change)
    assert text in problem(store)


def test_rewriting_a_file_without_a_change_is_no_fault(store: Store) -> None:
    for table in ("recordings", "transcripts", "languages", "emotions", "events"):
        rewrite(store, table, lambda rows: rows)
    assert verify(store).problems == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda rows: rows.drop_columns(["itn"]), "column itn is missing"),
        (lambda rows: rows.append_column("x", rows["itn"]), "column x is unknown"),
        (
            lambda rows: rows.set_column(7, "confidence", rows["confidence"].cast(pa.float64())),
            "column confidence is",
        ),
    ],
)
def test_a_wrong_schema_is_found(
    store: Store, change: Callable[[pa.Table], pa.Table], text: str
) -> None:
    rewrite(store, "transcripts", change)
    assert text in problem(store)


def test_wrong_metadata_is_found(store: Store) -> None:
    rewrite(store, "events", lambda rows: rows, {"fingerprint": "00", "schema_version": "1"})
    assert "has another fingerprint in its metadata" in problem(store)
    rewrite(
        store, "events", lambda rows: rows, {"fingerprint": RUN.fingerprint, "schema_version": "99"}
    )
    assert "has schema_version '99'" in problem(store)


def test_a_record_with_wrong_counts_is_found(store: Store) -> None:
    record = json.loads(store.get(record_key(1)))
    record["added"]["events"][0]["rows"] += 1
    put_record(store, 1, record)
    assert "has other rows or ids" in problem(store)


def test_a_missing_file_is_found(store: Store) -> None:
    path = file_of(store, "emotions")
    store.delete([path])
    assert problem(store) == f"{store.uri(path)}: is missing, but a commit lists it"


@pytest.mark.parametrize("table", ["recordings", "transcripts", "events"])
def test_every_flipped_bit_is_found(store: Store, table: str) -> None:
    path = file_of(store, table)
    data = store.get(path)
    random = np.random.default_rng(7)
    for place in random.integers(0, len(data), 10):
        damaged = bytearray(data)
        damaged[place] ^= 1 << random.integers(8)
        store.put(path, bytes(damaged))
        assert "differs from what was committed (sha256)" in problem(store)
    store.put(path, data[:-1])
    assert "bytes, but" in problem(store)


def test_a_flipped_bit_is_found_by_the_page_checksum_alone(store: Store) -> None:
    path = file_of(store, "transcripts")
    data = bytearray(store.get(path))
    data[200] ^= 1
    store.put(path, bytes(data))
    record = json.loads(store.get(record_key(1)))
    for file in record["added"]["transcripts"]:
        file["sha256"] = hashlib.sha256(data).hexdigest()
    put_record(store, 1, record)
    assert "cannot be read as parquet" in problem(store)


def test_a_recording_in_two_parts_is_found(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("other")))
    publish(store, RUN)
    second = json.loads(store.get(record_key(2)))
    first = json.loads(store.get(record_key(1)))
    for table, files in second["added"].items():
        copy = dict(first["added"][table][0])
        data = store.get(copy["path"])
        copy["path"] = files[0]["path"].replace("-0.parquet", "-1.parquet")
        store.put(copy["path"], data)
        files.append(copy)
    put_record(store, 2, second)
    store.delete(["_latest.json"])
    assert "4 recordings are in another part, too, 'a' in recordings/" in problem(store)


def test_a_part_without_its_recordings_is_found(store: Store) -> None:
    record = json.loads(store.get(record_key(1)))
    del record["added"]["recordings"]
    put_record(store, 1, record)
    assert "its part has no file in recordings" in problem(store)


def test_a_hole_in_the_log_is_found(store: Store) -> None:
    for name in ("x", "y"):
        write_bundle(store, RUN, bundle(window(name)))
        publish(store, RUN)
    store.delete([record_key(2)])
    assert "is missing, but commit 3 exists; the commit log is damaged" in problem(store)


def test_a_record_that_cannot_be_read_is_found(store: Store) -> None:
    store.put(record_key(1), b"{")
    assert "the commit log is damaged" in problem(store)


def test_a_checkpoint_that_differs_from_the_log_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 2)
    write_bundle(store, RUN, bundle(window("x")))
    publish(store, RUN)
    assert verify(store).problems == []
    (key,) = store.list("_checkpoints/")
    body = json.loads(store.get(key).partition(b"\n")[2])
    body["files"]["events"].pop()
    text = json.dumps(body).encode()
    store.put(key, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    assert "a checkpoint and the commit log disagree" in problem(store)


def test_a_wrong_file_list_is_found(store: Store) -> None:
    store.put("_snapshots/1/events.json", b'{"path": "/somewhere/else.parquet"}\n')
    assert "does not list the files of commit 1" in problem(store)


def test_files_that_no_commit_lists_are_no_fault(store: Store) -> None:
    store.put("events/f1f1f1f1/c00000009-orphan-0.parquet", b"left behind")
    store.put("notes.txt", b"not ours")
    assert verify(store).problems == []
    assert open_snapshot(store.root).read("events").num_rows == 16


def run_job(root: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(job.main)
    result = CliRunner().invoke(app, [root])
    return result.exit_code, result.output


def test_the_command_prints_one_line_for_a_good_output(store: Store) -> None:
    code, output = run_job(store.root)
    assert (code, output.count("\n")) == (0, 1)
    assert output.startswith("verified: 4 recordings (0 failed), 8 segments, 0.014 h")


def test_the_command_lists_all_problems(store: Store) -> None:
    store.delete([file_of(store, "events"), file_of(store, "emotions")])
    code, output = run_job(store.root)
    assert code == 1
    assert output.count("is missing, but a commit lists it") == 2
    assert output.endswith(": 2 problems\n")
