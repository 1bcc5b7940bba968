"""What a service of transcriptions does for many clients at a time, and for one.

All clients are asked the same way, through OpenAI's API; the CPU time is that of the service alone.
"""

import http.client
import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from pipeline.benchmark.corpus import waveform
from pipeline.benchmark.servers import BOUNDARY, OURS, Server, connect, request
from pipeline.errors import ConfigError, RecordingError
from pipeline.schema import SAMPLE_RATE

_TRANSCRIPTIONS = "/v1/audio/transcriptions"
_OK, _NO_ANSWER = 200, 0
_COUNTERS = {
    "sensevoice_batch_clips_count": "n_batches",
    "sensevoice_batch_clips_sum": "n_clips",
    "sensevoice_model_seconds_total": "model_s",
}


@dataclass(frozen=True, slots=True)
class Form:
    """One recording, as it is sent."""

    body: bytes
    audio_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """The same requests from `n_clients` at a time, each of which waits for its answer.

    cpu_s: of the service's process. n_batches, n_clips, model_s: 0 where the service tells none.
    """

    server: str
    n_clients: int
    n_requests: int
    n_failed: int  # not answered with 200
    audio_s: float
    wall_s: float
    cpu_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    n_batches: int
    n_clips: int
    model_s: float

    @property
    def figures(self) -> dict[str, float]:
        """What is compared: rates by the clock and by CPU time, and how full model batches are."""
        return {
            "requests_per_s": self.n_requests / self.wall_s,
            "clips_per_s": self.n_clips / self.wall_s,
            "rtfx": self.audio_s / self.wall_s,
            "requests_per_core_s": self.n_requests / self.cpu_s,
            "clips_per_batch": self.n_clips / max(self.n_batches, 1),
        }


def read_forms(files: Sequence[str], n_requests: int, *, as_wav: bool = False) -> list[Form]:
    """Local files in turn, until there are `n_requests`. Raises ConfigError and OSError.

    `as_wav`: as 16 kHz mono WAV, which every service reads without FFmpeg.
    """
    try:
        forms = [_form(Path(file), as_wav=as_wav) for file in files[:n_requests]]
    except RecordingError as error:
        raise ConfigError(f"a recording cannot be used: {error}") from error
    if not forms:
        raise ConfigError("there is no recording to send")
    return [forms[index % len(forms)] for index in range(n_requests)]


def _form(path: Path, *, as_wav: bool) -> Form:
    """A file as the body of a request. FunASR's server reads the suffix of its name."""
    samples = waveform(path)
    data, suffix = path.read_bytes(), path.suffix
    if as_wav:
        file = io.BytesIO()
        soundfile.write(file, samples, SAMPLE_RATE, format="WAV")
        data, suffix = file.getvalue(), ".wav"
    field = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    head = f'{field}model"\r\n\r\nwhisper-1\r\n{field}file"; filename="clip{suffix}"\r\n\r\n'
    end = f"\r\n--{BOUNDARY}--\r\n"
    return Form(head.encode() + data + end.encode(), len(samples) / SAMPLE_RATE)


def measure_all(
    services: Sequence[AbstractContextManager[Server]],
    forms: Sequence[Form],
    n_clients: Sequence[int],
    on_load: Callable[[str], None],
) -> list[Load]:
    """Measure the services one after the other; no two run at the same time."""
    loads = []
    for starting in services:
        with starting as server:
            loads += measure_loads(server, forms, n_clients, on_load)
    return loads


def measure_loads(
    server: Server, forms: Sequence[Form], n_clients: Sequence[int], on_load: Callable[[str], None]
) -> list[Load]:
    """A warm-up, then one client, to which the others are compared, then each number of clients."""
    most = max(n_clients)
    measure_load(server, forms[:most], most)
    loads = []
    for n in sorted({1, *n_clients}):
        on_load(f"{server.name}, {n} at a time")
        loads.append(measure_load(server, forms, n))
    return loads


