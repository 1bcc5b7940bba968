"""What the model alone does on a device, from features on, in passes of several sizes.

python -m jobs.benchmark model [--model DIR] [--device cuda] [--batch-s 1200] [--json PATH]

Speeds are by the clock. The arithmetic is held against the same device's own matrix product at the
same precision, measured beside it: so much of what it can do goes into labels.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, get_args

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from pipeline.benchmark import loop as benchmarking
from pipeline.config import Device, Precision
from pipeline.models.device import pick_device
from pipeline.models.files import resolve_model
from pipeline.schema import FRAMES_PER_S, LFR_STACK, LFR_STEP, N_MELS, N_PROMPT_FRAMES

_DEMO_MODEL = Path(__file__).parents[2] / "configs" / "demo" / "model"
_SHORTEST_S, _LONGEST_S = 1.0, 15.0  # segments of all lengths between
_SIZES_S = [60.0, 240.0, 1200.0]
_MATMUL = {"cpu": 2048, "cuda": 8192}  # rows and columns


@dataclass(frozen=True, slots=True)
class PassCost:
    """Of passes of one kind and size; medians."""

    precision: str
    attention: str
    compiled: bool
    audio_s: float
    n_clips: int
    wall_s: float
    real_time: float  # audio_s / wall_s
    gflops: float  # per second
    of_matmul: float  # the share that this is of a matrix product's


def model(
    model: Annotated[str, typer.Option(help="model directory or hub id")] = str(_DEMO_MODEL),
    device: Annotated[Device, typer.Option(help="auto: a GPU, if there is one")] = "auto",
    precision: Annotated[list[str] | None, typer.Option(help="repeatable; none: all")] = None,
    batch_s: Annotated[list[float] | None, typer.Option(help="audio per pass; repeatable")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="and by torch.compile")] = False,
    threads: Annotated[int, typer.Option(help="on a CPU")] = 1,
    repeats: Annotated[int, typer.Option(help="measured passes, after a warm-up")] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the numbers")] = None,
) -> None:
    """The model alone, beside the device's own matrix product."""
    import torch

    torch.set_num_threads(threads)
    place = pick_device(device).type
    if place == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here")
    known = [one for one in get_args(Precision) if place == "cpu" or one != "int8"]
    if wrong := set(precision or ()) - set(known):
        raise SystemExit(f"--precision {wrong.pop()}: use {', '.join(known)} on {place}")
    costs = [
        cost
        for one in precision or known
        for how in ([False, True] if compiled else [False])
        for cost in measure(model, place, one, how, batch_s or _SIZES_S, repeats)
    ]
    machine = benchmarking.machine(threads)
    _show(machine, costs)
    if json_path:
        report = {"machine": machine, "model": model, "passes": [asdict(cost) for cost in costs]}
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(
    model: str,
    device: str,
    precision: Any,
    compiled: bool,
    sizes_s: Sequence[float],
    repeats: int,
) -> list[PassCost]:
    """Passes over random features on the device, which take as long as any."""
    from pipeline.models.sensevoice.model import SenseVoice

    files = resolve_model(model)
    network = SenseVoice(files, device, precision, compiled=compiled)
    n_tokens = len(network.vocabulary.pieces)
    peak = _matmul_flops(device, precision, repeats)
    costs = []
    for size_s in sizes_s:
        clips = _make_clips(size_s, device)
        hear = partial(network.transcribe, clips, ["auto"] * len(clips), True)
        wall_s = _clock(hear, repeats)
        lengths = [N_PROMPT_FRAMES + math.ceil(len(clip) / LFR_STEP) for clip in clips]
        flops = count_flops(files.config["encoder_conf"], n_tokens, lengths) / wall_s
        audio_s = sum(map(len, clips)) / FRAMES_PER_S
        costs.append(
            PassCost(
                precision=precision,
                attention=network.attention,
                compiled=compiled,
                audio_s=audio_s,
                n_clips=len(clips),
                wall_s=wall_s,
                real_time=audio_s / wall_s,
                gflops=flops / 1e9,
                of_matmul=flops / peak,
            )
        )
    return costs


def count_flops(conf: Mapping[str, Any], n_tokens: int, lengths: Sequence[int]) -> float:
    """Of one pass over clips of so many encoder frames, two for a multiplication and addition.

    Products with weights, attention and the memory's convolution; padding does not count.
    """
    d, n_layers = conf["output_size"], conf["num_blocks"] + conf["tp_blocks"]
    d_in = LFR_STACK * N_MELS  # of the first layer
    per_frame = 2 * (
        3 * d * (d_in + (n_layers - 1) * d)
        + n_layers * (d * d + 2 * d * conf["linear_units"] + conf["kernel_size"] * d)
        + d * n_tokens
    )
    return float(sum(per_frame * n + 4 * n_layers * d * n * n for n in lengths))


def _make_clips(audio_s: float, device: str) -> list[Any]:
    import torch

    rng = np.random.default_rng(0)
    clips: list[Any] = []
    left = round(audio_s * FRAMES_PER_S)
    while left > 0:
        n_frames = min(left, int(rng.uniform(_SHORTEST_S, _LONGEST_S) * FRAMES_PER_S))
        features = rng.normal(size=(n_frames, N_MELS)).astype(np.float32)
        clips.append(torch.from_numpy(features).to(device))
        left -= n_frames
    return clips


def _matmul_flops(device: str, precision: Any, repeats: int) -> float:
    """What a product of two large square matrices reaches, by the layer that the model uses."""
    import torch

    from pipeline.models.sensevoice.layers import make_linear

    n = _MATMUL[device]
    weights = {
        "w.weight": torch.randn(n, n, device=device),
        "w.bias": torch.zeros(n, device=device),
    }
    layer = make_linear(weights, "w", precision)
    x = torch.randn(n, n, device=device)
    x = x.bfloat16() if precision == "bf16" else x
    # The last number of the result is waited for, as the host waits for a pass.
    return 2 * n**3 / _clock(lambda: layer(x)[-1, -1].item(), repeats)


def _clock(work: Callable[[], object], repeats: int) -> float:
    """Median wall seconds, after a warm-up."""
    times_s = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - started)
    return median(times_s[1:])


def _show(machine: Mapping[str, Any], costs: Sequence[PassCost]) -> None:
    console = Console(width=110)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    table = Table(
        "", "attention", "audio s", "clips", "wall s", "x real time", "GFLOP/s", "of matmul"
    )
    for cost in costs:
        table.add_row(
            cost.precision + ", compiled" * cost.compiled,
            cost.attention,
            f"{cost.audio_s:.0f}",
            f"{cost.n_clips}",
            f"{cost.wall_s:.3f}",
            f"{cost.real_time:,.1f}",
            f"{cost.gflops:,.0f}",
            f"{cost.of_matmul:.0%}",
        )
    console.print(table)
