"""What dies, and what must hold all the same: every recording in the tables, once."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from jobs import label
from pipeline.audio import sources as audio_files
from pipeline.config import AudioConfig, RunConfig
from pipeline.errors import PERMANENT, ErrorType, RunStopped, StoreError
from pipeline.runs import execute as run
from pipeline.runs import recovery
from pipeline.runs.progress import Outcome
from pipeline.runs.recovery import CircuitBreaker, find_fault, next_step
from pipeline.schema import BUNDLE, PLANNED, SAMPLE_RATE
from pipeline.stages import decode as stages
from pipeline.stages.build import BuildStages, Stages, build_stages
from pipeline.stages.error_rows import error_row
from pipeline.storage.store import open_store
from pipeline.storage.versions import look_up_versions
from pipeline.tables import Snapshot, open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import Publisher, publish
from pipeline.tables.run_records import RunInfo
from tests.support import poison
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.demo import (
    AUDIO,
    REFERENCES,
    ROOT,
    demo_config,
    execute,
    label_command,
    run_command,
)
from tests.support.oracle import assert_exactly_once, reader, violations

GOOD = [
    row for row in REFERENCES if row["recording_id"].partition("_")[0] not in ("long", "broken")
]


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def copies(n_turns: int) -> list[dict[str, Any]]:
    """The short recordings of the demo corpus, each `n_turns` times under other names."""
    return [
        {"audio": str(AUDIO / row["audio"]), "recording_id": f"{row['recording_id']}-{turn}"}
        for turn in range(n_turns)
        for row in GOOD
    ]


def write_wav(path: Path, samples: np.ndarray) -> str:
    soundfile.write(path, samples.astype(np.int16), SAMPLE_RATE, subtype="PCM_16")
    return str(path)


def tone(n_samples: int) -> np.ndarray:
    return 8_000 * np.sin(np.arange(n_samples) / 6)


def planned_row(recording_id: str, uri: str) -> dict[str, Any]:
    texts: dict[str, Any] = dict.fromkeys(PLANNED.names, "")
    numbers = {"offset_s": 0.0, "length_s": 0.0, "bytes": 0, "attempts": 1, "extra": {}}
    return texts | {"recording_id": recording_id, "uri": uri} | numbers


def rows_by_id(root: Path | str) -> dict[str, dict[str, Any]]:
    rows = open_snapshot(str(root)).read("recordings").to_pylist(maps_as_pydicts="strict")
    return {row["recording_id"]: row for row in rows}


# --------------------------------------------------------------------------- decisions


def test_a_fault_of_the_environment_is_found_when_it_dominates() -> None:
    limits: dict[str, Any] = {"max_error_share": 0.5, "fail_fast_after": 100}
    assert find_fault(100, {"AccessDenied": 51}, **limits) == "AccessDenied"
    assert find_fault(100, {"AccessDenied": 50}, **limits) == ""
    assert find_fault(99, {"AccessDenied": 99}, **limits) == ""  # too early to tell
    assert find_fault(100, {"AccessDenied": 40, "FileMissing": 40}, **limits) == ""  # not one
    assert find_fault(100, {"AccessDenied": 100}, max_error_share=1, fail_fast_after=1) == ""


def test_bad_audio_never_stops_a_run() -> None:
    errors = {"NotAudio": 900, "Truncated": 100}
    assert find_fault(1000, errors, max_error_share=0.5, fail_fast_after=100) == ""


def test_crashes_stop_a_run_earlier_because_each_costs_half_a_minute() -> None:
    limits: dict[str, Any] = {"max_error_share": 0.5, "fail_fast_after": 100}
    assert find_fault(12, {ErrorType.WORKER_CRASH: 10}, **limits) == ErrorType.WORKER_CRASH
    assert find_fault(200, {ErrorType.WORKER_CRASH: 10}, **limits) == ""


def test_a_fault_that_comes_late_in_a_long_run_is_found_too() -> None:
    breaker = CircuitBreaker(max_error_share=0.5, fail_fast_after=100)
    assert not any(breaker.add(16, [], "") for _ in range(10_000))
    answers = [breaker.add(16, ["AccessDenied"] * 16, "403 Forbidden") for _ in range(100)]
    first = next(index for index, answer in enumerate(answers) if answer)
    assert 16 * first < 600  # of 160,000: half of the last thousand
    assert "AccessDenied" in answers[first]
    assert "403 Forbidden" in answers[first]
    assert "retry=errors" in answers[first]


@pytest.mark.parametrize(
    ("n_left", "n_before", "n_rounds", "step"),
    [
        (0, 50, 1, "done"),
        (1, 1, 1, "alone"),  # a corpus of one, and that one kills
        (64, 10_000_000, 1, "alone"),
        (640, 10_000_000, 1, "isolated"),
        (9_000_000, 10_000_000, 1, "again"),
        (9_000_000, 9_000_000, 2, "stop"),  # nothing got through: it is not the recordings
        (500, 800, 4, "alone"),
        (5_000, 8_000, 4, "stop"),
    ],
)
def test_what_is_left_goes_through_again_in_smaller_company(
    n_left: int, n_before: int, n_rounds: int, step: str
) -> None:
    assert next_step(n_left, n_before, n_rounds) == step


def test_an_error_row_is_a_bundle_row_whose_seconds_add_up() -> None:
    planned = planned_row("a", "/a.wav") | {"attempts": 2, "extra": {"a": "b"}}
    row = error_row(planned, "label", ErrorType.WORKER_CRASH, "died")
    assert row.schema == BUNDLE
    (values,) = row.to_pylist(maps_as_pydicts="strict")
    assert (values["error_stage"], values["error_type"]) == ("label", "WorkerCrash")
    assert (values["attempts"], values["extra"], values["n_windows"]) == (2, {"a": "b"}, 1)


# --------------------------------------------------------------------------- retries


@pytest.fixture
def small(tmp_path: Path) -> RunConfig:
    """Three recordings: one good, one that is not audio, one whose file may be taken away."""
    shutil.copy(AUDIO / "en_happy.mp3", tmp_path / "good.mp3")
    shutil.copy(AUDIO / "zh_angry.flac", tmp_path / "shy.flac")
    (tmp_path / "text.wav").write_text("no audio at all")
    rows = [{"audio": name, "recording_id": name} for name in ("good.mp3", "shy.flac", "text.wav")]
    manifest = write_manifest(tmp_path, rows)
    return demo_config(tmp_path / "out", f"manifest={manifest}", "vad=none")


DENIED = poison.with_parts(decode=poison.denied_decode)


def again(config: RunConfig, build: BuildStages | None = None, **changes: Any) -> Outcome:
    return execute(config.model_copy(update=changes), build)


def test_a_file_that_appears_is_labelled_without_being_asked(
    ray_session: None, small: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "shy.flac").rename(tmp_path / "away")
    execute(small)
    assert rows_by_id(small.output)["shy.flac"]["error_type"] == "FileMissing"
    (tmp_path / "away").rename(tmp_path / "shy.flac")
    outcome = execute(small)
    assert outcome.plan.todo["recording_id"].to_pylist() == ["shy.flac"]
    assert rows_by_id(small.output)["shy.flac"]["status"] == "ok"


def test_what_may_pass_is_retried_and_what_lies_in_the_audio_is_not(
    ray_session: None, small: RunConfig
) -> None:
    """Access denied at the first two attempts, granted at the third; max_attempts counts all."""
    execute(small, DENIED)
    rows = rows_by_id(small.output)
    assert (rows["shy.flac"]["error_type"], rows["shy.flac"]["attempts"]) == ("AccessDenied", 1)
    assert rows["text.wav"]["error_type"] == "NotAudio"

    assert execute(small, DENIED).plan.todo.num_rows == 0  # not without being asked
    outcome = again(small, DENIED, retry="errors")
    assert outcome.plan.todo["recording_id"].to_pylist() == ["shy.flac"]
    assert rows_by_id(small.output)["shy.flac"]["attempts"] == 2
    assert again(small, DENIED, retry="errors", max_attempts=2).plan.todo.num_rows == 0

    again(small, retry="errors")
    rows = rows_by_id(small.output)
    assert (rows["shy.flac"]["status"], rows["shy.flac"]["attempts"]) == ("ok", 3)
    assert (rows["text.wav"]["error_type"], rows["text.wav"]["attempts"]) == ("NotAudio", 1)
    assert_exactly_once(small.output, ["good.mp3", "shy.flac", "text.wav"])


def test_a_run_without_rights_stops_and_names_the_fault(ray_session: None, tmp_path: Path) -> None:
    rows = [{**row, "recording_id": f"shy-{row['recording_id']}"} for row in copies(4)]
    manifest = write_manifest(tmp_path, rows)
    config = demo_config(tmp_path / "out", f"manifest={manifest}", "vad=none", "fail_fast_after=10")
    with pytest.raises(RunStopped, match=r"AccessDenied.*credentials.*retry=errors"):
        execute(config, DENIED)
    n_failed = len(rows_by_id(config.output))
    assert n_failed >= 10

    # The rights are given; nothing of the corpus is lost.
    outcome = again(config, retry="errors")
    assert outcome.plan.n_retried >= n_failed  # and what was under way when it stopped
    snapshot = assert_exactly_once(config.output, [row["recording_id"] for row in rows])
    assert set(snapshot.read("recordings")["status"].to_pylist()) == {"ok"}


# --------------------------------------------------------------------------- workers


def test_a_worker_that_cannot_load_its_model_stops_the_run_at_once(
    ray_session: None, small: RunConfig
) -> None:
    build = poison.with_parts(load_model=poison.failing_model)
    with pytest.raises(RunStopped, match=r"a worker cannot start: .*no kernel image") as stopped:
        execute(small, build)
    assert "\n" not in str(stopped.value)


@pytest.mark.slow
def test_a_recording_that_kills_every_worker_is_a_row_and_all_others_are_labelled(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """os._exit while decoding, a segfault in the VAD, SIGKILL in the model: one recording each."""
    segfault = np.concatenate([[poison.SEGFAULT_LEVEL], tone(16_000)])
    killed = tone(poison.KILL_SAMPLES)
    deadly = [
        {"audio": str(AUDIO / "en_happy.mp3"), "recording_id": "exit"},
        {"audio": write_wav(tmp_path / "segfault.wav", segfault), "recording_id": "segfault"},
        {"audio": write_wav(tmp_path / "killed.wav", killed), "recording_id": "killed"},
    ]
    rows = copies(2)
    rows[5:5], rows[12:12], rows[20:20] = [[row] for row in deadly]
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
    assert 3 <= n_lost < len(rows)  # what a single pass would have lost without a word
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


@pytest.mark.slow
def test_workers_that_are_killed_once_leave_no_trace(ray_session: None, tmp_path: Path) -> None:
    """SIGKILL of the VAD's and of the model's process in the middle of a run: Ray restarts them."""
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


# --------------------------------------------------------------------------- audio that changes


def test_audio_rewritten_after_planning_is_recorded_as_it_was_read(
    ray_session: None, small: RunConfig, tmp_path: Path
) -> None:
    def rewrite_then_build(config: RunConfig, info: RunInfo) -> Stages:
        shutil.copy(AUDIO / "yue_neutral.mp3", tmp_path / "good.mp3")  # the plan is made by now
        return build_stages(config, info)

    execute(small, rewrite_then_build)
    row = rows_by_id(small.output)["good.mp3"]
    now, size = look_up_versions([str(tmp_path / "good.mp3")], {})[0]
    assert (row["version"], row["bytes"]) == (now, size)
    texts = {
        row["recording_id"]: row["text"]
        for row in open_snapshot(small.output).read("transcripts").to_pylist()
    }
    assert texts["good.mp3"] == "57163。"

    # The ledger still names the version that was planned: once more, then it is known.
    assert execute(small).plan.todo["recording_id"].to_pylist() == ["good.mp3"]
    assert execute(small).plan.todo.num_rows == 0


def test_audio_rewritten_while_it_is_read_is_an_error_that_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the old and half of the new recording would be labels of neither."""
    monkeypatch.setattr(audio_files, "_FETCH_WHOLE", 1000)  # else its bytes are held at once
    path = write_wav(tmp_path / "a.wav", tone(25 * SAMPLE_RATE))
    planned = planned_row("a", path)
    windows = stages.decode_recordings(
        pa.Table.from_pylist([planned], schema=PLANNED),
        config=AudioConfig(window_s=10),
        options={},
        run_id="r",
    )
    first = next(windows).to_pylist()[0]
    write_wav(tmp_path / "a.wav", tone(26 * SAMPLE_RATE))
    *_, last = (row for window in windows for row in window.to_pylist())
    assert first["error_type"] == ""
    assert last["error_type"] == "ChangedWhileRead"
    assert last["n_windows"] == last["window_index"] + 1
    assert last["attempt_id"] == first["attempt_id"]
    assert "ChangedWhileRead" not in PERMANENT


