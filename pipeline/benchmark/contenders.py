"""The contenders of `jobs benchmark speed`: ours, Ray, FunASR and sherpa-onnx on one corpus.

Each runs in a process of its own, after one warm-up, with its models loaded before the measurement:
`python -m pipeline.benchmark.contenders NAME SETTINGS_FILE`.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline.benchmark.loop import STAGES, Cost, Loop, LoopResult
from pipeline.benchmark.machine import describe_machine
from pipeline.benchmark.process_tree import peak_bytes, watch_tree
from pipeline.config import RunConfig
from pipeline.planning.speed_report import (
    OURS,
    Failure,
    FunAsrSpeed,
    Least,
    LoopSpeed,
    Speed,
    SpeedReport,
    SpeedResult,
    SpeedSettings,
    StageSeconds,
    read_result,
    read_settings,
)
from pipeline.runs.execute import execute
from pipeline.schema import SAMPLE_RATE

PEERS = ("funasr", "sherpa-onnx")
ONNX_RUNTIME = "onnxruntime"  # our own stages with label.backend=onnxruntime
_SCALES = (1, 2, 4, 8)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def list_contenders(
    precisions: Iterable[str], peers: Iterable[str], *, ray: bool, scale: bool
) -> list[str]:
    """Names of the contenders, in the order in which they run: peers need the clips of ours."""
    precisions, peers = list(precisions), set(peers)
    return [
        *(f"{OURS}{precision}" for precision in precisions),
        *(
            f"{ONNX_RUNTIME} {precision}"
            for precision in precisions
            if ONNX_RUNTIME in peers and precision != "bf16"
        ),
        *(peer for peer in PEERS if peer in peers),
        *(["ray"] if ray else []),
        *(f"scale {factor}" for factor in _SCALES if scale),
    ]


def measure_speed(
    settings: SpeedSettings, contenders: Iterable[str], on_start: Callable[[str], None]
) -> SpeedReport:
    """Run the contenders one after the other; a failed one has a Failure as its result."""
    results: dict[str, SpeedResult] = {}
    for name in contenders:
        on_start(name)
        results[name] = _run_in_child(name, settings)
    report = SpeedReport(describe_machine(settings.threads), settings, results)
    funasr = results.get("funasr")
    if isinstance(funasr, Speed) and report.ours:  # FunASR does not return durations
        ours = next(iter(report.ours.values()))
        results["funasr"] = replace(funasr, audio_s=ours.audio_s)
    return report


def _run_in_child(name: str, settings: SpeedSettings) -> SpeedResult:
    file = Path(settings.work) / f"{name.replace(' ', '_')}.json"
    file.write_text(json.dumps(asdict(settings)), encoding="utf-8")
    threads = dict.fromkeys(_THREAD_VARIABLES, str(settings.threads))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.benchmark.contenders", name, str(file)],
        env=os.environ | threads,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return Failure(done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}")
    return read_result(json.loads(_result_file(file).read_text(encoding="utf-8")), name)


def _result_file(settings_file: Path) -> Path:
    return settings_file.with_suffix(".result")


def main(name: str, settings_file: Path) -> None:
    """Run one contender in this process; write its result next to the settings file."""
    import torch

    settings = read_settings(json.loads(settings_file.read_text(encoding="utf-8")))
    torch.set_num_threads(settings.threads)
    kind, _, argument = name.partition(" ")
    contenders: dict[str, Callable[[], Speed]] = {
        "ours": lambda: _run_ours(settings, argument),
        ONNX_RUNTIME: lambda: _run_onnx_runtime(settings, argument),
        "funasr": lambda: _run_funasr(settings),
        "sherpa-onnx": lambda: _run_sherpa(settings),
        "ray": lambda: _run_ray(settings),
        "scale": lambda: _run_scale(settings, int(argument)),
    }
    result = json.dumps(asdict(contenders[kind]()))
    _result_file(settings_file).write_text(result, encoding="utf-8")


def make_config(
    settings: SpeedSettings, precision: str, files: Sequence[str], name: str
) -> RunConfig:
    """A run over these files. A repeated file starts 10 ms later, so that it is no duplicate."""
    on_gpu = settings.device != "cpu"
    n_seen: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for index, file in enumerate(files):
        offset_s = round(n_seen[file] * 0.01, 2)
        rows.append({"audio": file, "recording_id": f"{index:06d}", "offset_s": offset_s})
        n_seen[file] += 1
    manifest = Path(settings.work) / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return RunConfig.model_validate(
        {
            "manifest": str(manifest),
            "allowed_roots": sorted({file.rpartition("/")[0] for file in files}),
            "output": f"{settings.work}/tables-{name}",
            "model": settings.model,
            "vad": settings.vad,
            "label": {
                "precision": precision,
                "device": settings.device,
                "batch_s": settings.batch_s,
            },
            "ray": {
                "label_cpus": 0 if on_gpu else settings.threads,
                "num_gpus": int(on_gpu),
                "segment_with_model": on_gpu,
            },
        }
    )


def summarise_loops(settings: SpeedSettings, loops: Sequence[LoopResult]) -> LoopSpeed:
    """Medians over repeats of the loop on the same audio."""
    last = loops[-1]
    stages_s = {
        stage: median([getattr(loop.stages[stage], settings.clock) for loop in loops])
        for stage in STAGES
    }
    return LoopSpeed(
        **_medians([loop.total for loop in loops]),
        audio_s=last.audio_s,
        peak_bytes=peak_bytes(),
        stages_s=StageSeconds(**stages_s),
        segment_s=last.segment_s,
        n_segments=last.n_segments,
        attention_fill=last.attention_fill,
    )


def _medians(costs: Sequence[Cost]) -> dict[str, Any]:
    return {
        "cpu_s": median([cost.cpu_s for cost in costs]),
        "wall_s": median([cost.wall_s for cost in costs]),
        "least": Least(
            cpu_s=min(cost.cpu_s for cost in costs), wall_s=min(cost.wall_s for cost in costs)
        ),
    }


def _run_ours(settings: SpeedSettings, precision: str) -> LoopSpeed:
    loop = Loop(make_config(settings, precision, settings.files, precision))
    n_clips = settings.clips if precision == settings.exact else 0
    warm_up = loop.run(n_clips)
    if n_clips:
        clips, texts = _clip_files(settings)
        np.savez(clips, *(clip.waveform for clip in warm_up.kept_clips))
        rich_texts = [clip.rich_text for clip in warm_up.kept_clips]
        texts.write_text(json.dumps(rich_texts), encoding="utf-8")
    return summarise_loops(settings, [loop.run() for _ in range(settings.repeats)])


def _run_onnx_runtime(settings: SpeedSettings, precision: str) -> LoopSpeed:
    if find_spec("onnxruntime") is None:
        raise SystemExit("onnxruntime is not installed: uv sync --extra convert")
    config = make_config(settings, precision, settings.files, f"onnx-{precision}")
    label = config.label.model_copy(update={"backend": ONNX_RUNTIME})
    loop = Loop(config.model_copy(update={"label": label}))
    loop.run()
    return summarise_loops(settings, [loop.run() for _ in range(settings.repeats)])


def _run_scale(settings: SpeedSettings, factor: int) -> LoopSpeed:
    precision = settings.exact
    Loop(make_config(settings, precision, settings.files[:1], f"warm-{factor}")).run()
    config = make_config(settings, precision, settings.files * factor, f"times-{factor}")
    return summarise_loops(settings, [Loop(config).run()])


def _run_funasr(settings: SpeedSettings) -> FunAsrSpeed:
    from pipeline.benchmark.peers import FunAsr

    vad = "" if settings.vad in ("none", "silero") else settings.vad
    peer = FunAsr(settings.model, vad, settings.device, settings.threads)
    peer.run(settings.files[:1])
    costs = [peer.run(settings.files) for _ in range(settings.repeats)]
    peak = peak_bytes()  # before a second model is loaded for the texts
    theirs = peer.texts(_read_clips(settings))
    ours = json.loads(_clip_files(settings)[1].read_text(encoding="utf-8"))
    return FunAsrSpeed(
        **_medians(costs),
        audio_s=0.0,  # see measure_speed
        peak_bytes=peak,
        n_compared=len(theirs),
        n_equal=sum(a == b for a, b in zip(ours, theirs, strict=True)),
        vad=vad,
    )


def _run_sherpa(settings: SpeedSettings) -> Speed:
    missing = [name for name in ("sherpa_onnx", "onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)} not installed: uv sync --extra bench")
    from pipeline.benchmark.peers import SherpaOnnx
    from pipeline.convert.package import NAMES, convert
    from pipeline.models.files import resolve_model

    clips = _read_clips(settings)
    target = Path(settings.work) / "converted"
    convert(resolve_model(settings.model), target, ["onnx"], clips[:1])
    peer = SherpaOnnx(target / NAMES["onnx"], settings.threads)
    peer.run(clips[:1])
    return Speed(
        **_medians([peer.run(clips) for _ in range(settings.repeats)]),
        audio_s=sum(map(len, clips)) / SAMPLE_RATE,
        peak_bytes=peak_bytes(),
    )


def _run_ray(settings: SpeedSettings) -> Speed:
    """Cost of three times the corpus minus cost of one: without the start of Ray and workers.

    Of each the lowest of several runs. Other load on the machine only adds to a run, and in a
    difference of two whole runs it would be a large error.
    """
    once, once_audio_s, _ = _least_of_ray(settings, 1)
    thrice, thrice_audio_s, peak = _least_of_ray(settings, 3)
    return Speed(
        **_medians([thrice - once]), audio_s=thrice_audio_s - once_audio_s, peak_bytes=peak
    )


def _least_of_ray(settings: SpeedSettings, factor: int) -> tuple[Cost, float, int]:
    """Lowest cost, audio seconds and peak bytes of runs over `factor` times the corpus."""
    files = settings.files * factor
    runs = [
        measure_ray(make_config(settings, settings.exact, files, f"ray-{factor}-{index}"))
        for index in range(settings.repeats)
    ]
    costs, audio_s, peaks = zip(*runs, strict=True)
    least = Cost(min(cost.cpu_s for cost in costs), min(cost.wall_s for cost in costs))
    return least, audio_s[0], max(peaks)


def measure_ray(config: RunConfig) -> tuple[Cost, float, int]:
    """One run of the whole pipeline, the start of Ray included: cost, audio seconds, peak bytes."""
    started = time.perf_counter()
    with watch_tree(every_s=1.0) as tree:
        outcome = execute(config, lambda progress: None)
    cost = Cost(tree.cpu_s(), time.perf_counter() - started)
    return cost, outcome.progress.audio_s, tree.peak_bytes


def _clip_files(settings: SpeedSettings) -> tuple[Path, Path]:
    """Where ours keeps clips, and its texts of them, for the peers."""
    return Path(settings.work) / "clips.npz", Path(settings.work) / "texts.json"


def _read_clips(settings: SpeedSettings) -> list[np.ndarray]:
    with np.load(_clip_files(settings)[0]) as clips:
        return [clips[name] for name in clips.files]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
