"""What labelling costs: a bare loop of the stages under a stopwatch, and Ray beside it.

Costs are CPU seconds (user and system), which a busy machine changes little, and wall seconds.
Knows how to measure; nothing of tables on a screen, nor of other people's software.
"""

import json
import os
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import soundfile

from pipeline.audio.windows import decode
from pipeline.benchmark.process_tree import watch_tree
from pipeline.config import AudioConfig, RunConfig
from pipeline.runs import execute as run
from pipeline.schema import SAMPLE_RATE
from pipeline.stages.decode import decode_recordings
from pipeline.stages.label import LabelSegments
from pipeline.stages.segment import FindSegments
from pipeline.stages.write import write_rows

if TYPE_CHECKING:
    from pipeline.models.sensevoice.decoding import ClipOutput
    from pipeline.models.sensevoice.model import Clip, Transcriber
    from pipeline.models.vad.load import Vad

STAGES = ("decode", "features", "vad", "model", "labels", "write")


@dataclass(slots=True)
class Cost:
    """Of some work, or of a stage of it."""

    cpu_s: float = 0.0
    wall_s: float = 0.0

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu_s - other.cpu_s, self.wall_s - other.wall_s)


@dataclass(slots=True)
class Stopwatch:
    """Adds up what each stage costs."""

    costs: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            cost = self.costs[stage]
            cost.cpu_s += time.process_time() - cpu_s
            cost.wall_s += time.perf_counter() - wall_s


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip, kept for a comparison with somebody else's text."""

    waveform: np.ndarray  # int16 (n_samples,)
    rich_text: str


@dataclass(frozen=True, slots=True)
class LoopResult:
    """One walk over a corpus, without Ray, in this process."""

    total: Cost
    stages: dict[str, Cost]  # by STAGES
    audio_s: float
    segment_s: float
    n_segments: int
    attention_fill: float  # share of true frames, were each pack one grid for attention
    heard: list[Heard]


class _TimedVad:
    """A VAD whose own time is taken out of FindSegments': what stays is features and merging."""

    def __init__(self, vad: "Vad", stopwatch: Stopwatch) -> None:
        self._vad, self._stopwatch = vad, stopwatch

    def find_speech(self, waveforms: Sequence[np.ndarray], log_mels: Sequence[Any]) -> Any:
        with self._stopwatch("vad"):
            return self._vad.find_speech(waveforms, log_mels)


class _TimedModel:
    """A model whose own time is taken out of LabelSegments': what stays is building labels."""

    def __init__(self, model: "Transcriber", stopwatch: Stopwatch) -> None:
        self.vocabulary = model.vocabulary
        self._model, self._stopwatch = model, stopwatch
        self.n_frames = self.n_grid_frames = 0

    def transcribe(
        self, clips: "Sequence[Clip]", languages: Sequence[str], use_itn: bool
    ) -> "list[ClipOutput]":
        lengths = [len(clip) for clip in clips]
        self.n_frames += sum(lengths)
        self.n_grid_frames += len(clips) * max(lengths)
        with self._stopwatch("model"):
            return self._model.transcribe(clips, languages, use_itn)