# --------------------------------------------------------------------------- a store that is away


def test_a_store_that_is_away_between_two_commits_does_not_end_a_run(
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


# --------------------------------------------------------------------------- several answers


@pytest.mark.parametrize("attempts", [("a1", "a1"), ("a1", "a2")], ids=["replayed", "run twice"])
def test_of_two_different_answers_to_one_task_exactly_one_is_in_all_tables(
    attempts: tuple[str, str], tmp_path: Path
) -> None:
    """Eight publishers race over bundles of two workers that heard different things."""
    store = open_store(str(tmp_path))
    ids = [f"r{index}" for index in range(20)]
    for attempt, n_segments in zip(attempts, (2, 3), strict=True):
        for name in ids:
            row = window(name, attempt_id=attempt, n_segments=n_segments)
            row["segments"] = [
                segment | {"text": f"heard {n_segments}"} for segment in row["segments"]
            ]
            write_bundle(store, RUN, bundle(row))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: publish(store, RUN), range(8)))
    snapshot = assert_exactly_once(str(tmp_path), ids)
    heard: dict[str, set[str]] = {}
    for row in snapshot.read("transcripts").to_pylist():
        heard.setdefault(row["recording_id"], set()).add(row["text"])
    assert all(len(texts) == 1 for texts in heard.values())


