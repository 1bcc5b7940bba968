"""Complete rows of every table, as literals, of a recording whose columns have different values."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.schema import EMOTIONS, LANGUAGES
from pipeline.storage.store import Store, open_store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.commit_log import read_record
from pipeline.tables.publisher import publish
from pipeline.tables.run_records import RunInfo
from tests.support.bundle_rows import bundle

RUN = RunInfo("run-1", "f1" * 16, "iic/SenseVoiceSmall", "d0" * 32, "silero-vad 6.2.1")
# Eighths and the like: exact in float32, so that literals compare.
LANGUAGE = dict(zip(LANGUAGES, (0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125), strict=True))
EMOTION = dict(
    zip(EMOTIONS, (0.125, 0.25, 0.0625, 0.03125, 0.5, 0.0, 0.015625, 0.015625, 0.0), strict=True)
)


def segment(start_s: float, end_s: float, **fields: Any) -> dict[str, Any]:
    return {
        "start_s": start_s,
        "end_s": end_s,
        "text": "one two",
        "rich_text": "<|zh|> one two",
        "confidence": 0.875,
        "n_tokens": 5,
        "words": [{"word": "one", "start_s": 0.25, "end_s": 0.5, "confidence": 0.75}],
        "itn": True,
        "language": "zh",
        "language_probability": 0.5,
        "language_runner_up": "en",
        "language_runner_up_probability": 0.25,
        "language_probabilities": LANGUAGE,
        "language_entropy": 1.375,
        "emotion": "fearful",
        "emotion_probability": 0.53125,
        "emotion_runner_up": "sad",
        "emotion_runner_up_probability": 0.28125,
        "emotion_probabilities": EMOTION,
        "emotion_entropy": 1.625,
        "emotion_forced": "happy",
        "events": [
            event("laughter", 0.40625, start_s, start_s + 0.5, "inline"),
            event("speech", 0.96875, start_s, end_s, "tag"),
        ],
    } | fields


def event(name: str, probability: float, start_s: float, end_s: float, source: str) -> Any:
    names = ("event", "probability", "start_s", "end_s", "source")
    return dict(zip(names, (name, probability, start_s, end_s, source), strict=True))


def first_window(**fields: Any) -> dict[str, Any]:
    return {
        "recording_id": "talk",
        "uri": "s3://corpus/talk.flac",
        "offset_s": 30.0,
        "length_s": 20.0,
        "channel": 0,
        "language": "yue",
        "version": "etag-1",
        "bytes": 12_345,
        "start": 0,
        "work_key": "0a" * 16,
        "supersedes": "",
        "attempts": 4,
        "extra": [("speaker", "s7")],
        "error_stage": "",
        "error_type": "",
        "error_message": "",
        "attempt_id": "a1",
        "window_index": 0,
        "n_windows": 0,
        "window_start_s": 30.0,
        "duration_s": 12.0,
        "sample_rate_hz": 44_100,
        "channels": 2,
        "codec": "flac/pcm_16",
        "warning": "odd header",
        **{"gap_s": 0.5, "start_offset_s": 2.5, "audio_streams": 3, "audio_stream": 1},
        "labelled_s": 3.0,
        "silence_s": 8.0,
        "failed_s": 1.0,
        "segments": [segment(30.0, 31.5), segment(33.0, 34.5, text="three", itn=False)],
    } | fields


def second_window(**fields: Any) -> dict[str, Any]:
    own = {
        **{"window_index": 1, "n_windows": 2, "window_start_s": 42.0, "duration_s": 8.0},
        **{"labelled_s": 2.5, "silence_s": 5.25, "failed_s": 0.25, "warning": "no end mark"},
        "gap_s": 0.75,
        "segments": [segment(42.0, 44.5, text="four")],
    }
    return first_window(**(own | fields))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path))
    write_bundle(store, RUN, bundle(first_window(), second_window()))
    publish(store, RUN)
    return store


def rows_of(store: Store, table: str) -> list[dict[str, Any]]:
    read = open_snapshot(store.root).read(table)
    return list(read.to_pylist(maps_as_pydicts="strict"))


def test_a_row_of_transcripts(store: Store) -> None:
    first, second, third = rows_of(store, "transcripts")
    assert first == {
        "recording_id": "talk",
        "segment_id": "talk-000000",
        "start_s": 30.0,
        "end_s": 31.5,
        "text": "one two",
        "rich_text": "<|zh|> one two",
        "language": "zh",
        "confidence": 0.875,
        "n_tokens": 5,
        "words": [{"word": "one", "start_s": 0.25, "end_s": 0.5, "confidence": 0.75}],
        "itn": True,
        "channel": None,
    }
    keys = ("segment_id", "start_s", "end_s", "text", "itn")
    assert [second[key] for key in keys] == ["talk-000001", 33.0, 34.5, "three", False]
    assert [third[key] for key in keys] == ["talk-000002", 42.0, 44.5, "four", True]


def test_a_row_of_languages(store: Store) -> None:
    assert rows_of(store, "languages")[0] == {
        "recording_id": "talk",
        "segment_id": "talk-000000",
        "start_s": 30.0,
        "end_s": 31.5,
        "language": "zh",
        "probability": 0.5,
        "runner_up": "en",
        "runner_up_probability": 0.25,
        "probabilities": LANGUAGE,
        "entropy": 1.375,
        "channel": None,
    }


def test_a_row_of_emotions(store: Store) -> None:
    assert rows_of(store, "emotions")[0] == {
        "recording_id": "talk",
        "segment_id": "talk-000000",
        "start_s": 30.0,
        "end_s": 31.5,
        "emotion": "fearful",
        "probability": 0.53125,
        "runner_up": "sad",
        "runner_up_probability": 0.28125,
        "probabilities": EMOTION,
        "entropy": 1.625,
        "emotion_forced": "happy",
        "channel": None,
    }


def test_rows_of_events(store: Store) -> None:
    laughter, speech, *others = rows_of(store, "events")
    keys = {"recording_id": "talk", "segment_id": "talk-000000", "channel": None}
    assert laughter == keys | event("laughter", 0.40625, 30.0, 30.5, "inline")
    assert speech == keys | event("speech", 0.96875, 30.0, 31.5, "tag")
    assert [row["segment_id"] for row in others] == ["talk-000001"] * 2 + ["talk-000002"] * 2


def test_a_row_of_recordings(store: Store) -> None:
    (row,) = rows_of(store, "recordings")
    committed_at = datetime.fromisoformat(read_record(store, 1).committed_at)
    assert abs((datetime.now(UTC) - committed_at).total_seconds()) < 60
    assert row == {
        "recording_id": "talk",
        "uri": "s3://corpus/talk.flac",
        "offset_s": 30.0,
        "version": "etag-1",
        "status": "ok",
        "error_stage": "",
        "error_type": "",
        "error_message": "",
        "warning": "odd header; no end mark",
        "attempts": 4,
        "duration_s": 20.0,
        "labelled_s": 5.5,
        "silence_s": 13.25,
        "failed_s": 1.25,
        "n_segments": 3,
        "sample_rate_hz": 44_100,
        "channels": 2,
        "codec": "flac/pcm_16",
        "bytes": 12_345,
        "extra": {"speaker": "s7"},
        "model": "iic/SenseVoiceSmall",
        "model_hash": "d0" * 32,
        "fingerprint": "f1" * 16,
        "work_key": "0a" * 16,
        "run_id": "run-1",
        **{"gap_s": 0.75, "start_offset_s": 2.5, "audio_streams": 3, "audio_stream": 1},
        **{"member": None, "channel": None, "n_streams": 1},
        "committed_at": committed_at,
    }


def test_a_recording_has_the_error_of_its_first_failed_window(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    failures = ("decode", "Truncated", "half of it"), ("label", "OutOfMemoryError", "no memory")
    windows = [
        make(error_stage=stage, error_type=kind, error_message=message)
        for make, (stage, kind, message) in zip(
            (first_window, second_window), failures, strict=True
        )
    ]
    write_bundle(store, RUN, bundle(*windows[::-1]))
    published = publish(store, RUN)
    (row,) = rows_of(store, "recordings")
    found = (row["status"], row["error_stage"], row["error_type"], row["error_message"])
    assert found == ("error", "decode", "Truncated", "half of it")
    counts = (published.n_recordings, published.n_errors, published.n_segments, published.audio_s)
    assert counts == (1, 1, 3, 20.0)


def test_a_recording_fails_if_only_its_second_window_fails(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    broken = second_window(error_stage="decode", error_type="Truncated", error_message="cut")
    good = first_window(recording_id="whole", attempt_id="a2", n_windows=1, warning="")
    write_bundle(store, RUN, bundle(first_window(), broken, good))
    publish(store, RUN)
    rows = {row["recording_id"]: row for row in rows_of(store, "recordings")}
    assert (rows["talk"]["status"], rows["talk"]["error_message"]) == ("error", "cut")
    assert (rows["whole"]["status"], rows["whole"]["error_message"]) == ("ok", "")
    assert (rows["whole"]["warning"], rows["whole"]["duration_s"]) == ("", 12.0)


def test_a_warning_of_several_windows_is_in_the_row_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_bundle(store, RUN, bundle(first_window(), second_window(warning="odd header")))
    publish(store, RUN)
    assert rows_of(store, "recordings")[0]["warning"] == "odd header"


@pytest.fixture
def segments(store: Store) -> Iterator[list[dict[str, Any]]]:
    with connect(store.root) as connection:
        answer = connection.sql("SELECT * FROM segments ORDER BY segment_id")
        yield [dict(zip(answer.columns, row, strict=True)) for row in answer.fetchall()]


def test_a_row_of_the_segments_view(segments: list[dict[str, Any]]) -> None:
    assert segments[0] == {
        "recording_id": "talk",
        "segment_id": "talk-000000",
        "uri": "s3://corpus/talk.flac",
        "start_s": 30.0,
        "end_s": 31.5,
        "text": "one two",
        "confidence": 0.875,
        "language": "zh",
        "language_probability": 0.5,
        "emotion": "fearful",
        "emotion_probability": 0.53125,
        "emotion_forced": "happy",
        "events": [
            "speech",
            "laughter",
        ],  # both begin at the same time: the segment's own event is first
        "rich_text": "<|zh|> one two",
        "words": [{"word": "one", "start_s": 0.25, "end_s": 0.5, "confidence": 0.75}],
        "n_tokens": 5,
        "itn": True,
        "extra": {"speaker": "s7"},
        "channel": None,
    }


def test_a_segment_without_events_has_an_empty_list_of_them(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    quiet = first_window(n_windows=1, segments=[segment(30.0, 33.0, events=[])])
    write_bundle(store, RUN, bundle(quiet))
    publish(store, RUN)
    with connect(store.root) as connection:
        assert connection.sql("SELECT events FROM segments").fetchall() == [([],)]
