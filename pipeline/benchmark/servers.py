"""Services of transcriptions, each in a process of its own on loopback. Knows commands and HTTP."""

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from pipeline.errors import ConfigError

OURS, FUNASR = "ours", "funasr"
BOUNDARY = "boundary-of-the-benchmark"
_START_S, _ANSWER_S, _STOP_S = 300, 600, 60


@dataclass(frozen=True, slots=True)
class Server:
    """A service that runs. `has_counters`: it tells its model batches in /metrics."""

    name: str
    port: int
    process: psutil.Process
    has_counters: bool

    def cpu_s(self) -> float:
        """CPU seconds of its process so far, user and system."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def serve_ours(config: Path, overrides: Sequence[str], n_clients: int) -> Iterator[Server]:
    """`jobs serve` with this configuration on a free port of loopback. Raises ConfigError."""
    settings = [*overrides, "service.host=127.0.0.1", "service.port=0"]
    settings += [f"service.max_requests={n_clients}", "service.max_queued_audio_s=1e9"]
    settings += ["service.tls_certificate=''", "service.tls_key=''"]
    command = [sys.executable, "-m", "jobs", "serve", str(config)]
    command += [part for setting in settings for part in ("--set", setting)]
    with _running(command) as (process, log):
        line = _wait(process, log, lambda: _last_line(log, "http://"))
        port = int(line.removesuffix("/v1").rpartition(":")[2])
        _wait(process, log, lambda: _is_there(port, "/readyz"))
        yield Server(OURS, port, psutil.Process(process.pid), has_counters=True)


@contextmanager
def serve_funasr(model: str, device: str) -> Iterator[Server]:
    """FunASR's own server, as its help starts it with a local model. Raises ConfigError."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    place = ["--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "funasr.bin.server", "--device", device, *place]
    with _running([*command, "--model-path", model]) as (process, log):
        _wait(process, log, lambda: _is_there(port, "/health"))
        yield Server(FUNASR, port, psutil.Process(process.pid), has_counters=False)


def connect(port: int, timeout_s: float = _ANSWER_S) -> http.client.HTTPConnection:
    """A connection to a service on loopback, not opened yet."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b""
) -> tuple[int, bytes]:
    """The status and the body of the answer. A body is sent as a form."""
    kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"} if body else {}
    connection.request(method, path, body or None, kind)
    answer = connection.getresponse()
    return answer.status, answer.read()


def _is_there(port: int, path: str) -> str:
    try:
        status, body = request(connect(port, 5), "GET", path)
    except (OSError, http.client.HTTPException):
        return ""
    if b"failed" in body:
        raise ConfigError("the service cannot load its model; `jobs serve` tells why")
    return "ready" if status == 200 else ""


@contextmanager
def _running(command: list[str]) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    """The process of a command, and what it prints. It is ended at the end."""
    rest = {key: value for key, value in os.environ.items() if key != "SENSEVOICE_SERVE_TOKEN"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=rest)
        try:
            yield process, log
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", log: IO[bytes], look: Callable[[], str]) -> str:
    """What `look` finds, once it finds something. Raises ConfigError if the process ends first."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := look():
            return found
        time.sleep(0.1)
    raise ConfigError(f"the service did not start: {_last_line(log)}")


def _last_line(log: IO[bytes], start: str = "") -> str:
    """The last line that begins so; empty: none does. It reads by position, not to move writing."""
    size = os.fstat(log.fileno()).st_size
    lines = os.pread(log.fileno(), size, 0).decode("utf-8", "replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith(start)), "")