# --------------------------------------------------------------------------- drivers


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_driver() -> Iterator[Start]:
    """Starts `jobs.label` in a process group of its own; none outlives the test."""
    drivers: list[subprocess.Popen[str]] = []

    def start(root: Path, *settings: str) -> subprocess.Popen[str]:
        driver = subprocess.Popen(
            label_command(root, *settings),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)


def wait_for_work(driver: subprocess.Popen[str], root: Path, n_bundles: int) -> None:
    deadline = time.monotonic() + 240
    while len(list(root.glob("_bundles/*/*.parquet"))) < n_bundles:
        assert driver.poll() is None, f"the driver ended too early: {driver.communicate()[0]}"
        assert time.monotonic() < deadline, "the driver does not get to work"
        time.sleep(0.02)


def runs_of(root: Path) -> dict[str, str]:
    """Which run has labelled each recording."""
    rows = open_snapshot(str(root)).read("recordings", columns=["recording_id", "run_id"])
    return dict(zip(*rows.to_pydict().values(), strict=True))


@pytest.mark.slow
def test_a_driver_that_is_killed_again_and_again_loses_and_repeats_nothing(
    start_driver: Start, tmp_path: Path
) -> None:
    """SIGKILL, SIGTERM, SIGKILL at random moments (seeded) of one corpus, then a run to its end.

    What was committed is not done again. A reader checks every snapshot meanwhile: 3 kills, some
    hundred checks, 0 violations.
    """
    random = Random(3)
    root = tmp_path / "out"
    rows = copies(7)
    ids = [row["recording_id"] for row in rows]
    settings = (
        f"manifest={write_manifest(tmp_path, rows)}",
        *("publish_every_s=0.3", "ray.batch_audio_s=5", "vad=none"),
    )
    committed: dict[str, str] = {}
    with reader(str(root)) as readings:
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            n_before = len(list(root.glob("_bundles/*/*.parquet")))
            driver = start_driver(root, *settings)
            wait_for_work(driver, root, n_before + random.randint(1, 8))
            time.sleep(random.random())
            if number == signal.SIGKILL:
                os.killpg(driver.pid, number)
                driver.wait()
            else:
                os.kill(driver.pid, number)
                said = driver.communicate(timeout=60)[0]
                assert driver.returncode == 143, said
                assert "what was finished is committed" in said
                assert "Traceback" not in said
                assert len(committed) < len(runs_of(root)) < len(rows)
            if root.joinpath("_log").is_dir():
                assert committed.items() <= runs_of(root).items()
                committed = runs_of(root)
        last = run_command(label_command(root, *settings))
        assert last.returncode == 0, last.stderr
    assert_exactly_once(str(root), ids)
    assert committed.items() <= runs_of(root).items()
    assert readings.violations == []
    assert readings.n_checks > 20
    assert readings.n_snapshots > 3


