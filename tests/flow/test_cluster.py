"""`ray job submit` against a real head node, and a cluster whose nodes join and are lost."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.flow.telemetry import COUNTERS, MODEL_COUNTERS
from pipeline.tables import open_snapshot
from tests.support.changing_nodes import N_FREE, read_notes
from tests.support.demo import AUDIO, MODEL, ROOT, label_command, run_command
from tests.support.oracle import assert_exactly_once

pytestmark = pytest.mark.usefixtures("own_ray")

SHORT_NAMES = ("en_neutral.wav", "zh_angry.flac", "yue_neutral.mp3", "event_cough.flac")
RUNTIME_ENV = "configs/cluster/runtime_env.yaml"
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    "PATH": f"{BIN}:{os.environ['PATH']}",  # the jobs' `python` is this environment's
    "RAY_AUTH_MODE": "disabled",  # on loopback; by default a token of ~/.ray is asked for
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_worker_niceness": "0",
    "RAY_metrics_report_interval_ms": "500",
}


@dataclass(frozen=True, slots=True)
class Head:
    """A head node on this machine."""

    address: str
    metrics: str
    folder: Path

    def ray(self, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """`ray job ...` against this head."""
        return subprocess.run(
            [
                *(str(BIN / "ray"), "job", arguments[0], "--address", self.address),
                *("--log-color=false", *arguments[1:]),
            ],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def submit(
        self, name: str, *settings: str, wait: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """The command of the README, with the demo's configuration."""
        flags = () if wait else ("--no-wait",)
        overrides = [part for setting in settings for part in ("--set", setting)]
        return self.ray(
            *("submit", "--working-dir", ".", "--runtime-env", RUNTIME_ENV),
            *("--submission-id", name, *flags, "--", "python", "-m", "jobs.label"),
            *("configs/demo.yaml", *overrides),
        )

    def job(self, name: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.address}/api/jobs/{name}", timeout=30) as answer:
            facts: dict[str, Any] = json.load(answer)
            return facts


def free_ports(n: int) -> list[int]:
    """Ports above 20000: Ray gives 10002 to 19999 to its workers."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    assert min(ports) >= 20_000
    return ports


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 300) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.3)
    raise AssertionError(f"no {what} within {timeout_s} s")


def answers(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def end(process: subprocess.Popen[Any], folder: str) -> None:
    """Stop the process that started a Ray, then the processes of that Ray that still run."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if folder.encode() in command.read_bytes():
                os.kill(int(command.parent.name), signal.SIGKILL)
    process.wait(20)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """One head node for the jobs of this module; its processes are stopped afterwards."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # socket paths may have 107 characters
    gcs, dashboard, agent, agent_grpc, client, metrics = free_ports(6)
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--port={gcs}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"),
        *(f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}"),
        *("--min-worker-port=0", "--max-worker-port=0"),  # any free one
        *("--num-cpus=4", "--object-store-memory=300000000"),
    ]
    with (Path(folder) / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, cwd="/")
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(lambda: answers(f"{address}/api/version"), "dashboard")
        yield Head(address, f"http://127.0.0.1:{metrics}/metrics", Path(folder))
    finally:
        end(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(path: Path, n_copies: int, *names: str) -> Path:
    for name in names:
        shutil.copy(AUDIO / name, path.parent)
    rows = [
        {"audio": name, "recording_id": f"{name}-{copy}"}
        for copy in range(n_copies)
        for name in names
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def demo_job(head: Head, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The demo with two broken recordings as a job: output of `ray job submit`, tables' root."""
    root = tmp_path_factory.mktemp("job") / "out"
    done = head.submit("demo", f"output={root}", "error_exit_code=3")
    assert done.returncode == 1  # Ray makes any failure 1
    assert head.job("demo")["driver_exit_code"] == 3, done.stdout
    return done.stdout + done.stderr, root


def test_a_submitted_job_labels_the_corpus(demo_job: tuple[str, Path]) -> None:
    recordings = open_snapshot(str(demo_job[1])).read("recordings")
    assert Counter(recordings["status"].to_pylist()) == {"ok": 18, "error": 2}


def test_the_uploaded_working_directory_has_no_environment_or_tests(
    head: Head, demo_job: tuple[str, Path]
) -> None:
    (package,) = head.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    uploaded = {path.name for path in package.iterdir()}
    assert {"pipeline", "jobs", "configs", "pyproject.toml"} <= uploaded
    assert not uploaded & {".git", ".venv", ".ci", "out", "tests", "notebooks", "uv.lock"}
    assert sum(path.stat().st_size for path in package.rglob("*")) < 20 << 20


def test_a_partly_failed_job_says_so(head: Head, demo_job: tuple[str, Path]) -> None:
    job = head.job("demo")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 3)
    assert "exit code 3" in job["message"]


def test_the_log_of_a_job_can_be_read_and_searched(head: Head, demo_job: tuple[str, Path]) -> None:
    log = head.ray("logs", "demo").stdout
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", log)
    assert "Traceback" not in log
    line = r"^\d{4}-\d\d-\d\dT[\d:]{8}Z INFO run=(\d{8}T\d{6}-[0-9a-f]{8}) (.+)$"
    lines = re.findall(line, log, re.MULTILINE)
    assert len({run_id for run_id, _ in lines}) == 1
    assert "planned=20" in lines[0][1]
    assert "18 ok, 2 failed" in log
    last = lines[-1][1]
    assert last.startswith("finished outcome=partial exit_code=3 recordings=20 failed=2 ")
    assert last.endswith("errors=EmptyFile:1,Truncated:1")


