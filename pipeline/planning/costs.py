"""Hours of audio to machine hours. Knows measured speeds; opens no audio."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RayConfig
from pipeline.errors import ConfigError
from pipeline.planning.speed_report import SpeedReport


@dataclass(frozen=True, slots=True)
class Speeds:
    """Audio seconds per second of one core or one GPU.

    The defaults were measured on one core of an AMD EPYC (AVX-512): 61 s of mostly mp3, two thirds
    of it speech, FSMN-VAD, SenseVoiceSmall in fp32 (pipeline/benchmark/README.md). The GPU's speed
    is that of one worker on an H100, which is busy a third of the time: Python prepares its batches
    and builds the labels. `jobs.benchmark` measures your machine.
    """

    decode: float = 1800.0
    segment: float = 900.0
    label_core: float = 40.0
    label_gpu: float = 3400.0
    # CPU milliseconds of a recording, however short: opening it, its rows, and Ray's part. Measured
    # with clips of 0.25 s (`jobs benchmark speed --clip-s 0.25`), the model left out.
    recording_ms: float = 2.0


@dataclass(frozen=True, slots=True)
class MachineHours:
    """Machine hours for an amount of audio."""

    decode_core_h: float
    segment_core_h: float
    label_core_h: float  # 0 if a GPU labels
    label_gpu_h: float  # 0 if CPU cores label
    recordings_core_h: float = 0.0  # what recordings cost by number, not by length

    @property
    def core_h(self) -> float:
        """Core-hours of all stages."""
        of_audio = self.decode_core_h + self.segment_core_h + self.label_core_h
        return of_audio + self.recordings_core_h


def load_speeds(path: Path) -> Speeds:
    """Speeds from a report of `jobs benchmark speed --json`, at fp32 if it was measured.

    What the report does not contain keeps its default. With `--device cuda` the GPU did all stages
    but decoding. Raises ConfigError for a file that is not such a report.
    """
    try:
        return _measured(SpeedReport.from_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ZeroDivisionError) as error:
        message = f"{path}: no speeds in it ({error}); write it with jobs benchmark speed --json"
        raise ConfigError(message) from error


def _measured(report: SpeedReport) -> Speeds:
    if not report.ours:
        raise ValueError('it has no successful result named "ours PRECISION"')
    ours = report.ours.get("fp32") or next(iter(report.ours.values()))
    audio_s, stages_s = ours.audio_s, ours.stages_s
    decode = audio_s / stages_s.decode
    segment_s = stages_s.features + stages_s.vad
    label_s = stages_s.model + stages_s.labels
    if report.settings.device != "cpu":
        return Speeds(decode=decode, label_gpu=audio_s / (segment_s + label_s))
    return Speeds(decode=decode, segment=audio_s / segment_s, label_core=audio_s / label_s)


def estimate_cost(
    audio_s: float, speeds: Speeds, *, on_gpu: bool, n_recordings: int = 0
) -> MachineHours:
    """Machine hours for `audio_s` seconds of audio in `n_recordings` at these speeds."""
    hours = audio_s / 3600
    return MachineHours(
        decode_core_h=hours / speeds.decode,
        segment_core_h=hours / speeds.segment,
        label_core_h=0.0 if on_gpu else hours / speeds.label_core,
        label_gpu_h=hours / speeds.label_gpu if on_gpu else 0.0,
        recordings_core_h=n_recordings * speeds.recording_ms / 3_600_000,
    )


@dataclass(frozen=True, slots=True)
class Prices:
    """What an hour of a machine costs, in any currency; None: not given."""

    core_h: float | None = None
    gpu_h: float | None = None

    def of(self, cost: MachineHours) -> float | None:
        """The price of these hours; None if a price that they need is not given."""
        needed = [(cost.core_h, self.core_h), (cost.label_gpu_h, self.gpu_h)]
        if any(hours and price is None for hours, price in needed):
            return None
        return sum(hours * (price or 0.0) for hours, price in needed)


def wall_hours(cost: MachineHours, ray: RayConfig, n_cores: int | None = None) -> float:
    """Hours on the clock with the workers of a configuration, without start-up.

    The stages work at the same time, so the slowest decides. `n_cores`: of this machine, if the run
    takes place on it; they share the work of all stages. Workers that autoscale count with their
    upper limit.
    """
    n_segmenting = max(ray.segment_workers, ray.segment_workers_max) * ray.segment_cpus
    n_labelling = max(ray.label_workers, ray.label_workers_max)
    bounds = [cost.label_gpu_h / (n_labelling * min(1.0, ray.num_gpus or 1.0))]
    bounds.append(cost.label_core_h / (n_labelling * max(1.0, ray.label_cpus)))
    if not ray.segment_with_model:
        bounds.append(cost.segment_core_h / n_segmenting)
    if n_cores:
        bounds.append(cost.core_h / n_cores)
    return max(bounds)
