"""Hours of audio to hours of machines. Knows measured speeds; opens nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Speeds:
    """Audio seconds per second of one core or one GPU.

    The defaults: one core of an AMD EPYC (AVX-512), 61 s of mostly mp3, two thirds of it speech,
    FSMN-VAD, SenseVoiceSmall in fp32 (README, "How fast it is"); the GPU's is arithmetic, and
    careful: for packs of 60 s. `jobs.benchmark` measures your machine.
    """

    decode: float = 1800.0
    segment: float = 900.0
    label_core: float = 40.0
    label_gpu: float = 5000.0


@dataclass(frozen=True, slots=True)
class MachineHours:
    """Hours of machines for some hours of audio."""

    decode_core_h: float
    segment_core_h: float
    label_core_h: float  # 0 with GPUs
    label_gpu_h: float  # 0 without


def load_speeds(path: Path) -> Speeds:
    """What `jobs.benchmark speed --json` measured, at fp32 if it did; the rest keeps our figures.

    On a GPU (`--device cuda`) all but decoding was its work. Raises ConfigError for a file that is
    no such report.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        results = report["results"]
        measured = [name for name in results if name.startswith("ours ")]
        ours = min(measured, key=lambda name: name != "ours fp32")
        audio_s, cost_s = results[ours]["audio_s"], results[ours]["stages_s"]
        decode = audio_s / cost_s["decode"]
        segment_s = cost_s["features"] + cost_s["vad"]
        label_s = cost_s["model"] + cost_s["labels"]
        if report["device"] != "cpu":
            return Speeds(decode=decode, label_gpu=audio_s / (segment_s + label_s))
        return Speeds(decode=decode, segment=audio_s / segment_s, label_core=audio_s / label_s)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        message = f"{path}: no speeds in it ({error!r}); write it with jobs.benchmark speed --json"
        raise ConfigError(message) from error


def estimate_cost(audio_s: float, speeds: Speeds, *, on_gpu: bool) -> MachineHours:
    """What `audio_s` seconds of audio take at these speeds."""
    hours = audio_s / 3600
    return MachineHours(
        decode_core_h=hours / speeds.decode,
        segment_core_h=hours / speeds.segment,
        label_core_h=0.0 if on_gpu else hours / speeds.label_core,
        label_gpu_h=hours / speeds.label_gpu if on_gpu else 0.0,
    )
