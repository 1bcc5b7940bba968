"""Whole runs with Ray: a manifest goes in, committed tables come out."""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.schema import SAMPLE_RATE, TABLES
from pipeline.storage.store import filesystem_for
from pipeline.tables import Snapshot, open_snapshot
from tests.support.demo import (
    AUDIO,
    DEMO,
    LONG,
    REFERENCES,
    ROOT,
    demo_config,
    execute,
    label_command,
    label_here,
    label_of,
    run_command,
)
from tests.support.s3_server import S3


def rows_of(snapshot: Snapshot, table: str) -> list[dict[str, Any]]:
    return list(snapshot.read(table).to_pylist(maps_as_pydicts="strict"))


def test_every_recording_of_the_manifest_has_one_row(labelled: Snapshot) -> None:
    ids = Counter(labelled.read("recordings")["recording_id"].to_pylist())
    assert ids == Counter(row["recording_id"] for row in REFERENCES)


def test_the_broken_recordings_say_why(labelled: Snapshot) -> None:
    failed = {
        row["recording_id"]: (row["error_stage"], row["error_type"])
        for row in rows_of(labelled, "recordings")
        if row["status"] == "error"
    }
    assert failed == {
        "broken_empty": ("decode", "EmptyFile"),
        "broken_truncated": ("decode", "Truncated"),
    }


def test_every_table_has_exactly_its_schema(labelled: Snapshot) -> None:
    for table, schema in TABLES.items():
        assert labelled.read(table).schema == schema


def test_segments_are_the_same_in_every_table(labelled: Snapshot) -> None:
    ids = labelled.read("transcripts")["segment_id"].to_pylist()
    assert len(ids) == len(set(ids))
    for table in ("languages", "emotions"):
        assert labelled.read(table)["segment_id"].to_pylist() == ids
    assert set(labelled.read("events")["segment_id"].to_pylist()) <= set(ids)


def test_the_seconds_of_the_ledger_add_up(labelled: Snapshot) -> None:
    for row in rows_of(labelled, "recordings"):
        parts = row["labelled_s"] + row["silence_s"] + row["failed_s"]
        assert parts == pytest.approx(row["duration_s"], abs=1e-3)


def test_other_columns_of_the_manifest_are_kept_in_extra(labelled: Snapshot) -> None:
    extra = {row["recording_id"]: row["extra"] for row in rows_of(labelled, "recordings")}
    assert extra["en_happy"]["ref_emotion"] == "HAPPY"
    assert extra["broken_empty"] == {"note": "zero bytes, on purpose"}


def count_long_segments(segments: list[dict[str, Any]]) -> tuple[int, int]:
    """(found one to one within 0.35 s, fully right) of the 18 references of long_mixed.mp3."""
    found = right = 0
    for reference in LONG["ref_segments"]:
        near = [
            segment
            for segment in segments
            if abs(segment["start_s"] - reference["start_s"]) <= 0.35
            and abs(segment["end_s"] - reference["end_s"]) <= 0.35
        ]
        if len(near) != 1:
            continue
        found += 1
        got = near[0]
        right += (got["text"], got["language"], got["emotion"], got["event"]) == (
            reference["ref_text_itn"],
            label_of(reference["ref_language"]),
            label_of(reference["ref_emotion"]),
            label_of(reference["ref_event"]),
        )
    return found, right


def segments_of(snapshot: Snapshot, recording_id: str) -> list[dict[str, Any]]:
    """Transcripts of one recording with the emotion and the event of the segment."""
    emotions = {row["segment_id"]: row["emotion"] for row in rows_of(snapshot, "emotions")}
    events = {
        row["segment_id"]: row["event"]
        for row in rows_of(snapshot, "events")
        if row["source"] == "tag"
    }
    return [
        row
        | {
            "emotion": emotions[row["segment_id"]],
            "event": events.get(row["segment_id"], "unknown"),
        }
        for row in rows_of(snapshot, "transcripts")
        if row["recording_id"] == recording_id
    ]


