"""Measure speed and cost: python -m jobs benchmark COMMAND (--help lists them)."""

import json
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from pipeline.benchmark import serving
from pipeline.benchmark.clips import Place, measure_clips, settings_of_clips, show_clips
from pipeline.benchmark.contenders import ONNX_RUNTIME, PEERS, list_contenders, measure_speed
from pipeline.benchmark.corpus import DEMO, demo_clips, list_files, synthesise_demo
from pipeline.benchmark.machine import describe_machine
from pipeline.benchmark.meter import measure_meter, show_meter
from pipeline.benchmark.model import measure_model, show_model
from pipeline.benchmark.planning import make_corpus, measure_in_child, show_planning
from pipeline.benchmark.servers import serve_funasr, serve_ours
from pipeline.benchmark.start_up import as_rows, measure_start_up
from pipeline.benchmark.summary import show_speed
from pipeline.config import Device, load_config
from pipeline.console.commands import Command, ConfigKeys, new_app, refusing
from pipeline.planning.speed_report import SpeedSettings
from pipeline.storage.store import write_file

Json = Annotated[Path | None, typer.Option("--json", help="write the numbers to this file")]
Model = Annotated[str, typer.Option(help="model directory or hub id")]

_DEMO_MODEL = str(DEMO / "model")
_CLIENTS = [4, 16]
_WIDTH = 120  # characters, so that tables look the same on every terminal

app = new_app()


@app.callback()
def main() -> None:
    """Measure the speed of labelling, of the model alone, of planning or of serving.

    python -m jobs benchmark speed [--model DIR] [--vad DIR] [--audio MANIFEST] [--json PATH]

    python -m jobs benchmark speed --clip-s 0.25 --clip-s 3 [--vad DIR] [--store s3://BUCKET/CLIPS]

    python -m jobs benchmark model [--model DIR] [--device cuda] [--batch-s 1200] [--json PATH]

    python -m jobs benchmark planning [--rows 10000000] [--first] [--folder DIR] [--json PATH]

    python -m jobs benchmark start-up [--repeats 3] [--json PATH]

    python -m jobs benchmark meter [--label-ms 15] [--json PATH]

    python -m jobs benchmark shards [--clips 2000] [--latency-ms 20] [--json PATH]

    python -m jobs benchmark explore [--segments 3000000] [--folder DIR] [--json PATH]

    python -m jobs benchmark serve [CONFIG] [--clients 16] [--peer funasr] [--json PATH]

    `speed` compares this pipeline with FunASR and sherpa-onnx. Each runs in a process of its own,
    after one warm-up. Measured are the CPU seconds (user and system) of that process after its
    models are loaded; with `--device cuda`, wall seconds.
    """


@app.command(cls=Command)
def meter(
    label_ms: Annotated[
        float, typer.Option(min=0.01, help="CPU ms to label a second of audio; 15: int8")
    ] = 15.0,
    repeats: Annotated[int, typer.Option(min=1, help="measured repeats; the least counts")] = 5,
    json_path: Json = None,
) -> None:
    """Measure what the tables measures and quality cost, as a share of labelling."""
    console = Console(width=_WIDTH)
    costs = measure_meter(repeats)
    show_meter(console, costs, label_ms)
    if json_path:
        rows = [asdict(cost) | {"label_ms": label_ms} for cost in costs]
        write_file(json_path, (json.dumps(rows, indent=1) + "\n").encode())


