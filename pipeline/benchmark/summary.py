"""What `jobs.benchmark speed` has measured, as tables and sentences."""

from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.benchmark.loop import STAGES

Result = dict[str, Any]

_GPU_CORES = 16  # that a GPU commonly has beside it
_ON_GPU = ("features", "vad", "model")  # with ray.segment_with_model


def show(console: Console, report: Mapping[str, Any]) -> None:
    """All of it. Exits with 1 when ours has failed: there is nothing to hold the others against."""
    clock = report["clock"]
    console.print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    for name, result in report["results"].items():
        if "error" in result:
            console.print(f"{name}: {result['error']}", markup=False, soft_wrap=True)
    results = {name: r for name, r in report["results"].items() if "error" not in r}
    ours: Result = next((r for name, r in results.items() if name.startswith("ours")), {})
    if not ours:
        raise typer.Exit(1)
    funasr = results.get("funasr", {})
    if funasr:
        funasr["audio_s"] = ours["audio_s"]  # the recordings', whatever VAD made of them
    _show_costs(console, results, clock)
    _show_stages(console, results, clock)
    _show_peers(console, results, ours, clock)
    if clock == "cpu_s":
        _show_feed(console, ours)


def _show_costs(console: Console, results: Mapping[str, Result], clock: str) -> None:
    speed = {"cpu_s": "x/core", "wall_s": "x real time"}[clock]
    table = Table("", "audio s", "CPU s", "wall s", speed, "h per 1000 h", "peak MB", "/FunASR")
    base = results.get("funasr", {})
    for name, result in results.items():
        if name == "sherpa-onnx":
            continue
        speed_x = result["audio_s"] / result[clock]
        table.add_row(
            name,
            f"{result['audio_s']:.0f}",
            f"{result['cpu_s']:.2f}",
            f"{result['wall_s']:.2f}",
            f"{speed_x:,.1f}",
            f"{1000 / speed_x:.3g}",
            f"{result['peak_bytes'] / 1e6:.0f}",
            f"{speed_x * base[clock] / base['audio_s']:.2f}" if base else "",
        )
    console.print(table)


def _show_stages(console: Console, results: Mapping[str, Result], clock: str) -> None:
    table = Table("share", *STAGES, "in segments", "attention fill")
    for name, result in results.items():
        if "stages_s" in result:
            shares = (result["stages_s"][stage] / result[clock] for stage in STAGES)
            table.add_row(
                name,
                *(f"{share:.1%}" for share in shares),
                f"{result['segment_s'] / result['audio_s']:.0%} ({result['n_segments']})",
                f"{result['attention_fill']:.0%}",
            )
    console.print(table)


def _show_peers(console: Console, results: Mapping[str, Result], ours: Result, clock: str) -> None:
    sherpa, funasr = results.get("sherpa-onnx", {}), results.get("funasr", {})
    if sherpa:  # no decoding and no VAD in it: to be held against our model alone
        console.print(
            f"of the same segments, x/core: sherpa-onnx {sherpa['audio_s'] / sherpa['cpu_s']:.1f}, "
            f"our model {ours['segment_s'] / ours['stages_s']['model']:.1f} (features apart)"
        )
    if "ray" in results:
        with_ray = results["ray"]
        per_s = ours["audio_s"] / with_ray["audio_s"]
        more = (
            with_ray["least"][kind] * per_s / ours["least"][kind] - 1 for kind in with_ray["least"]
        )
        console.print("With Ray, to the bare loop: CPU {:+.1%}, wall {:+.1%}".format(*more))
    if funasr:
        console.print(
            f"{funasr['n_equal']} of {funasr['n_compared']} clips have FunASR's text to the letter"
        )


def _show_feed(console: Console, ours: Result) -> None:
    """What the CPUs beside a GPU could keep up with, were all their time in these stages."""
    stages_s = ours["stages_s"]
    both = sum(cost_s for stage, cost_s in stages_s.items() if stage != "model")
    least = sum(cost_s for stage, cost_s in stages_s.items() if stage not in _ON_GPU)
    console.print(
        f"Beside a GPU, {_GPU_CORES} cores like this one would feed it "
        f"{_GPU_CORES * ours['audio_s'] / both:,.0f} x real time, with features and VAD on it "
        f"(ray.segment_with_model) {_GPU_CORES * ours['audio_s'] / least:,.0f} x",
        soft_wrap=True,
    )