def test_the_long_recording_is_found_and_labelled_segment_by_segment(labelled: Snapshot) -> None:
    found, right = count_long_segments(segments_of(labelled, "long_mixed"))
    assert found >= 17
    assert right >= 16


def test_a_second_run_finds_nothing_left_to_do(labelled: Snapshot) -> None:
    config = demo_config(str(Path(labelled.files("recordings")[0]).parents[2]))
    outcome = execute(config)
    assert outcome.plan.todo.num_rows == 0
    assert outcome.progress.seq == labelled.seq


def comparable(snapshot: Snapshot, table: str) -> list[dict[str, Any]]:
    """Rows without the columns that depend on where and when they were made."""
    private = {"uri", "version", "work_key", "run_id", "committed_at", "fingerprint"}
    rows = [
        {name: value for name, value in row.items() if name not in private}
        for row in rows_of(snapshot, table)
    ]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def test_s3_gives_the_same_rows_as_local_disk(labelled: Snapshot, s3: S3) -> None:
    bucket, options = s3.new_bucket(), s3.storage_options
    filesystem_for(bucket, options)[0].put(str(AUDIO), f"{bucket}/corpus", recursive=True)
    config = demo_config(
        f"{bucket}/labels",
        f"manifest={bucket}/corpus/manifest.jsonl",
        f"storage_options={json.dumps(options)}",
    )
    outcome = execute(config)
    assert outcome.n_unfinished == 0
    snapshot = open_snapshot(config.output, options)
    for table in TABLES:
        assert comparable(snapshot, table) == comparable(labelled, table)
    uris = snapshot.read("recordings")["uri"].to_pylist()
    assert all(uri.startswith(f"{bucket}/corpus/") for uri in uris)


def test_features_and_vad_may_run_with_the_model_in_one_worker(
    labelled: Snapshot, tmp_path: Path
) -> None:
    config = demo_config(tmp_path, "ray.segment_with_model=true")
    assert execute(config).n_unfinished == 0
    snapshot = open_snapshot(config.output)
    for table, columns in {
        "recordings": ["recording_id", "status", "n_segments"],
        "transcripts": ["segment_id", "start_s", "end_s", "rich_text"],
    }.items():
        wanted = labelled.read(table, columns).sort_by(columns[0])
        assert snapshot.read(table, columns).sort_by(columns[0]) == wanted


def write_tone(path: Path, seconds: float, level: float = 0.3) -> None:
    time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    soundfile.write(path, level * np.sin(2 * np.pi * 440 * time_s), SAMPLE_RATE, subtype="FLOAT")


