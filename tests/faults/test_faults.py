"""Recordings, workers and stores that fail: all other recordings are in the tables, once."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.audio import sources as audio_files
from pipeline.config import AudioConfig, RunConfig
from pipeline.errors import PERMANENT, RunStopped
from pipeline.runs import execute as run
from pipeline.runs import recovery
from pipeline.runs.recovery import next_step
from pipeline.schema import PLANNED, SAMPLE_RATE
from pipeline.stages import decode as stages
from pipeline.stages.build import Stages, build_stages
from pipeline.storage.store import open_store
from pipeline.storage.versions import look_up_versions
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import Publisher, publish
from pipeline.tables.run_records import RunInfo
from tests.support import poison
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.demo import AUDIO, copies, demo_config, execute, label_here, write_manifest
from tests.support.oracle import assert_exactly_once


def write_wav(path: Path, samples: np.ndarray) -> str:
    soundfile.write(path, samples.astype(np.int16), SAMPLE_RATE, subtype="PCM_16")
    return str(path)


def tone(n_samples: int) -> np.ndarray:
    return 8_000 * np.sin(np.arange(n_samples) / 6)


def planned_row(recording_id: str, uri: str) -> dict[str, Any]:
    texts: dict[str, Any] = dict.fromkeys(PLANNED.names, "")
    zeros = dict.fromkeys(("offset_s", "length_s", "channel", "bytes", "start"), 0)
    numbers = {"attempts": 1, "extra": {}}
    return texts | zeros | numbers | {"recording_id": recording_id, "uri": uri}


def rows_by_id(root: Path | str) -> dict[str, dict[str, Any]]:
    rows = open_snapshot(str(root)).read("recordings").to_pylist(maps_as_pydicts="strict")
    return {row["recording_id"]: row for row in rows}


@pytest.fixture
def small(tmp_path: Path) -> RunConfig:
    """Three recordings: a good one, one that is not audio, and one that can be moved away."""
    shutil.copy(AUDIO / "en_happy.mp3", tmp_path / "good.mp3")
    shutil.copy(AUDIO / "zh_angry.flac", tmp_path / "shy.flac")
    (tmp_path / "text.wav").write_text("no audio at all")
    rows = [{"audio": name, "recording_id": name} for name in ("good.mp3", "shy.flac", "text.wav")]
    manifest = write_manifest(tmp_path, rows)
    return demo_config(tmp_path / "out", f"manifest={manifest}", "vad=none")


DENIED = poison.with_parts(decode=poison.denied_decode)


def test_a_file_that_appears_is_labelled_without_retry_errors(
    small: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "shy.flac").rename(tmp_path / "away")
    label_here(small)
    assert rows_by_id(small.output)["shy.flac"]["error_type"] == "FileMissing"
    (tmp_path / "away").rename(tmp_path / "shy.flac")
    assert label_here(small).todo["recording_id"].to_pylist() == ["shy.flac"]
    assert rows_by_id(small.output)["shy.flac"]["status"] == "ok"


def test_temporary_errors_are_retried_and_errors_of_the_audio_are_not(small: RunConfig) -> None:
    """Access is denied at two attempts and allowed at the third; max_attempts counts all."""
    label_here(small, DENIED)
    rows = rows_by_id(small.output)
    assert (rows["shy.flac"]["error_type"], rows["shy.flac"]["attempts"]) == ("AccessDenied", 1)
    assert rows["text.wav"]["error_type"] == "NotAudio"

    assert label_here(small, DENIED).n_todo == 0  # only with retry=errors
    again = small.model_copy(update={"retry": "errors"})
    assert label_here(again, DENIED).todo["recording_id"].to_pylist() == ["shy.flac"]
    assert rows_by_id(small.output)["shy.flac"]["attempts"] == 2
    assert label_here(again.model_copy(update={"max_attempts": 2}), DENIED).n_todo == 0

    label_here(again)
    rows = rows_by_id(small.output)
    assert (rows["shy.flac"]["status"], rows["shy.flac"]["attempts"]) == ("ok", 3)
    assert (rows["text.wav"]["error_type"], rows["text.wav"]["attempts"]) == ("NotAudio", 1)
    assert_exactly_once(small.output, ["good.mp3", "shy.flac", "text.wav"])


def test_a_run_without_permissions_stops_and_names_the_fault(
    ray_session: None, tmp_path: Path
) -> None:
    rows = [{**row, "recording_id": f"shy-{row['recording_id']}"} for row in copies(4)]
    manifest = write_manifest(tmp_path, rows)
    config = demo_config(tmp_path / "out", f"manifest={manifest}", "vad=none", "fail_fast_after=10")
    with pytest.raises(RunStopped, match=r"AccessDenied.*credentials.*retry=errors"):
        execute(config, DENIED)
    n_failed = len(rows_by_id(config.output))
    assert n_failed >= 10

    # With the permissions, the rest of the corpus is labelled.
    outcome = execute(config.model_copy(update={"retry": "errors"}))
    assert outcome.plan.n_retried >= n_failed  # and those that were in work when the run stopped
    snapshot = assert_exactly_once(config.output, [row["recording_id"] for row in rows])
    assert set(snapshot.read("recordings")["status"].to_pylist()) == {"ok"}


def test_a_worker_that_cannot_load_its_model_stops_the_run_at_once(
    ray_session: None, small: RunConfig
) -> None:
    build = poison.with_parts(load_model=poison.failing_model)
    with pytest.raises(RunStopped, match=r"a worker cannot start: .*no kernel image") as stopped:
        execute(small, build)
    assert "\n" not in str(stopped.value)


def test_recordings_that_crash_workers_are_rows_and_others_are_labelled(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One recording each for os._exit in decoding, a segfault in the VAD, SIGKILL in the model."""
    segfault = np.concatenate([[poison.SEGFAULT_LEVEL], tone(16_000)])
    killed = tone(poison.KILL_SAMPLES)
    deadly = [
        {"audio": str(AUDIO / "en_happy.mp3"), "recording_id": "exit"},
        {"audio": write_wav(tmp_path / "segfault.wav", segfault), "recording_id": "segfault"},
        {"audio": write_wav(tmp_path / "killed.wav", killed), "recording_id": "killed"},
    ]
    rows = copies(1)
    rows[5:5], rows[10:10], rows[15:15] = [[row] for row in deadly]
    manifest = write_manifest(tmp_path, rows)
    build = poison.with_parts(
        decode=poison.exiting_decode, load_vad=poison.deadly_vad, load_model=poison.deadly_model
    )
    config = demo_config(tmp_path / "out", f"manifest={manifest}", "vad=none")
    steps: list[tuple[int, str]] = []

    def note_step(n_left: int, n_before: int, n_rounds: int) -> recovery.Step:
        step = next_step(n_left, n_before, n_rounds)
        steps.append((n_left, step))
        return step

    monkeypatch.setattr(run, "next_step", note_step)
    outcome = execute(config, build)
    ((n_lost, step),) = steps
    assert 3 <= n_lost < len(rows)  # what one round alone would have lost, without an error
    assert step == "alone"
    assert outcome.n_unfinished == 0
    snapshot = assert_exactly_once(config.output, [row["recording_id"] for row in rows])
    errors = {
        row["recording_id"]: (row["error_stage"], row["error_type"])
        for row in rows_by_id(config.output).values()
        if row["status"] == "error"
    }
    assert errors == {
        "exit": ("decode", "WorkerCrash"),
        "segfault": ("segment", "WorkerCrash"),
        "killed": ("label", "WorkerCrash"),
    }
    assert snapshot.read("recordings").num_rows == len(rows)