@pytest.mark.slow
def test_two_runs_at_once_share_a_corpus_without_a_double(
    start_driver: Start, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    rows = copies(2)
    settings = (
        f"manifest={write_manifest(tmp_path, rows)}",
        *("publish_every_s=0.3", "ray.batch_audio_s=5", "vad=none"),
    )
    with reader(str(root)) as readings:
        drivers = [start_driver(root, *settings) for _ in range(2)]
        said = [driver.communicate(timeout=300)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    assert_exactly_once(str(root), [row["recording_id"] for row in rows])
    assert readings.violations == []


# --------------------------------------------------------------------------- the command


def failing_with(error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    def execute(config: RunConfig, on_progress: Any) -> Outcome:
        raise error

    monkeypatch.setattr(run, "execute", execute)
    kept = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stopped:
            label.main(ROOT / "configs" / "demo.yaml", [f"output={tmp_path}"])
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RunStopped("12 recordings failed with X. Do this"), 1, "stopped: 12 recordings failed"),
        (KeyError("oops"), 1, "stopped: KeyError: 'oops'"),
        (StoreError("s3://b: no such bucket"), 2, "refused: s3://b: no such bucket"),
        (KeyboardInterrupt(), 130, ""),
        (label.Terminated(), 143, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_ends_a_run_is_one_paragraph_and_an_exit_code(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert failing_with(error, monkeypatch, tmp_path) == code
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.out + said.err


# --------------------------------------------------------------------------- negative controls


Change = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Tampered(Snapshot):
    """A snapshot after somebody has been at one of its tables."""

    table: str
    change: Change

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        rows = super().read(table, columns)
        return self.change(rows) if table == self.table else rows


TAMPERINGS: list[tuple[str, Change, str]] = [
    ("recordings", lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "2 rows"),
    ("recordings", lambda rows: rows.slice(1), "which has no row"),
    ("transcripts", lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "twice"),
    ("transcripts", lambda rows: rows.slice(1), "n_segments"),
    ("emotions", lambda rows: rows.slice(1), "different segments"),
    ("events", lambda rows: rows.set_column(0, "segment_id", [["x"] * len(rows)]), "no segment"),
]


@pytest.mark.parametrize(("table", "change", "found"), TAMPERINGS)
def test_the_oracle_notices(table: str, change: Change, found: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_bundle(store, RUN, bundle(window("a"), window("b", n_segments=1)))
    publish(store, RUN)
    snapshot = open_snapshot(str(tmp_path))
    assert violations(snapshot) == []
    parts = (snapshot.seq, snapshot.fingerprint, snapshot.store, snapshot.state)
    assert any(found in text for text in violations(Tampered(*parts, table, change)))
