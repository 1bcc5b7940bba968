"""Suggest a configuration for a corpus on a machine. Decides; reads and writes nothing.

The rules are those of configs/README.md and pipeline/benchmark/README.md.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.planning.costs import Speeds
from pipeline.planning.machine import Machine
from pipeline.planning.survey import Survey

_MODEL = "iic/SenseVoiceSmall"
# Memory of a SenseVoice worker on a CPU: 0.9 GB of weights, torch, and model batches of 60 s.
_WORKER_BYTES = 3 << 30
_SHORT_S = 30.0  # segment.max_segment_s: a recording that goes to the model whole
_BUSY = 4  # row batches for each worker, at least, so that none waits at the end
_MIN_BATCH_S, _BATCH_S = 20.0, 600.0
# One worker kept an H100 a third busy, four with four cores each labelled 1.4 times as fast.
_MOST_SHARING, _CORES_SHARING = 4, 4


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a configuration and why it has this value. `only_shown`: written as a comment."""

    key: str
    value: Any
    reason: str
    only_shown: bool = False


def suggest(
    manifest: str, output: str, machine: Machine, survey: Survey, options: Mapping[str, Any]
) -> list[Setting]:
    """The keys that matter for this corpus on this machine."""
    settings = [
        Setting("manifest", manifest, "a manifest file, a glob, or a directory of audio"),
        Setting("output", output, "where the tables go: a directory or an s3:// URI"),
    ]
    if options:
        settings.append(Setting("storage_options", dict(options), "of the store; no secrets here"))
    return [
        *settings,
        Setting("model", _MODEL, "hub id (1 GB, fetched once), directory or URI"),
        Setting("hub", "ms", "ModelScope; hf: Hugging Face"),
        _vad(survey),
        *_label(machine),
        *(_on_gpus(machine) if machine.n_gpus else _on_cores(machine, survey)),
    ]


def _vad(survey: Survey) -> Setting:
    if 0 < survey.longest_s <= _SHORT_S:
        reason = (
            f"finds speech; no recording of the sample is longer than {survey.longest_s:.0f} s, so "
            "none would give each to the model whole, with the sounds outside speech"
        )
    else:
        reason = "finds speech in long recordings; silero needs no download; none: no VAD"
    return Setting("vad", "fsmn-vad", reason)


def _label(machine: Machine) -> Iterator[Setting]:
    languages = "zh, en, yue, ja or ko, if all recordings are in one language"
    yield Setting("label.language", "auto", languages)
    yield Setting("label.use_itn", True, "digits and punctuation; false: words as spoken")
    if not machine.n_gpus:
        yield from _engine(machine)


def _engine(machine: Machine) -> Iterator[Setting]:
    """The engine and the precision that were the faster ones on CPUs of this kind."""
    if machine.vectors == "AVX2":
        command = f"uv run python -m jobs convert {_MODEL} -o out/onnx --int8"
        reason = f"in int8 a quarter faster than torch without AVX-512; what differs: {command}"
        yield Setting("label.backend", "onnxruntime", reason, only_shown=True)
        reason = "of that engine; python -m jobs benchmark speed measures both on this CPU"
        yield Setting("label.precision", "int8", reason, only_shown=True)
    elif machine.vectors:
        reason = f"with {machine.vectors} not slower than onnxruntime, in int8 1.6 times as fast"
        yield Setting("label.backend", "torch", reason)
    if machine.bf16:
        reason = f"this CPU has {machine.bf16}: 1.7 times as fast, a few labels differ"
        yield Setting("label.precision", "bf16", reason, only_shown=True)


def _on_gpus(machine: Machine) -> Iterator[Setting]:
    n_segmenting = max(1, machine.n_cores // 2)
    n_sharing = max(1, min(_MOST_SHARING, machine.n_cores // machine.n_gpus // _CORES_SHARING))
    reason = f"{n_sharing} SenseVoice workers share a GPU: Python keeps one from filling it"
    yield Setting("ray.num_gpus", 1 / n_sharing if n_sharing > 1 else 1, reason)
    n_workers = machine.n_gpus * n_sharing
    yield Setting("ray.label_workers", n_workers, f"this machine has {machine.n_gpus} GPUs")
    yield Setting("ray.label_cpus", 0, "the model runs on the GPU")
    reason = f"VAD workers: half of the {machine.n_cores} cores, the others decode"
    yield Setting("ray.segment_workers", n_segmenting, reason)
    yield Setting("ray.batch_audio_s", 1200, "pieces of work that fill a model batch")
    object_store = min(8 << 30, machine.memory_bytes // 4)
    yield Setting("ray.object_store_bytes", object_store, "audio that waits for its next stage")


def _on_cores(machine: Machine, survey: Survey) -> Iterator[Setting]:
    speeds = Speeds()
    n_memory = max(1, machine.memory_bytes // _WORKER_BYTES - 1)
    # A core that labels keeps 1/20 of a core busy with VAD and decoding.
    n_labelling = max(1, min(math.ceil(machine.n_cores * 0.95) - 1, n_memory))
    n_segmenting = math.ceil(n_labelling * speeds.label_core / speeds.segment)
    memory_gb = machine.memory_bytes / 2**30
    yield Setting("ray.num_gpus", 0, "no GPU found here: the model runs on CPU cores")
    yield Setting("ray.label_cpus", 1, "one core for each SenseVoice worker")
    reason = f"SenseVoice workers: for {machine.n_cores} cores and {memory_gb:.0f} GiB (3 GiB each)"
    yield Setting("ray.label_workers", n_labelling, reason)
    reason = f"VAD workers: one keeps up with {speeds.segment / speeds.label_core:.0f} of those"
    yield Setting("ray.segment_workers", n_segmenting, reason)
    batch_s = min(_BATCH_S, survey.seconds.value / (_BUSY * n_labelling))
    reason = "seconds of audio in a piece of work: small enough to keep all workers busy"
    yield Setting("ray.batch_audio_s", round(max(_MIN_BATCH_S, batch_s)), reason)


def to_yaml(settings: list[Setting], title: str) -> str:
    """A configuration file with one line, and one reason, for each key."""
    lines = [f"# {line}" for line in title.splitlines()]
    section = ""
    for setting in settings:
        head, _, name = setting.key.rpartition(".")
        if head != section and head:
            lines.append(f"{head}:")
        section = head
        text = f"{name}: {_inline(setting.value)} # {setting.reason}"
        lines.append(("  " if head else "") + ("# " if setting.only_shown else "") + text)
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