def measure_load(server: Server, forms: Sequence[Form], n_clients: int) -> Load:
    """Send all forms, `n_clients` at a time. Raises ConfigError if no request is answered."""
    before, cpu_s, began = _counters(server), server.cpu_s(), time.monotonic()
    answers = _send(server.port, forms, n_clients)
    wall_s, cpu_s = time.monotonic() - began, server.cpu_s() - cpu_s
    after = _counters(server)
    n_failed = sum(status != _OK for _, status in answers)
    if n_failed == len(answers):
        raise ConfigError(f"{server.name}: no request succeeded; the status was {answers[0][1]}")
    p50_s, p95_s, p99_s = np.percentile([took_s for took_s, _ in answers], [50, 95, 99]).tolist()
    return Load(
        server=server.name,
        n_clients=n_clients,
        n_requests=len(answers),
        n_failed=n_failed,
        audio_s=sum(form.audio_s for form in forms),
        wall_s=wall_s,
        cpu_s=cpu_s,
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        n_batches=round(after["n_batches"] - before["n_batches"]),
        n_clips=round(after["n_clips"] - before["n_clips"]),
        model_s=after["model_s"] - before["model_s"],
    )


def _send(port: int, forms: Sequence[Form], n_clients: int) -> list[tuple[float, int]]:
    """Of each request, the seconds until its whole answer and the status. One connection each."""
    own = threading.local()

    def begin() -> None:
        own.connection = connect(port)

    def ask(form: Form) -> tuple[float, int]:
        began = time.monotonic()
        try:
            status, _ = request(own.connection, "POST", _TRANSCRIPTIONS, form.body)
        except (OSError, http.client.HTTPException):
            status = _NO_ANSWER
        if status != _OK:
            own.connection.close()  # the next request opens it again
        return time.monotonic() - began, status

    with ThreadPoolExecutor(n_clients, initializer=begin) as pool:
        return list(pool.map(ask, forms))


def _counters(server: Server) -> dict[str, float]:
    """What the service has counted so far, by the names of Load."""
    counted = dict.fromkeys(_COUNTERS.values(), 0.0)
    if server.has_counters:
        _, text = request(connect(server.port), "GET", "/metrics")
        lines = (line.rpartition(" ") for line in text.decode().splitlines())
        counted |= {_COUNTERS[name]: float(value) for name, _, value in lines if name in _COUNTERS}
    return counted


def describe_loads(loads: Sequence[Load]) -> list[dict[str, Any]]:
    """All numbers, for a file: those of Load, its figures, and their ratio to one client's."""
    ones = {load.server: load for load in loads if load.n_clients == 1}
    return [
        asdict(load) | load.figures | {"to_one_client": _ratios(load, ones[load.server])}
        for load in loads
    ]


def _ratios(load: Load, other: Load) -> dict[str, float]:
    names = ("requests_per_s", "requests_per_core_s")
    return {name: load.figures[name] / other.figures[name] for name in names}


def show_loads(console: Console, machine: Mapping[str, Any], loads: Sequence[Load]) -> None:
    """Print a row per load, then what batching gains and how we compare to others."""
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    table = Table("", "clients", "requests/s", "RTFx", "p50 ms", "p95 ms", "p99 ms", "clips/batch")
    table.add_column("requests/core-s")
    table.add_column("failed")
    for load in loads:
        figures = load.figures
        times = (f"{1000 * one:.0f}" for one in (load.p50_s, load.p95_s, load.p99_s))
        batch = f"{figures['clips_per_batch']:.2f}" if load.n_batches else ""
        rates = (f"{figures['requests_per_s']:.1f}", f"{figures['rtfx']:.1f}")
        core = f"{figures['requests_per_core_s']:.1f}"
        row = (load.server, f"{load.n_clients}", *rates, *times, batch, core, f"{load.n_failed}")
        table.add_row(*row)
    console.print(table)
    for line in _comparisons(loads):
        console.print(line, soft_wrap=True)


def _comparisons(loads: Sequence[Load]) -> list[str]:
    """Sentences about ratios: each service to its one client, and ours to the others."""
    by_key = {(load.server, load.n_clients): load for load in loads}
    lines = []
    for (name, n), load in by_key.items():
        if n > 1:
            lines.append(f"{name}, {n} clients to one: {_told(load, by_key[name, 1])}")
        ours = by_key.get((OURS, n))
        if name != OURS and ours:
            lines.append(f"ours to {name}, {n} at a time: {_told(ours, load)}")
    one = by_key.get((OURS, 1))
    if one and one.model_s:
        share = one.wall_s / one.model_s
        lines.append(f"ours, one at a time: {share:.2f} times the seconds in which the model ran")
    return lines


def _told(load: Load, other: Load) -> str:
    by_clock, by_core = _ratios(load, other).values()
    p95 = load.p95_s / other.p95_s
    return f"requests/s x {by_clock:.2f}, requests/core-s x {by_core:.2f}, p95 x {p95:.2f}"