def test_workers_that_are_killed_once_change_no_row(ray_session: None, tmp_path: Path) -> None:
    """SIGKILL of the VAD's and the model's process in the middle of a run. Ray restarts them."""
    rows = copies(3)
    config = demo_config(tmp_path / "out", f"manifest={write_manifest(tmp_path, rows)}", "vad=none")
    died = [tmp_path / "vad", tmp_path / "model"]
    build = poison.with_parts(
        load_vad=poison.vad_dying_once(died[0]), load_model=poison.model_dying_once(died[1])
    )
    outcome = execute(config, build)
    assert all(path.exists() for path in died)
    assert outcome.n_unfinished == 0
    snapshot = assert_exactly_once(config.output, [row["recording_id"] for row in rows])
    assert set(snapshot.read("recordings")["status"].to_pylist()) == {"ok"}


def test_audio_rewritten_after_planning_is_recorded_as_it_was_read(
    small: RunConfig, tmp_path: Path
) -> None:
    def rewrite_then_build(config: RunConfig, info: RunInfo) -> Stages:
        shutil.copy(AUDIO / "yue_neutral.mp3", tmp_path / "good.mp3")  # after the plan was made
        return build_stages(config, info)

    label_here(small, rewrite_then_build)
    row = rows_by_id(small.output)["good.mp3"]
    now, size = look_up_versions([str(tmp_path / "good.mp3")], {})[0]
    assert (row["version"], row["bytes"]) == (now, size)
    texts = {
        row["recording_id"]: row["text"]
        for row in open_snapshot(small.output).read("transcripts").to_pylist()
    }
    assert texts["good.mp3"] == "57163。"

    # The ledger has the version that was planned, so the recording is planned once more.
    assert label_here(small).todo["recording_id"].to_pylist() == ["good.mp3"]
    assert label_here(small).n_todo == 0