@app.command(cls=Command)
def speed(
    model: Model = _DEMO_MODEL,
    vad: Annotated[str, typer.Option(help="none, silero or an FSMN-VAD directory")] = "silero",
    audio: Annotated[
        str, typer.Option(help="manifest or directory; if empty, audio is made from demo clips")
    ] = "",
    seconds: Annotated[float, typer.Option(help="length of the audio to make")] = 300.0,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="device of the models and the VAD")
    ] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads of each contender")] = 1,
    repeats: Annotated[int, typer.Option(help="measured repeats, after a warm-up")] = 3,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="of this pipeline; repeatable; default: fp32 and int8, or bf16 on a GPU"),
    ] = None,
    batch_s: Annotated[float | None, typer.Option(help="seconds of audio in a model batch")] = None,
    clips: Annotated[
        int, typer.Option(min=1, help="number of clips whose text is compared with FunASR's")
    ] = 20,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="funasr, sherpa-onnx, onnxruntime (our stages on it) or none; repeatable; "
            "default: all"
        ),
    ] = None,
    ray: Annotated[bool, typer.Option(help="also run the whole pipeline on Ray")] = True,
    scale: Annotated[
        bool, typer.Option(help="also run this pipeline on 1, 2, 4 and 8 times the audio")
    ] = False,
    clip_s: Annotated[
        list[float] | None,
        typer.Option(
            min=0.05,
            help="instead: the cost of a recording of this length, in four codecs; repeatable",
        ),
    ] = None,
    recordings: Annotated[
        int, typer.Option(min=16, help="with --clip-s: recordings of each length and codec")
    ] = 1000,
    store: Annotated[
        str, typer.Option(help="with --clip-s: write them to this directory or s3:// URI first")
    ] = "",
    json_path: Json = None,
) -> None:
    """Measure each stage, the stages in a loop, Ray, and other software on the same audio."""
    console = Console(width=_WIDTH)
    if clip_s:
        settings = settings_of_clips(model, vad, threads, batch_s)
        _measure_clips(console, settings, clip_s, recordings, store, ray=ray, json_path=json_path)
        return
    precisions = precision or (["fp32", "int8"] if device == "cpu" else ["fp32", "bf16"])
    with refusing(), tempfile.TemporaryDirectory(prefix="sensevoice-benchmark-") as work:
        settings = SpeedSettings(
            model=model,
            vad=vad,
            files=list_files(audio or str(synthesise_demo(Path(work) / "audio", seconds))),
            device=device,
            clock="cpu_s" if device == "cpu" else "wall_s",  # CPU time leaves out a GPU's work
            threads=threads,
            repeats=repeats,
            batch_s=batch_s,
            clips=clips,
            work=work,
            exact=precisions[0],
        )
        others = peer or [*PEERS, *([ONNX_RUNTIME] if device == "cpu" else [])]
        contenders = list_contenders(precisions, others, ray=ray, scale=scale)
        report = measure_speed(
            settings, contenders, lambda name: console.print(f"{name} ...", style="dim")
        )
    show_speed(console, report)
    if not report.ours:
        raise typer.Exit(1)
    if json_path:
        write_file(json_path, report.to_json().encode())


def _measure_clips(
    console: Console,
    settings: SpeedSettings,
    clip_s: list[float],
    n_recordings: int,
    store: str,
    *,
    ray: bool,
    json_path: Path | None,
) -> None:
    with refusing(), tempfile.TemporaryDirectory(prefix="sensevoice-clips-") as work:
        costs = list(
            measure_clips(
                replace(settings, work=work),
                clip_s,
                n_recordings,
                Place(store or f"{work}/audio", {}),
                lambda name: console.print(f"{name} ...", style="dim"),
                ray=ray,
            )
        )
    machine = describe_machine(settings.threads)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    show_clips(console, costs)
    _keep(json_path, {"machine": machine, "costs": [asdict(cost) for cost in costs]})


@app.command(cls=Command)
def model(
    model: Model = _DEMO_MODEL,
    device: Annotated[Device, typer.Option(help="auto: a GPU, if there is one")] = "auto",
    precision: Annotated[list[str] | None, typer.Option(help="repeatable; default: all")] = None,
    batch_s: Annotated[
        list[float] | None, typer.Option(help="seconds of audio in a model batch; repeatable")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="also measure with torch.compile")
    ] = False,
    on_onnx: Annotated[
        bool,
        typer.Option("--onnxruntime", help="also single clips on ONNX Runtime; converts the model"),
    ] = False,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    repeats: Annotated[int, typer.Option(help="measured batches, after a warm-up")] = 5,
    json_path: Json = None,
) -> None:
    """Measure the model alone, and compare it with a matrix product on the same device."""
    with refusing():
        report = measure_model(
            model,
            device,
            precision or [],
            batch_s or [],
            compiled=compiled,
            on_onnx=on_onnx,
            threads=threads,
            repeats=repeats,
        )
    show_model(Console(width=_WIDTH), report)
    if json_path:
        write_file(json_path, report.to_json().encode())


@app.command(cls=Command)
def planning(
    rows: Annotated[int, typer.Option(help="recordings in the manifest")] = 10_000_000,
    folder: Annotated[
        Path | None, typer.Option(help="keep the manifest and the ledger in this directory")
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="with an empty ledger, so that all rows are to do")
    ] = False,
    json_path: Json = None,
) -> None:
    """Measure planning of a manifest when the ledger already has nearly all of its rows."""
    with refusing(), ExitStack() as stack:
        work = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="planning-")))
        if not (work / "manifest.parquet").exists():
            make_corpus(work, rows)
        cost = measure_in_child(work, first=first)
    show_planning(Console(), cost)
    _keep(json_path, asdict(cost))


