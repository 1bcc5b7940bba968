"""Decoding from tar shards against loose objects of the same clips, in a store with a delay.

Every request of the S3 client waits for `latency_ms` first, as a store in another building lets it.
Measured is the decode stage alone, in one process, from a plan that is made before.
"""

import asyncio
import io
import logging
import os
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from pipeline.benchmark.clips import Place, write_clips
from pipeline.config import AudioConfig
from pipeline.errors import Refused
from pipeline.flow.row_batches import cut_row_batches
from pipeline.manifest.read import read_manifest
from pipeline.planning.plan import make_plan
from pipeline.schema import TABLES
from pipeline.stages.decode import decode_recordings
from pipeline.storage.store import filesystem_for

_CLIPS_PER_SHARD = 500
_BATCH_S = 600.0


@dataclass(frozen=True, slots=True)
class ShardCost:
    """What it took to decode all clips from one kind of object."""

    kind: str  # loose | shards
    n_clips: int
    n_objects: int
    n_requests: int
    wall_s: float

    @property
    def clips_per_s(self) -> float:
        return self.n_clips / self.wall_s


@dataclass(slots=True)
class Requests:
    """How many requests an S3 client has sent."""

    n: int = 0


@contextmanager
def delayed(place: Place, latency_ms: float) -> Iterator[Requests]:
    """Let every request of the shared S3 client wait, and count them."""
    fs, _ = filesystem_for(place.uri, place.options)
    fs.connect()
    counted = Requests()

    async def before_send(**event: Any) -> None:
        counted.n += 1
        await asyncio.sleep(latency_ms / 1000)

    events = fs.s3.meta.events
    events.register("before-send.s3", before_send)
    try:
        yield counted
    finally:
        events.unregister("before-send.s3", before_send)


def measure_shards(
    place: Place, n_clips: int, clip_s: float, latency_ms: float
) -> Sequence[ShardCost]:
    """Write the clips loose and in shards, then decode them from both."""
    loose = write_clips(place, "loose", "wav", clip_s, n_clips)
    fs, _ = filesystem_for(place.uri, place.options)
    n_shards = 0
    for start in range(0, n_clips, _CLIPS_PER_SHARD):
        names = loose[start : start + _CLIPS_PER_SHARD]
        files = {os.path.basename(name): _get(fs, place, name) for name in names}
        path = filesystem_for(f"{place.uri}/shards/{n_shards:06d}.tar", place.options)[1]
        fs.makedirs(os.path.dirname(path), exist_ok=True)
        fs.pipe_file(path, _tar(files))
        n_shards += 1
    return [
        _decode(place, "loose", n_clips, latency_ms),
        _decode(place, "shards", n_shards, latency_ms),
    ]


def _get(fs: Any, place: Place, uri: str) -> bytes:
    data: bytes = fs.cat_file(filesystem_for(uri, place.options)[1])
    return data


def _tar(files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, audio in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(audio)
            tar.addfile(info, io.BytesIO(audio))
    return data.getvalue()


def _decode(place: Place, kind: str, n_objects: int, latency_ms: float) -> ShardCost:
    manifest = read_manifest(f"{place.uri}/{kind}", place.options)
    nothing = TABLES["recordings"].empty_table()
    todo = make_plan(manifest, nothing, "", place.options).todo
    with delayed(place, latency_ms) as requests:
        started = time.perf_counter()
        n_clips = sum(map(_count, _windows(todo, place.options)))
        wall_s = time.perf_counter() - started
    return ShardCost(kind, n_clips, n_objects, requests.n, wall_s)


def _windows(todo: pa.Table, options: Mapping[str, Any]) -> Iterator[pa.Table]:
    for batch in cut_row_batches(todo, _BATCH_S, n_cpus=1):
        yield from decode_recordings(
            batch, config=AudioConfig(), options=options, run_id="benchmark"
        )


def _count(windows: pa.Table) -> int:
    if failed := [message for message in windows["error_message"].to_pylist() if message]:
        raise Refused(f"a clip could not be decoded: {failed[0]}")
    return int(windows.num_rows)


@contextmanager
def loopback_store() -> Iterator[Place]:
    """Moto's S3 server in this process. Raises Refused if it is not installed."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise Refused("moto is not installed; name a store with --store s3://BUCKET/x") from error
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
        "config_kwargs": {"s3": {"addressing_style": "path"}},
        "key": "testing",
        "secret": "testing",
    }
    try:
        with suppress(FileExistsError):
            filesystem_for("s3://clips/x", options)[0].mkdir("clips")
        yield Place("s3://clips/x", options)
    finally:
        server.stop()


def show_shards(console: Console, costs: Sequence[ShardCost], latency_ms: float) -> None:
    """Print a line for each; the ratio is that of clips per second."""
    table = Table("", "clips", "objects", "requests", "wall s", "clips/s", "ratio")
    for cost in costs:
        table.add_row(
            cost.kind,
            f"{cost.n_clips:,}",
            f"{cost.n_objects:,}",
            f"{cost.n_requests:,}",
            f"{cost.wall_s:.2f}",
            f"{cost.clips_per_s:,.0f}",
            f"{cost.clips_per_s / costs[0].clips_per_s:.1f}",
        )
    console.print(table)
    console.print(f"decoding in one process; each request waits {latency_ms:g} ms first")