def test_audio_rewritten_while_it_is_read_is_a_temporary_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the error, the labels would be of half the old and half the new recording."""
    monkeypatch.setattr(audio_files, "_FETCH_WHOLE", 1000)  # else the file is read as a whole
    path = write_wav(tmp_path / "a.wav", tone(150 * SAMPLE_RATE))
    planned = planned_row("a", path)
    windows = stages.decode_recordings(
        pa.Table.from_pylist([planned], schema=PLANNED),
        config=AudioConfig(window_s=65),  # longer than windows that share a table
        options={},
        run_id="r",
    )
    first = next(windows).to_pylist()[0]
    write_wav(tmp_path / "a.wav", tone(151 * SAMPLE_RATE))
    *_, last = (row for window in windows for row in window.to_pylist())
    assert first["error_type"] == ""
    assert last["error_type"] == "ChangedWhileRead"
    assert last["n_windows"] == last["window_index"] + 1
    assert last["attempt_id"] == first["attempt_id"]
    assert "ChangedWhileRead" not in PERMANENT


def test_a_store_that_fails_between_two_commits_does_not_end_a_run(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = copies(1)
    publish_really = Publisher.publish
    refused: list[int] = []

    def publish_sometimes(publisher: Publisher, **how: Any) -> Any:
        if len(refused) < 2 and any(Path(config.output).glob("_bundles/*/*")):
            refused.append(1)
            raise OSError("503 Slow Down")
        return publish_really(publisher, **how)

    monkeypatch.setattr(Publisher, "publish", publish_sometimes)
    settings = ("vad=none", "publish_every_s=0.001", "ray.batch_audio_s=1")
    config = demo_config(tmp_path / "out", f"manifest={write_manifest(tmp_path, rows)}", *settings)
    assert execute(config).n_unfinished == 0
    assert len(refused) == 2
    assert_exactly_once(config.output, [row["recording_id"] for row in rows])


@pytest.mark.parametrize("attempts", [("a1", "a1"), ("a1", "a2")], ids=["replayed", "run twice"])
def test_of_two_results_of_one_task_exactly_one_is_in_all_tables(
    attempts: tuple[str, str], tmp_path: Path
) -> None:
    """Eight publishers commit bundles of two workers with different texts, at the same time."""
    store = open_store(str(tmp_path))
    ids = [f"r{index}" for index in range(8)]
    for attempt, n_segments in zip(attempts, (2, 3), strict=True):
        for name in ids:
            row = window(name, attempt_id=attempt, n_segments=n_segments)
            row["segments"] = [
                segment | {"text": f"{n_segments} segments"} for segment in row["segments"]
            ]
            write_bundle(store, RUN, bundle(row))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: publish(store, RUN), range(8)))
    snapshot = assert_exactly_once(str(tmp_path), ids)
    texts: dict[str, set[str]] = {}
    for row in snapshot.read("transcripts").to_pylist():
        texts.setdefault(row["recording_id"], set()).add(row["text"])
    assert all(len(found) == 1 for found in texts.values())