@app.command(cls=Command)
def explore(
    segments: Annotated[int, typer.Option(min=100, help="segments in the tables")] = 3_000_000,
    folder: Annotated[Path | None, typer.Option(help="keep the tables in this directory")] = None,
    repeats: Annotated[int, typer.Option(help="measured repeats, after a warm-up")] = 3,
    json_path: Json = None,
) -> None:
    """Measure the pages of the explorer over tables with invented labels."""
    from pipeline.benchmark.browsing import make_root, measure_pages, show_pages

    with refusing(), ExitStack() as stack:
        work = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="explore-")))
        root = work / "labels"
        costs = list(
            measure_pages(str(root) if root.exists() else make_root(work, segments), repeats)
        )
    show_pages(Console(width=_WIDTH), costs, segments)
    _keep(json_path, [asdict(cost) for cost in costs])


@app.command(cls=Command)
def serve(
    config_path: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file of a run; default: the demo's")
    ] = DEMO.parent / "demo.yaml",
    overrides: ConfigKeys = None,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, help="at a time; repeatable; one is always measured")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="for each number of clients")] = 64,
    audio: Annotated[
        str, typer.Option(help="manifest or directory of local files; default: the demo's clips")
    ] = "",
    peer: Annotated[
        Literal["none", "funasr"], typer.Option(help="also FunASR's own server; all send WAV")
    ] = "none",
    json_path: Json = None,
) -> None:
    """Measure the service of `jobs serve` for many clients at a time, and for one."""
    console, machine = Console(width=_WIDTH), describe_machine(os.cpu_count() or 1)
    with refusing():
        config = load_config(config_path, overrides or [])
        files = list_files(audio) if audio else [str(path) for path in demo_clips()]
        forms = serving.read_forms(files, requests, as_wav=peer != "none")
        servers = [serve_ours(config_path, overrides or [], max(clients or _CLIENTS))]
        if peer == "funasr":
            on_cpu = config.label.device == "cpu" or machine["cuda"] == "none"
            servers.append(serve_funasr(config.model, "cpu" if on_cpu else "cuda"))
        loads = serving.measure_all(
            servers, forms, clients or _CLIENTS, lambda name: console.print(name, style="dim")
        )
    serving.show_loads(console, machine, loads)
    _keep(json_path, {"machine": machine, "loads": serving.describe_loads(loads)})


@app.command(cls=Command)
def shards(
    clips: Annotated[int, typer.Option(min=1, help="number of clips")] = 2000,
    clip_s: Annotated[float, typer.Option(min=0.1, help="length of a clip")] = 3.0,
    latency_ms: Annotated[float, typer.Option(min=0, help="what each request waits first")] = 20.0,
    store: Annotated[
        str, typer.Option(help="write them below this s3:// URI; default: moto, in this process")
    ] = "",
    json_path: Json = None,
) -> None:
    """Measure decoding from tar shards against loose objects in a store."""
    from pipeline.benchmark.shards import loopback_store, measure_shards, show_shards

    with refusing(), ExitStack() as stack:
        place = Place(store, {}) if store else stack.enter_context(loopback_store())
        costs = measure_shards(place, clips, clip_s, latency_ms)
    console = Console(width=_WIDTH)
    console.print(", ".join(f"{key} {value}" for key, value in describe_machine(1).items()))
    show_shards(console, costs, latency_ms)
    if json_path:
        rows = [asdict(cost) for cost in costs]
        write_file(json_path, (json.dumps(rows, indent=1) + "\n").encode())


@app.command("start-up", cls=Command)
def start_up(
    repeats: Annotated[int, typer.Option(min=1, help="runs of each; the least counts")] = 3,
    json_path: Json = None,
) -> None:
    """Measure how long help, a refusal and the demo take, in one process and on Ray."""
    console = Console(width=_WIDTH)
    results = measure_start_up(repeats, lambda name: console.print(f"{name} ...", style="dim"))
    table = Table("", "wall s", "CPU s", "first row after s")
    for row in as_rows(results):
        table.add_row(*row)
    console.print(table)
    _keep(json_path, [asdict(one) for one in results])


def _keep(path: Path | None, numbers: Any) -> None:
    """Write what --json asks for, if it is given."""
    if path:
        write_file(path, (json.dumps(numbers, indent=1) + "\n").encode())


if __name__ == "__main__":
    app()
