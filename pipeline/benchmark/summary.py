"""The results of `jobs benchmark speed` on a terminal, as tables and sentences."""

from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from pipeline.benchmark.loop import STAGES
from pipeline.planning.speed_report import (
    Failure,
    FunAsrSpeed,
    LoopSpeed,
    Speed,
    SpeedReport,
)

_CORES_PER_GPU = 16  # CPU cores that machines commonly have for each GPU
_ON_GPU = ("features", "vad", "model")  # with ray.segment_with_model


def show_speed(console: Console, report: SpeedReport) -> None:
    """Print the failures and, if a loop of ours succeeded, all speeds."""
    console.print(", ".join(f"{key} {value}" for key, value in report.machine.items()))
    speeds = {}
    for name, result in report.results.items():
        if isinstance(result, Failure):
            console.print(f"{name}: {result.error}", markup=False, soft_wrap=True)
        else:
            speeds[name] = result
    if not report.ours:
        return
    ours, clock = next(iter(report.ours.values())), report.settings.clock
    _show_costs(console, speeds, clock)
    _show_stages(console, speeds, clock)
    _show_peers(console, speeds, ours)
    if clock == "cpu_s":
        _show_cores_for_gpu(console, ours)


def _show_costs(console: Console, speeds: Mapping[str, Speed], clock: str) -> None:
    unit = {"cpu_s": "x/core", "wall_s": "x real time"}[clock]
    table = Table("", "audio s", "CPU s", "wall s", unit, "h per 1000 h", "peak MB", "/FunASR")
    funasr = speeds.get("funasr")
    for name, speed in speeds.items():
        if name == "sherpa-onnx":  # it takes segments, the others whole recordings
            continue
        real_time = _real_time(speed, clock)
        table.add_row(
            name,
            f"{speed.audio_s:.0f}",
            f"{speed.cpu_s:.2f}",
            f"{speed.wall_s:.2f}",
            f"{real_time:,.1f}",
            f"{1000 / real_time:.3g}",
            f"{speed.peak_bytes / 1e6:.0f}",
            f"{real_time / _real_time(funasr, clock):.2f}" if funasr else "",
        )
    console.print(table)


def _real_time(speed: Speed, clock: str) -> float:
    return speed.audio_s / float(getattr(speed, clock))


def _show_stages(console: Console, speeds: Mapping[str, Speed], clock: str) -> None:
    table = Table("share", *STAGES, "in segments", "attention fill")
    for name, speed in speeds.items():
        if isinstance(speed, LoopSpeed):
            total_s = getattr(speed, clock)
            table.add_row(
                name,
                *(f"{stage_s / total_s:.1%}" for stage_s in asdict(speed.stages_s).values()),
                f"{speed.segment_s / speed.audio_s:.0%} ({speed.n_segments})",
                f"{speed.attention_fill:.0%}",
            )
    console.print(table)


def _show_peers(console: Console, speeds: Mapping[str, Speed], ours: LoopSpeed) -> None:
    sherpa, ray, funasr = (speeds.get(name) for name in ("sherpa-onnx", "ray", "funasr"))
    if sherpa:  # it neither decodes files nor finds segments, so only our model is comparable
        console.print(
            f"On the same segments, x/core: sherpa-onnx {sherpa.audio_s / sherpa.cpu_s:.1f}, "
            f"our model without features {ours.segment_s / ours.stages_s.model:.1f}"
        )
    if ray:
        ours_per_ray = ours.audio_s / ray.audio_s
        cpu = ray.least.cpu_s * ours_per_ray / ours.least.cpu_s - 1
        wall = ray.least.wall_s * ours_per_ray / ours.least.wall_s - 1
        console.print(f"Ray compared with the loop without Ray: CPU {cpu:+.1%}, wall {wall:+.1%}")
    if isinstance(funasr, FunAsrSpeed):
        console.print(f"Text equal to FunASR's: {funasr.n_equal} of {funasr.n_compared} clips")


def _show_cores_for_gpu(console: Console, ours: LoopSpeed) -> None:
    """How much audio the CPU cores of a machine with a GPU can prepare, if they do nothing else."""
    stages_s = asdict(ours.stages_s)
    without_model_s = sum(cost_s for stage, cost_s in stages_s.items() if stage != "model")
    rest_s = sum(cost_s for stage, cost_s in stages_s.items() if stage not in _ON_GPU)
    audio_s = _CORES_PER_GPU * ours.audio_s
    console.print(
        f"{_CORES_PER_GPU} CPU cores like this one can supply a GPU with audio at "
        f"{audio_s / without_model_s:,.0f} x real time, or at {audio_s / rest_s:,.0f} x with "
        f"ray.segment_with_model (features and VAD on the GPU)",
        soft_wrap=True,
    )