class Loop:
    """The corridor of `flow` as a plain loop; models are loaded once, outside the stopwatch."""

    def __init__(self, config: RunConfig) -> None:
        from pipeline.models.files import resolve_vad
        from pipeline.models.sensevoice.model import load_sensevoice
        from pipeline.models.vad.load import load_vad

        self._config = config
        self._device = config.label.device if config.ray.segment_with_model else "cpu"
        self._vad = load_vad(resolve_vad(config)[0], config.segment, self._device)
        self._model = load_sensevoice(config)
        _, self._run = run.prepare(config)
        self._todo = run.plan_run(config, self._run).todo

    def walk(self, n_heard: int = 0) -> LoopResult:
        """Everything from bytes to bundles; `n_heard` clips are kept with their text."""
        config, stopwatch = self._config, Stopwatch()
        model = _TimedModel(self._model, stopwatch)
        find = FindSegments(lambda: _TimedVad(self._vad, stopwatch), config.segment, self._device)
        label = LabelSegments(lambda: model, config.label)
        store = partial(
            write_rows, root=config.output, options=config.storage_options, run=self._run
        )
        heard: list[Heard] = []
        audio_s = segment_s = 0.0
        n_segments = 0
        with stopwatch("total"):
            for windows in self._batches(stopwatch):
                labelled = self._hear(windows, find, label, stopwatch)
                with stopwatch("write"):
                    store(labelled)
                audio_s += float(np.sum(labelled["duration_s"]))
                segment_s += float(np.sum(labelled["labelled_s"]))
                n_segments += sum(map(len, labelled["segments"]))
                heard += _keep(windows, labelled, n_heard - len(heard))
        costs = stopwatch.costs
        costs["features"] -= costs["vad"]
        costs["labels"] -= costs["model"]
        return LoopResult(
            total=costs.pop("total"),
            stages={stage: costs[stage] for stage in STAGES},
            audio_s=audio_s,
            segment_s=segment_s,
            n_segments=n_segments,
            attention_fill=model.n_frames / max(1, model.n_grid_frames),
            heard=heard,
        )

    def _hear(
        self, windows: pa.Table, find: FindSegments, label: LabelSegments, stopwatch: Stopwatch
    ) -> pa.Table:
        """In two workers of one process; or as FindAndLabelSegments does, in one."""
        if not self._config.ray.segment_with_model:
            with stopwatch("features"):
                segmented = pa.concat_tables(find(windows))
            with stopwatch("labels"):
                return label(segmented)
        with stopwatch("features"):
            found = find.find(windows)
        with stopwatch("labels"):
            clips = [clip for _, clips_of_row in found for clip in clips_of_row]
            return label.label([row for row, _ in found], clips)

    def _batches(self, stopwatch: Stopwatch) -> Iterator[pa.Table]:
        """Decoded windows, as many at a time as the flow hands to the model."""
        decoded = decode_recordings(
            self._todo,
            config=self._config.audio,
            options=self._config.storage_options,
            run_id=self._run.run_id,
        )
        held: list[pa.Table] = []
        while True:
            with stopwatch("decode"):
                window = next(decoded, None)
            held += [window] if window is not None else []
            held_s = sum(float(one["duration_s"][0].as_py()) for one in held)
            if held and (window is None or held_s >= self._config.ray.batch_audio_s):
                yield pa.concat_tables(held)
                held = []
            if window is None:
                return


def _keep(windows: pa.Table, labelled: pa.Table, n_most: int) -> list[Heard]:
    heard: list[Heard] = []
    if n_most <= 0:
        return heard
    for waveform, segments, start_s in zip(
        windows["waveform"].to_pylist(),
        labelled["segments"].to_pylist(),
        labelled["window_start_s"].to_pylist(),
        strict=True,
    ):
        samples = np.frombuffer(waveform, np.int16)
        for segment in segments:
            first, last = (
                round((segment[key] - start_s) * SAMPLE_RATE) for key in ("start_s", "end_s")
            )
            heard.append(Heard(samples[first:last], segment["rich_text"]))
    return heard[:n_most]


def measure_ray(config: RunConfig) -> tuple[Cost, float, int]:
    """One run of the whole pipeline, Ray's start included: cost, audio seconds, peak bytes."""
    wall_s = time.perf_counter()
    with watch_tree(every_s=1.0) as tree:  # each look costs the driver some 10 ms
        outcome = run.execute(config, lambda progress: None)
    cost = Cost(tree.cpu_s(), time.perf_counter() - wall_s)
    return cost, outcome.progress.audio_s, tree.peak_bytes


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synthesise(directory: Path, clips: Sequence[Path], seconds: float, seed: int = 0) -> Path:
    """A corpus of 60 s MP3 files, from spoken clips with pauses of 0.3 to 2 s; its manifest."""
    rng = np.random.default_rng(seed)
    spoken = [_waveform(path) for path in clips]
    lines = []
    for index in range(max(1, round(seconds / 60))):
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < 60 * SAMPLE_RATE:
            parts.append(spoken[int(rng.integers(len(spoken)))])
            parts.append(np.zeros(int(rng.uniform(0.3, 2.0) * SAMPLE_RATE), np.int16))
        name = f"{index:05d}.mp3"
        soundfile.write(directory / name, np.concatenate(parts), SAMPLE_RATE, format="MP3")
        lines.append(json.dumps({"audio": name, "recording_id": name}))
    manifest = directory / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def _waveform(path: Path) -> np.ndarray:
    return np.concatenate([window.waveform for window in decode(str(path), AudioConfig(), {})])


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 1),
        "threads": threads,
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
