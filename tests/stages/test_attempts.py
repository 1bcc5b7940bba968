"""What names an attempt: the run, the work and the bytes that were read, not the moment."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import AudioConfig
from pipeline.schema import PLANNED
from pipeline.stages.decode import decode_recordings
from tests.stages.test_stages import plan_row
from tests.support.sounds import encode, tone


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    path.write_bytes(encode(tone(1.0)))
    return path


def decode(path: Path, run_id: str = "run", **fields: Any) -> dict[str, Any]:
    planned = pa.Table.from_pylist([plan_row(path, **fields)], schema=PLANNED)
    stage = partial(decode_recordings, config=AudioConfig(), options={}, run_id=run_id)
    (window,) = stage(planned)
    return dict(window.to_pylist()[0])


def test_a_task_that_ray_repeats_has_the_same_attempt_id(path: Path) -> None:
    """Ray keeps the windows of the first run, so those of both must belong to one attempt."""
    first, again = decode(path), decode(path)
    assert first == again
    assert len(first["attempt_id"]) == 32


def test_another_run_or_other_work_is_another_attempt(path: Path) -> None:
    ids = [decode(path), decode(path, run_id="other"), decode(path, work_key="other")]
    assert len({one["attempt_id"] for one in ids}) == 3


def test_other_bytes_are_another_attempt_and_another_version(path: Path) -> None:
    before = decode(path, version="as planned")
    os.utime(path, ns=(1, 1))
    after = decode(path, version="as planned")
    assert before["attempt_id"] != after["attempt_id"]
    assert before["version"] != after["version"] == f"{path.stat().st_size}-1"
    assert after["bytes"] == path.stat().st_size


def test_a_window_says_where_it_lies_and_what_it_was_read_from(path: Path) -> None:
    path.write_bytes(encode(tone(3.0, rate_hz=8_000, channels=2), "wav", 8_000))
    row = decode(path, offset_s=0.5, length_s=2.0)
    keys = ("window_index", "n_windows", "window_start_s", "duration_s", "sample_rate_hz")
    assert [row[key] for key in keys] == [0, 1, 0.5, 2.0, 8_000]
    assert (row["channels"], row["codec"], row["warning"]) == (2, "wav/pcm_16", "")
    assert len(row["waveform"]) == 2 * 32_000