def write_bad_corpus(folder: Path) -> Path:
    """A JSONL manifest with three good recordings and every kind of bad one."""
    (folder / "zero.wav").write_bytes(b"")
    (folder / "garbage.wav").write_bytes(bytes(range(256)) * 40)
    (folder / "page.mp3").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "cut.flac").write_bytes((AUDIO / "zh_angry.flac").read_bytes()[:20_000])
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan), SAMPLE_RATE, subtype="FLOAT")
    write_tone(folder / "tone.wav", 1.0)
    write_tone(folder / "one.wav", 1 / SAMPLE_RATE)
    good = {"audio": str(AUDIO / "en_happy.mp3")}
    rows = [
        {**good, "recording_id": "good"},
        {"audio": "lost.wav", "recording_id": "missing"},
        {"audio": "zero.wav", "recording_id": "zero"},
        {"audio": "garbage.wav", "recording_id": "garbage"},
        {"audio": "page.mp3", "recording_id": "html"},
        {"audio": "cut.flac", "recording_id": "truncated"},
        {"audio": "nan.wav", "recording_id": "nan"},
        {"audio": "one.wav", "recording_id": "one_sample"},
        {"audio": "tone.wav", "recording_id": "negative", "offset_s": -1},
        {"audio": "tone.wav", "recording_id": "past_end", "offset_s": 99},
        {"audio": "tone.wav", "recording_id": "twice"},
        {"audio": str(AUDIO / "zh_angry.flac"), "recording_id": "twice"},
        {"audio": str(AUDIO / "zh_angry.flac"), "recording_id": "also_good"},
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def test_every_bad_recording_is_a_row_that_says_why(ray_session: None, tmp_path: Path) -> None:
    manifest = write_bad_corpus(tmp_path)
    config = demo_config(tmp_path / "out", f"manifest={manifest}", "vad=none")
    outcome = execute(config)
    assert outcome.n_unfinished == 0
    snapshot = open_snapshot(config.output)
    rows = {row["recording_id"]: row for row in rows_of(snapshot, "recordings")}
    (repeated,) = (name for name in rows if name.startswith("twice~"))
    errors = {
        name: (row["error_stage"], row["error_type"])
        for name, row in rows.items()
        if row["status"] == "error"
    }
    assert errors == {
        "missing": ("decode", "FileMissing"),
        "zero": ("decode", "EmptyFile"),
        "garbage": ("decode", "NotAudio"),
        "html": ("decode", "NotAudio"),
        "truncated": ("decode", "Truncated"),
        "nan": ("decode", "NonFinite"),
        "one_sample": ("decode", "TooShort"),
        "negative": ("manifest", "BadRange"),
        "past_end": ("decode", "BadRange"),
        repeated: ("manifest", "DuplicateId"),
    }
    assert all(len(rows[name]["error_message"].split()) >= 3 for name in errors)
    texts = {row["recording_id"]: row["text"] for row in rows_of(snapshot, "transcripts")}
    assert (texts["good"], texts["also_good"]) == ("2072.", "3234。")
    assert set(texts) == {"good", "also_good", "twice"}


def test_changed_audio_is_labelled_again_and_nothing_else(tmp_path: Path) -> None:
    for name in ("en_happy.mp3", "zh_angry.flac"):
        (tmp_path / name).write_bytes((AUDIO / name).read_bytes())
    config = demo_config(tmp_path / "out", f"manifest={tmp_path}", "vad=none")
    label_here(config)
    (tmp_path / "en_happy.mp3").write_bytes((AUDIO / "yue_neutral.mp3").read_bytes())
    assert label_here(config).n_todo == 1
    snapshot = open_snapshot(config.output)
    assert sorted(snapshot.read("transcripts")["text"].to_pylist()) == ["3234。", "57163。"]
    assert snapshot.read("recordings").num_rows == 2


@pytest.mark.usefixtures("own_ray")
def test_the_readme_command_labels_and_then_has_nothing_left_to_do(tmp_path: Path) -> None:
    first = run_command(label_command(tmp_path))
    assert first.returncode == 0, first.stderr
    assert "18 ok, 2 failed" in first.stdout
    assert "x real time" in first.stdout
    assert f"Tables: {tmp_path}" in first.stdout
    assert (tmp_path / "report.html").is_file()
    started = time.monotonic()
    second = run_command(label_command(tmp_path))
    assert second.returncode == 0, second.stderr
    assert "Nothing left to do" in second.stdout
    assert time.monotonic() - started < 60  # without Ray and torch: seconds, more if busy


REFUSED = [
    (["label.langauge=en"], "did you mean 'label.language'"),
    (["label.language=cantonese"], "label.language"),
    (["model=/nowhere/model"], "no such directory"),
    (["vad=/nowhere/vad"], "no such directory"),
    ([f"manifest={DEMO / 'README.md'}"], "README.md"),
    (["manifest=/nowhere/manifest.parquet"], "/nowhere/manifest.parquet"),
]


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_unusable_settings_are_refused_before_ray_starts(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    code = (
        "import sys\nfrom jobs import label\n"
        "try:\n"
        f"    label.main({str(ROOT / 'configs' / 'demo.yaml')!r}, {overrides!r}"
        f" + ['output={tmp_path}'])\n"
        "finally:\n    assert 'ray' not in sys.modules\n"
    )
    done = run_command([sys.executable, "-c", code])
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
