"""What a short recording costs: CPU milliseconds in the loop of the stages, and through Ray.

Most corpora are clips of seconds. What they cost is mostly per recording, not per second, so it is
measured as the difference between many of them and few: without start-up and models.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from pipeline.benchmark.contenders import make_config, measure_ray
from pipeline.benchmark.corpus import demo_waveforms
from pipeline.benchmark.loop import STAGES, Loop
from pipeline.config import RunConfig
from pipeline.planning.speed_report import SpeedSettings
from pipeline.schema import SAMPLE_RATE
from pipeline.storage.store import filesystem_for

# By file extension; 20 ms of Opus are the shortest frame that all four can hold.
CODECS: Mapping[str, Mapping[str, str]] = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "flac": {"format": "FLAC"},
    "mp3": {"format": "MP3"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
RAY_FACTOR = 4  # how many times as many recordings in the larger of two runs on Ray


@dataclass(frozen=True, slots=True)
class ClipCost:
    """CPU milliseconds for each recording of this length; `through` is "loop" or "ray"."""

    through: str
    codec: str  # "all": equal shares
    clip_s: float
    n_recordings: int
    cpu_ms: float
    stages_ms: dict[str, float]  # empty through Ray, whose stages run side by side
    peak_bytes: int
    n_bundles: int = 0
    publish_ms: float = 0.0  # of the commit, not in `cpu_ms`: another process does it

    @property
    def per_core_s(self) -> float:
        """Recordings that one core labels in a second."""
        return 1000 / self.cpu_ms if self.cpu_ms > 0 else 0.0


class Place(NamedTuple):
    """Where the clips are written to: a directory or the URI of one in a store."""

    uri: str
    options: Mapping[str, Any]


def settings_of_clips(model: str, vad: str, threads: int, batch_s: float | None) -> SpeedSettings:
    """What `measure_clips` is measured with; the directory for its files comes later."""
    return SpeedSettings(
        model=model,
        vad=vad,
        files=(),
        device="cpu",
        clock="cpu_s",
        threads=threads,
        repeats=1,
        batch_s=batch_s,
        clips=1,
        work="",
        exact="fp32",
    )


def measure_clips(
    settings: SpeedSettings,
    clip_s: Sequence[float],
    n_recordings: int,
    place: Place,
    on_start: Callable[[str], None],
    *,
    ray: bool,
) -> Iterator[ClipCost]:
    """For each length: a cost for each codec in the loop and, for all codecs together, on Ray.

    Raises ConfigError, StoreError and ModelError.
    """
    import torch

    torch.set_num_threads(settings.threads)
    for length_s in clip_s:
        files = {
            codec: write_clips(place, f"{length_s:g}s.{codec}", codec, length_s, n_recordings)
            for codec in CODECS
        }
        for codec, of_codec in files.items():
            on_start(f"{length_s:g} s, {codec}")
            yield _in_loop(settings, place, codec, length_s, of_codec)
        if ray:
            on_start(f"{length_s:g} s, through Ray")
            n_each = n_recordings // len(CODECS)
            mixed = [file for of_codec in files.values() for file in of_codec[:n_each]]
            yield _in_loop(settings, place, "all", length_s, mixed)
            yield _through_ray(settings, place, length_s, mixed)


def write_clips(place: Place, name: str, codec: str, clip_s: float, n: int) -> list[str]:
    """`n` different clips of the demo's speech, in a directory of their own; returns their URIs."""
    fs, _ = filesystem_for(place.uri, place.options)
    folder = f"{place.uri}/{name}"
    fs.makedirs(filesystem_for(folder, place.options)[1], exist_ok=True)
    speech = np.concatenate(demo_waveforms())
    n_samples = max(1, round(clip_s * SAMPLE_RATE))
    speech = np.tile(speech, 1 + n_samples // len(speech))
    files = []
    for index in range(n):
        start = index * 1009 % (len(speech) - n_samples)  # a prime: no two clips are alike
        data = BytesIO()
        soundfile.write(data, speech[start : start + n_samples], SAMPLE_RATE, **CODECS[codec])
        files.append(f"{folder}/{index:06d}.{codec}")
        fs.pipe_file(filesystem_for(files[-1], place.options)[1], data.getvalue())
    return files


def _in_loop(
    settings: SpeedSettings, place: Place, codec: str, clip_s: float, files: Sequence[str]
) -> ClipCost:
    loop = Loop(_config(settings, place, files, f"loop-{codec}-{clip_s:g}"))
    loop.run()  # opens connections, compiles the VAD's rules
    published = loop.publish()
    result = loop.run()
    stages_ms = {name: 1000 * result.stages[name].cpu_s / len(files) for name in STAGES}
    cpu_ms = 1000 * result.total.cpu_s / len(files)
    publish_ms = 1000 * published.cpu_s / len(files)
    return ClipCost(
        *("loop", codec, clip_s, len(files), cpu_ms, stages_ms, 0), result.n_bundles, publish_ms
    )


def _through_ray(
    settings: SpeedSettings, place: Place, clip_s: float, files: Sequence[str]
) -> ClipCost:
    few = files[:: RAY_FACTOR * len(CODECS)]
    runs = [("warm", few), ("few", few), ("many", files)]
    (_, _, _), (once, _, _), (often, _, peak) = (
        measure_ray(_config(settings, place, some, f"ray-{name}-{clip_s:g}")) for name, some in runs
    )
    cpu_ms = 1000 * (often.cpu_s - once.cpu_s) / (len(files) - len(few))
    return ClipCost("ray", "all", clip_s, len(files), cpu_ms, {}, peak)


def _config(settings: SpeedSettings, place: Place, files: Sequence[str], name: str) -> RunConfig:
    """A run over these files that writes into a directory that nothing was written to before."""
    folder = tempfile.mkdtemp(prefix=f"{name}-", dir=settings.work)
    config = make_config(settings, settings.exact, files, Path(folder).name)
    lane = config.ray.model_copy(update={"local": "never"})
    options = dict(place.options)
    return config.model_copy(update={"ray": lane, "storage_options": options})


def _bundle_ms(cost: ClipCost) -> float:
    """CPU milliseconds to write one bundle."""
    return cost.stages_ms["write"] * cost.n_recordings / max(1, cost.n_bundles)


def show_clips(console: Console, costs: Sequence[ClipCost]) -> None:
    """Print a line for each cost; the last column compares Ray with the loop before it."""
    told = ("commit", "ms/bundle", "over loop")
    table = Table("clip s", "codec", "", "n", "/core s", "CPU ms", *STAGES, *told)
    loop_ms = 0.0
    for cost in costs:
        is_ray = cost.through == "ray"
        table.add_row(
            f"{cost.clip_s:g}",
            cost.codec,
            cost.through,
            f"{cost.n_recordings}",
            f"{cost.per_core_s:,.0f}",
            f"{cost.cpu_ms:.2f}",
            *(f"{cost.stages_ms[name]:.2f}" if cost.stages_ms else "" for name in STAGES),
            "" if is_ray else f"{cost.publish_ms:.2f}",
            "" if is_ray else f"{_bundle_ms(cost):.1f}",
            f"{cost.cpu_ms - loop_ms:+.2f} ms" if is_ray else "",
        )
        loop_ms = cost.cpu_ms
    console.print(table)
