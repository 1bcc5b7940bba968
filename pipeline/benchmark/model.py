"""Speed of the model alone on a device, without audio and features, in batches of several sizes.

Speeds are by wall time. The floating-point operations per second are compared with those of one
large matrix product on the same device at the same precision: the share of its arithmetic that the
model uses.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.benchmark.machine import describe_machine
from pipeline.config import Backend, Device, Precision
from pipeline.errors import ConfigError
from pipeline.models.files import ModelFiles, resolve_model
from pipeline.schema import FRAMES_PER_S, LFR_STACK, LFR_STEP, N_MELS, N_PROMPT_FRAMES

if TYPE_CHECKING:  # torch takes seconds and 600 MB
    from pipeline.models.sensevoice.model import SenseVoice, Transcriber

_SIZES_S = (60.0, 240.0, 1200.0)  # audio of a model batch
_SHORTEST_S, _LONGEST_S = 1.0, 15.0  # of a clip; lengths are uniform between them
# Milliseconds for one clip by its seconds: https://github.com/FunAudioLLM/SenseVoice, "Inference".
_PUBLISHED_MS = {3.0: 63.0, 5.0: 67.0, 10.0: 70.0}
_Kind = tuple[Backend, str, bool]  # backend, precision, compiled
_MATMUL = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices


@dataclass(frozen=True, slots=True)
class BatchCost:
    """Medians over model batches of one kind and size."""

    precision: str
    attention: str
    compiled: bool
    audio_s: float
    n_clips: int
    wall_s: float
    real_time: float  # audio_s / wall_s
    gflops: float  # 1e9 floating-point operations per second
    of_matmul: float  # share of what a matrix product reaches


@dataclass(frozen=True, slots=True)
class Latency:
    """Median time of a model batch of one clip, and what SenseVoice's README says of it."""

    backend: Backend
    precision: str
    compiled: bool
    clip_s: float
    wall_ms: float
    published_ms: float  # on hardware that is not named there


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The report of `jobs benchmark model`; field names are the keys of its JSON."""

    machine: dict[str, Any]
    model: str
    passes: list[BatchCost]
    latencies: list[Latency] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def measure_model(
    model: str,
    device: Device,
    precisions: Sequence[str],
    sizes_s: Sequence[float],
    *,
    compiled: bool,
    on_onnx: bool,
    threads: int,
    repeats: int,
) -> ModelReport:
    """Measure batches of all sizes at all precisions. None given: the usual sizes, all precisions.

    `compiled` measures torch.compile too, `on_onnx` single clips on ONNX Runtime, for which a model
    is converted once. Raises ConfigError for what this device cannot do, and ModelError.
    """
    import torch

    from pipeline.models.device import pick_device

    torch.set_num_threads(threads)
    place = pick_device(device).type
    if place == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here")
    known = [one for one in get_args(Precision) if place == "cpu" or one != "int8"]
    if wrong := set(precisions) - set(known):
        raise ConfigError(f"--precision {wrong.pop()}: use {', '.join(known)} on {place}")
    if on_onnx:
        _check_onnx(place)
    from pipeline.models.sensevoice.model import SenseVoice

    files = resolve_model(model)
    report = ModelReport(describe_machine(threads), model, [])
    for precision in precisions or known:
        for compile_it in [False, True] if compiled else [False]:
            network = SenseVoice(files, place, precision, compiled=compile_it)  # type: ignore[arg-type]
            engine = _Engine(network, files, place, precision, compile_it)
            report.passes.extend(measure_batches(engine, sizes_s or _SIZES_S, repeats))
            kind: _Kind = ("torch", precision, compile_it)
            report.latencies.extend(measure_latencies(network, kind, repeats))
    if on_onnx:
        report.latencies.extend(_latencies_on_onnx(files, precisions or known, threads, repeats))
    return report


def _check_onnx(place: str) -> None:
    if place != "cpu":
        raise ConfigError("--onnxruntime measures on a CPU; add --device cpu")
    if find_spec("onnxruntime") is None:
        raise ConfigError("onnxruntime is not installed: uv sync --extra convert")


def _latencies_on_onnx(
    files: ModelFiles, precisions: Sequence[str], threads: int, repeats: int
) -> Iterator[Latency]:
    """In fp32 and int8, as far as they are asked for: it has no bf16 on CPUs."""
    from pipeline.convert.backend import find_network
    from pipeline.models.sensevoice.onnx_runtime import OnnxSenseVoice

    for precision in precisions:
        if precision != "bf16":
            path = find_network(files, precision)  # type: ignore[arg-type]
            network = OnnxSenseVoice(files, path, threads)
            yield from measure_latencies(network, ("onnxruntime", precision, False), repeats)


class _Engine(NamedTuple):
    """A loaded model at one precision."""

    network: "SenseVoice"
    files: ModelFiles
    device: str
    precision: str
    compiled: bool


def measure_latencies(network: "Transcriber", kind: _Kind, repeats: int) -> list[Latency]:
    """One clip of 3, 5 and 10 s, as an idle service would get it."""
    latencies = []
    for clip_s, published_ms in _PUBLISHED_MS.items():
        rng = np.random.default_rng(0)
        features = rng.normal(size=(int(clip_s * FRAMES_PER_S), N_MELS)).astype(np.float32)
        transcribe = partial(network.transcribe, [features], ["auto"], [True])
        wall_ms = 1000 * _wall_s(transcribe, repeats)
        latencies.append(Latency(*kind, clip_s, wall_ms, published_ms))
    return latencies


def measure_batches(engine: _Engine, sizes_s: Sequence[float], repeats: int) -> list[BatchCost]:
    """One cost per size. Clips are random features on the device: speed does not depend on them.

    Raises ModelError.
    """
    network, files, device, precision, compiled = engine
    n_tokens = len(network.vocabulary.pieces)
    matmul_flops = _matmul_flops(device, precision, repeats)
    costs = []
    for size_s in sizes_s:
        clips = _make_clips(size_s, device)
        transcribe = partial(network.transcribe, clips, ["auto"] * len(clips), [True] * len(clips))
        wall_s = _wall_s(transcribe, repeats)
        lengths = [N_PROMPT_FRAMES + math.ceil(len(clip) / LFR_STEP) for clip in clips]
        flops = count_flops(files.config["encoder_conf"], n_tokens, lengths) / wall_s
        audio_s = sum(map(len, clips)) / FRAMES_PER_S
        costs.append(
            BatchCost(
                precision=precision,
                attention=network.attention,
                compiled=compiled,
                audio_s=audio_s,
                n_clips=len(clips),
                wall_s=wall_s,
                real_time=audio_s / wall_s,
                gflops=flops / 1e9,
                of_matmul=flops / matmul_flops,
            )
        )
    return costs


def count_flops(conf: Mapping[str, Any], n_tokens: int, lengths: Sequence[int]) -> float:
    """Floating-point operations of one model batch whose clips have these numbers of LFR frames.

    A multiplication with its addition counts as two. Counted are products with weights, attention
    and the convolution of the memory block; padding is not counted.
    """
    d, n_layers = conf["output_size"], conf["num_blocks"] + conf["tp_blocks"]
    d_in = LFR_STACK * N_MELS  # of the first layer
    per_frame = 2 * (
        3 * d * (d_in + (n_layers - 1) * d)
        + n_layers * (d * d + 2 * d * conf["linear_units"] + conf["kernel_size"] * d)
        + d * n_tokens
    )
    return float(sum(per_frame * n + 4 * n_layers * d * n * n for n in lengths))


def show_model(console: Console, report: ModelReport) -> None:
    """Print the machine and a table with one line per cost."""
    console.print(", ".join(f"{key} {value}" for key, value in report.machine.items()))
    table = Table(
        "", "attention", "audio s", "clips", "wall s", "x real time", "GFLOP/s", "of matmul"
    )
    for cost in report.passes:
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
    one_clip = Table("one clip", "seconds", "ms", "SenseVoice's README, ms")
    for one in report.latencies:
        name = f"{one.backend} {one.precision}" + ", compiled" * one.compiled
        figures = (one.clip_s, one.wall_ms, one.published_ms)
        one_clip.add_row(name, *(f"{figure:.0f}" for figure in figures))
    console.print(one_clip)


def _make_clips(audio_s: float, device: str) -> list[Any]:
    import torch

    rng = np.random.default_rng(0)
    clips: list[Any] = []
    n_left = round(audio_s * FRAMES_PER_S)
    while n_left > 0:
        n_frames = min(n_left, int(rng.uniform(_SHORTEST_S, _LONGEST_S) * FRAMES_PER_S))
        features = rng.normal(size=(n_frames, N_MELS)).astype(np.float32)
        clips.append(torch.from_numpy(features).to(device))
        n_left -= n_frames
    return clips


def _matmul_flops(device: str, precision: Any, repeats: int) -> float:
    """Operations per second of a product of large square matrices, with the model's own layer."""
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
    # Reading one number of the result waits for a GPU to finish, as reading the tokens does.
    return 2 * n**3 / _wall_s(lambda: layer(x)[-1, -1].item(), repeats)


def _wall_s(work: Callable[[], object], repeats: int) -> float:
    """Median over repeats, after a warm-up."""
    times_s = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - started)
    return median(times_s[1:])
