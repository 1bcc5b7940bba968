"""What an exception becomes: columns that name the stage and the kind, and keep no secret."""

import pytest

from pipeline.errors import ErrorType, RecordingError
from pipeline.schema import BUNDLE
from pipeline.stages.error_rows import describe_error, error_row
from tests.stages.test_stages import plan_row

SECRET = "GET https://user:pw@host/a.wav?id=5&token=t0k3n failed"
SHOWN = "GET https://***@host/a.wav?id=5&token=*** failed"


def test_an_error_of_ours_brings_its_own_type() -> None:
    assert describe_error("decode", RecordingError(ErrorType.TRUNCATED, "half")) == {
        "error_stage": "decode",
        "error_type": "Truncated",
        "error_message": "half",
    }


def test_any_other_error_is_called_by_its_class() -> None:
    described = describe_error("label", ZeroDivisionError())
    assert described["error_type"] == "ZeroDivisionError"
    assert described["error_message"] == "ZeroDivisionError()"  # it has no words of its own


@pytest.mark.parametrize("length", [1999, 2000, 2001])
def test_a_long_message_is_cut_at_2000_characters(length: int) -> None:
    planned = plan_row("/a.wav")
    row = error_row(planned, "label", ErrorType.WORKER_CRASH, "x" * length).to_pylist()[0]
    described = describe_error("label", ValueError("x" * length))
    for message in (row["error_message"], described["error_message"]):
        assert message == "x" * min(length, 2000)


def test_no_message_keeps_a_credential() -> None:
    planned = plan_row("https://user:pw@host/a.wav?id=5&token=t0k3n")
    row = error_row(planned, "label", ErrorType.WORKER_CRASH, SECRET).to_pylist()[0]
    assert row["error_message"] == SHOWN
    assert row["uri"].startswith("https://host/a.wav?id=5")
    assert "t0k3n" not in row["uri"]
    assert describe_error("decode", OSError(SECRET))["error_message"] == SHOWN


def test_a_crash_leaves_a_whole_row_without_audio() -> None:
    planned = plan_row(
        "/a.wav", **{"recording_id": "r", "offset_s": 7.5, "attempts": 2, "extra": {"a": "b"}}
    )
    table = error_row(planned, "segment", ErrorType.WORKER_CRASH, "died")
    assert table.schema == BUNDLE
    (row,) = table.to_pylist(maps_as_pydicts="strict")
    assert len(row.pop("attempt_id")) == 32
    assert row == planned | {
        "error_stage": "segment",
        "error_type": "WorkerCrash",
        "error_message": "died",
        "window_index": 0,
        "n_windows": 1,
        "window_start_s": 7.5,
        **dict.fromkeys(("duration_s", "labelled_s", "silence_s", "failed_s"), 0.0),
        **{"gap_s": 0.0, "start_offset_s": 0.0, "audio_streams": 0, "audio_stream": 0},
        **dict.fromkeys(("sample_rate_hz", "channels"), 0),
        **dict.fromkeys(("codec", "warning"), ""),
        **{"measures": [], "segments": [], "quality": []},
    }


def test_every_crash_is_an_attempt_of_its_own() -> None:
    """Windows that were finished before it belong to another."""
    rows = [error_row(plan_row("/a.wav"), "label", "WorkerCrash", "died") for _ in range(2)]
    assert len({row["attempt_id"][0].as_py() for row in rows}) == 2