def scrape(head: Head) -> dict[tuple[str, ...], float]:
    """Our metrics by name and labels; the demo is the first run on its head."""
    lines = re.findall(r"^ray_(sensevoice_\w+)\{(.*)\} (\S+)$", answers(head.metrics), re.MULTILINE)
    return {
        (name, *re.findall(r'(?:outcome|type|stage|kind)="([^"]+)"', labels)): float(value)
        for name, labels, value in lines
    }


def test_the_metrics_of_a_job_can_be_scraped(head: Head, demo_job: tuple[str, Path]) -> None:
    wait_for(lambda: scrape(head).get(("sensevoice_recordings_total", "ok")) == 18, "18 good ones")
    values = scrape(head)
    assert {*COUNTERS, *MODEL_COUNTERS} <= {name for name, *_ in values}
    frames = {kind: values["sensevoice_model_frames_total", kind] for kind in ("speech", "padding")}
    assert 5_000 < frames["speech"] < 17_000  # of the 170 s that the corpus has
    assert 0 < frames["padding"] < frames["speech"]
    assert values["sensevoice_recordings_planned_total",] == 20
    assert values["sensevoice_recordings_total", "error"] == 2
    assert values["sensevoice_errors_total", "Truncated"] == 1
    assert 100 < values["sensevoice_audio_seconds_total",] < 170
    for stage in ("decode", "segment", "label"):
        busy_s = values["sensevoice_stage_busy_seconds_total", stage]
        assert 0 < busy_s <= values["sensevoice_stage_worker_seconds_total", stage]


def test_a_job_that_cannot_work_is_refused_with_a_reason(head: Head, tmp_path: Path) -> None:
    done = head.submit("refused", f"output={tmp_path}", "label.langauge=en")
    assert done.returncode == 1
    assert head.job("refused")["driver_exit_code"] == 2
    assert "refused:" in done.stdout
    assert "did you mean 'label.language'" in done.stdout
    assert "finished outcome=refused exit_code=2" in done.stdout


def test_a_stopped_job_leaves_whole_tables_and_the_next_continues(
    head: Head, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    manifest = write_manifest(tmp_path / "manifest.jsonl", 30, "long_mixed.mp3")
    settings = (
        *(f"manifest={manifest}", f"output={root}", f"model={MODEL}", "vad=none"),
        *("publish_every_s=0.5", "ray.batch_audio_s=1"),
    )
    head.submit("stopped", *settings, wait=False)
    wait_for(lambda: len(list(root.glob("_log/*.json"))) >= 2, "second commit")
    head.ray("stop", "stopped")
    assert head.job("stopped")["status"] == "STOPPED"
    log = head.ray("logs", "stopped").stdout
    assert "what was finished is committed" in log
    assert "finished outcome=stopped exit_code=143" in log
    first = open_snapshot(str(root)).read("recordings")
    assert 0 < first.num_rows < 30

    done = head.submit("resumed", *settings)
    assert done.returncode == 0, done.stdout
    assert head.job("resumed")["status"] == "SUCCEEDED"
    assert re.search(r"finished outcome=done exit_code=0 recordings=\d+ failed=0", done.stdout)
    ids = open_snapshot(str(root)).read("recordings")["recording_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 30
    (n_resumed,) = re.findall(r"exit_code=0 recordings=(\d+)", done.stdout)
    assert int(n_resumed) <= 30 - first.num_rows


def test_an_address_without_an_answer_ends_a_run_at_once(tmp_path: Path) -> None:
    """ray.init would wait for minutes without a message."""
    started = time.monotonic()
    done = run_command(label_command(tmp_path / "out", "ray.address=127.0.0.1:9"))
    assert done.returncode == 1
    assert "no Ray answers" in done.stderr
    assert time.monotonic() - started < 60


# ------------------------------------------------------------------------------ several nodes


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[str]], Path]:
    """A run whose GPU nodes joined and were lost: its notes (what, on which node), the tables."""
    folder = tmp_path_factory.mktemp("changed")
    manifest = write_manifest(folder / "manifest.jsonl", 8, *SHORT_NAMES)
    root, notes = folder / "out", folder / "notes"
    command = [
        sys.executable,
        "-m",
        "tests.support.changing_nodes",
        *map(str, (root, manifest, notes)),
    ]
    done = run_command(command)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split() for line in read_notes(notes)], root


def test_cpu_nodes_segment_and_gpu_nodes_label(
    changed: tuple[list[list[str]], Path],
) -> None:
    places: dict[str, set[str]] = {}
    for what, node in changed[0]:
        places.setdefault(what, set()).add(node)
    assert places["label"] == places["joined"] | places["lost"]
    assert len(places["segment"]) == 1
    assert not places["segment"] & places["label"]


def test_a_gpu_node_that_joins_late_labels(changed: tuple[list[list[str]], Path]) -> None:
    notes = changed[0]
    (joined,) = (i for i, (what, _) in enumerate(notes) if what == "joined")
    before = {node for what, node in notes[:joined] if what == "label"}
    assert notes[joined][1] not in before
    assert notes[joined:].count(["label", notes[joined][1]]) > N_FREE


def test_a_lost_node_costs_time_and_nothing_else(changed: tuple[list[list[str]], Path]) -> None:
    """It is lost in the middle of a call; the other node labels the rest."""
    notes, root = changed
    (lost,) = (i for i, (what, _) in enumerate(notes) if what == "lost")
    assert ["label", notes[lost][1]] not in notes[lost:]
    ids = [f"{name}-{copy}" for copy in range(8) for name in SHORT_NAMES]
    recordings = assert_exactly_once(str(root), ids).read("recordings")
    assert set(recordings["status"].to_pylist()) == {"ok"}
