"""What labelling costs here, beside FunASR and sherpa-onnx; the model alone; planning at scale.

python -m jobs.benchmark speed [--model DIR] [--vad DIR] [--audio MANIFEST] [--json PATH]
python -m jobs.benchmark model [--model DIR] [--device cuda] [--batch-s 1200] [--json PATH]
python -m jobs.benchmark planning [--rows 10000000] [--folder DIR] [--json PATH]

For `speed`, every contender runs in a process of its own, after one warm-up, and is measured in CPU
seconds (user and system) of that process, models loaded; with `--device cuda` by the clock.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from pipeline.benchmark import loop as benchmarking
from pipeline.benchmark.contenders import (
    _DEMO,
    _SCALES,
    Result,
    _files,
    _make_audio,
    _run_funasr,
    _run_ours,
    _run_ray,
    _run_scale,
    _run_sherpa,
)
from pipeline.benchmark.model import model as model_alone
from pipeline.benchmark.planning import planning
from pipeline.benchmark.summary import show

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PEERS = ("funasr", "sherpa-onnx")

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__
)
app.command("model")(model_alone)
app.command()(planning)


@app.command()
def speed(
    model: Annotated[str, typer.Option(help="model directory or hub id")] = str(_DEMO / "model"),
    vad: Annotated[str, typer.Option(help="none, silero or an FSMN-VAD directory")] = "silero",
    audio: Annotated[str, typer.Option(help="manifest or directory; none: made here")] = "",
    seconds: Annotated[float, typer.Option(help="of audio to make")] = 300.0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="of the models, VAD too")] = "cpu",
    threads: Annotated[int, typer.Option(help="of each contender")] = 1,
    repeats: Annotated[int, typer.Option(help="measured walks, after a warm-up")] = 3,
    precision: Annotated[list[str] | None, typer.Option(help="of ours; repeatable")] = None,
    batch_s: Annotated[float | None, typer.Option(help="audio per forward pass, s")] = None,
    clips: Annotated[int, typer.Option(help="clips whose text is compared with FunASR's")] = 20,
    peer: Annotated[list[str] | None, typer.Option(help="funasr, sherpa-onnx, none")] = None,
    ray: Annotated[bool, typer.Option(help="run the whole pipeline on Ray too")] = True,
    scale: Annotated[bool, typer.Option(help="ours over 1, 2, 4 and 8 times the audio")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the numbers")] = None,
) -> None:
    """Stages, bare loop, Ray and peers on one corpus."""
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="sensevoice-benchmark-") as name:
        work = Path(name)
        spec: Result = {
            "model": model,
            "vad": vad,
            "files": _files(audio or str(_make_audio(work, seconds))),
            "device": device,
            "clock": "cpu_s" if device == "cpu" else "wall_s",  # a GPU's time is nobody's CPU time
            "threads": threads,
            "repeats": repeats,
            "batch_s": batch_s,
            "clips": clips,
            "work": name,
        }
        precisions = precision or (["fp32", "int8"] if device == "cpu" else ["fp32", "bf16"])
        spec["exact"] = precisions[0]
        names = [f"ours {one}" for one in precisions]
        names += [one for one in _PEERS if one in (peer or _PEERS)] + ["ray"] * ray
        names += [f"scale {factor}" for factor in _SCALES] * scale
        results = {}
        for one in names:
            console.print(f"{one} ...", style="dim")
            results[one] = _in_own_process(one, spec)
        report = {"machine": benchmarking.machine(threads), **spec, "results": results}
    show(console, report)
    if json_path:
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@app.command(hidden=True)
def worker(name: str, spec_file: Path) -> None:
    """One contender; its result goes to a file beside the spec."""
    import torch

    spec = json.loads(spec_file.read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    kind, _, argument = name.partition(" ")
    contenders: dict[str, Callable[[Result, str], Result]] = {
        "ours": _run_ours,
        "funasr": _run_funasr,
        "sherpa-onnx": _run_sherpa,
        "ray": _run_ray,
        "scale": _run_scale,
    }
    result = contenders[kind](spec, argument)
    spec_file.with_suffix(".result").write_text(json.dumps(result), encoding="utf-8")


def _in_own_process(name: str, spec: Result) -> Result:
    spec_file = Path(spec["work"]) / f"{name.replace(' ', '_')}.json"
    spec_file.write_text(json.dumps(spec), encoding="utf-8")
    threads = dict.fromkeys(_THREAD_VARIABLES, str(spec["threads"]))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.benchmark", "worker", name, str(spec_file)],
        env=os.environ | threads,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"error": done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}"}
    result: Result = json.loads(spec_file.with_suffix(".result").read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    app()
