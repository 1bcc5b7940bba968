"""Drivers that are killed, that run at the same time, or that an error ends."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from jobs import label
from pipeline.config import RunConfig
from pipeline.errors import RunStopped, StoreError
from pipeline.runs import execute as run
from pipeline.runs.progress import Outcome
from pipeline.tables import open_snapshot
from tests.support.demo import ROOT, copies, label_command, run_command, write_manifest
from tests.support.oracle import assert_exactly_once, reader

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_driver() -> Iterator[Start]:
    """Starts `jobs.label` in its own process group; kills what is left at the end of the test."""
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
        assert time.monotonic() < deadline, "the driver does not start labelling"
        time.sleep(0.02)


def runs_of(root: Path) -> dict[str, str]:
    """recording_id -> run_id of the run that labelled it."""
    rows = open_snapshot(str(root)).read("recordings", columns=["recording_id", "run_id"])
    return dict(zip(*rows.to_pydict().values(), strict=True))


def test_a_driver_that_is_killed_several_times_loses_and_repeats_nothing(
    start_driver: Start, tmp_path: Path
) -> None:
    """SIGKILL, then SIGTERM at random moments (seeded), then a run to its end.

    Committed recordings are not labelled again. Meanwhile a reader checks every snapshot: 2 kills,
    some hundred checks, 0 violations.
    """
    random = Random(3)
    root = tmp_path / "out"
    rows = copies(5)
    ids = [row["recording_id"] for row in rows]
    settings = (
        f"manifest={write_manifest(tmp_path, rows)}",
        *("publish_every_s=0.3", "ray.batch_audio_s=5", "vad=none"),
    )
    committed: dict[str, str] = {}
    with reader(str(root)) as readings:
        for number in (signal.SIGKILL, signal.SIGTERM):
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


def test_two_runs_at_once_label_each_recording_once(start_driver: Start, tmp_path: Path) -> None:
    root = tmp_path / "out"
    rows = copies(1)
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
def test_an_error_that_ends_a_run_is_one_paragraph_and_an_exit_code(
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
