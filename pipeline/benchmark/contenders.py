"""What `benchmark speed` measures: ours, Ray, FunASR and sherpa-onnx on one corpus."""

import json
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline.benchmark import loop as benchmarking
from pipeline.benchmark.loop import STAGES, Cost, Loop, LoopResult
from pipeline.config import RunConfig
from pipeline.manifest.read import read_manifest

_DEMO = Path(__file__).parents[1] / "configs" / "demo"


_SCALES = (1, 2, 4, 8)


_CLOCKS = ("cpu_s", "wall_s")


Result = dict[str, Any]


def _make_audio(work: Path, seconds: float) -> Path:
    lines = (_DEMO / "audio" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    clips = [_DEMO / "audio" / row["audio"] for row in rows if "ref_text" in row]
    directory = work / "audio"
    directory.mkdir()
    return benchmarking.synthesise(directory, clips, seconds)


def _files(manifest: str) -> list[str]:
    return [uri for uri in read_manifest(manifest, {}).table["uri"].to_pylist() if uri]


def _config(spec: Result, precision: str, files: Sequence[str], name: str) -> RunConfig:
    """A run over these files; one that comes again starts 10 ms later, to be no duplicate."""
    on_gpu = spec["device"] != "cpu"
    seen: Counter[str] = Counter()
    rows: list[Result] = []
    for index, file in enumerate(files):
        offset_s = round(seen[file] * 0.01, 2)
        rows.append({"audio": file, "recording_id": f"{index:06d}", "offset_s": offset_s})
        seen[file] += 1
    manifest = Path(spec["work"]) / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return RunConfig.model_validate(
        {
            "manifest": str(manifest),
            "allowed_roots": sorted({file.rpartition("/")[0] for file in files}),
            "output": f"{spec['work']}/tables-{name}",
            "model": spec["model"],
            "vad": spec["vad"],
            "label": {
                "precision": precision,
                "device": spec["device"],
                "batch_s": spec["batch_s"],
            },
            "ray": {
                "label_cpus": 0 if on_gpu else spec["threads"],
                "num_gpus": int(on_gpu),
                "segment_with_model": on_gpu,
            },
        }
    )


def _run_ours(spec: Result, precision: str) -> Result:
    loop = Loop(_config(spec, precision, spec["files"], precision))
    n_clips = spec["clips"] if precision == spec["exact"] else 0
    warm = loop.walk(n_heard=n_clips)
    if n_clips:
        work = Path(spec["work"])
        np.savez(work / "clips.npz", *(heard.waveform for heard in warm.heard))
        texts = [heard.rich_text for heard in warm.heard]
        (work / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return _summary(spec, [loop.walk() for _ in range(spec["repeats"])])


def _summary(spec: Result, walks: Sequence[LoopResult]) -> Result:
    last = walks[-1]
    return {
        **_costs([walk.total for walk in walks], last.audio_s),
        "stages_s": {
            stage: median([getattr(walk.stages[stage], spec["clock"]) for walk in walks])
            for stage in STAGES
        },
        "segment_s": last.segment_s,
        "n_segments": last.n_segments,
        "attention_fill": last.attention_fill,
    }


def _costs(costs: Sequence[Cost], audio_s: float) -> Result:
    return {
        "audio_s": audio_s,
        "cpu_s": median([cost.cpu_s for cost in costs]),
        "wall_s": median([cost.wall_s for cost in costs]),
        "least": {clock: min(getattr(cost, clock) for cost in costs) for clock in _CLOCKS},
        "peak_bytes": benchmarking.peak_bytes(),
    }


def _run_funasr(spec: Result, unused: str) -> Result:
    from pipeline.benchmark.peers import FunAsr

    files = spec["files"]
    vad = "" if spec["vad"] in ("none", "silero") else spec["vad"]
    peer = FunAsr(spec["model"], vad, spec["device"], spec["threads"])
    peer.walk(files[:1])
    result = _costs([peer.walk(files) for _ in range(spec["repeats"])], 0.0)
    theirs = peer.texts(_clips(spec))
    ours = json.loads((Path(spec["work"]) / "texts.json").read_text(encoding="utf-8"))
    n_equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return result | {"n_compared": len(theirs), "n_equal": n_equal, "vad": vad}


def _clips(spec: Result) -> list[np.ndarray]:
    with np.load(Path(spec["work"]) / "clips.npz") as clips:
        return [clips[name] for name in clips.files]


def _run_sherpa(spec: Result, unused: str) -> Result:
    missing = [name for name in ("sherpa_onnx", "onnx") if find_spec(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)} not installed: uv sync --extra bench")
    from pipeline.benchmark.peers import SherpaOnnx, export_for_sherpa

    peer = SherpaOnnx(export_for_sherpa(spec["model"], Path(spec["work"])), spec["threads"])
    clips = _clips(spec)
    peer.walk(clips[:1])
    audio_s = sum(map(len, clips)) / 16_000
    return _costs([peer.walk(clips) for _ in range(spec["repeats"])], audio_s)


def _run_ray(spec: Result, unused: str) -> Result:
    """What more audio costs: the corpus three times less once, so that all starting cancels out.

    The least of several runs each: what else a machine does only adds, and to a difference of two
    whole runs it adds much.
    """
    least, audio_s, peak_bytes = [], [], 0
    for factor in (1, 3):
        runs = [
            benchmarking.measure_ray(
                _config(spec, spec["exact"], spec["files"] * factor, f"ray-{factor}-{index}")
            )
            for index in range(spec["repeats"])
        ]
        costs = [cost for cost, _, _ in runs]
        cpu_s, wall_s = min(one.cpu_s for one in costs), min(one.wall_s for one in costs)
        least.append(Cost(cpu_s, wall_s))
        audio_s.append(runs[0][1])
        peak_bytes = max(peak for _, _, peak in runs)
    return _costs([least[1] - least[0]], audio_s[1] - audio_s[0]) | {"peak_bytes": peak_bytes}


def _run_scale(spec: Result, factor: str) -> Result:
    exact = spec["exact"]
    Loop(_config(spec, exact, spec["files"][:1], f"warm-{factor}")).walk()
    files = spec["files"] * int(factor)
    return _summary(spec, [Loop(_config(spec, exact, files, f"times-{factor}")).walk()])
