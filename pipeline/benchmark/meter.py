"""What measuring costs beside labelling: CPU time of each group of columns, on made noise."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.audio import bandwidth
from pipeline.audio.meter import Meter
from pipeline.audio.streams import Floats
from pipeline.schema import SAMPLE_RATE, Segment
from pipeline.stages.quality import measure_segments

KINDS = ((16_000, 1), (44_100, 2), (48_000, 2))  # rate_hz, channels
_SECONDS = 60
_BLOCK = 65_536  # frames, as decoders yield them


@dataclass(frozen=True, slots=True)
class MeterCost:
    """CPU milliseconds for a second of audio, the least of some repeats."""

    rate_hz: int
    channels: int
    levels_ms: float  # loudness, range, peak, clipping, offset, correlation
    bandwidth_ms: float
    hash_ms: float  # audio_sha256
    segments_ms: float  # the table quality, without its text

    @property
    def total_ms(self) -> float:
        return self.levels_ms + self.bandwidth_ms + self.hash_ms + self.segments_ms


def measure_meter(repeats: int = 5) -> list[MeterCost]:
    """The costs for each of KINDS. Compiling the meter is not counted."""
    _metered(np.zeros((_BLOCK, 1), np.float32), SAMPLE_RATE)
    return [_measure(rate_hz, channels, repeats) for rate_hz, channels in KINDS]


def _measure(rate_hz: int, channels: int, repeats: int) -> MeterCost:
    rng = np.random.default_rng(0)
    samples = 0.1 * rng.standard_normal((_SECONDS * rate_hz, channels), np.float32)
    waveform = (3276 * rng.standard_normal(_SECONDS * SAMPLE_RATE)).astype(np.int16)
    levels = _metered(samples, rate_hz).levels()
    frames = samples[: 10 * _SECONDS * bandwidth.n_fft(rate_hz), 0]
    frames = frames.reshape(-1, bandwidth.n_fft(rate_hz))[: 10 * _SECONDS]
    segments = [Segment(start, start + 8.0) for start in range(1, _SECONDS - 9, 10)]
    whole_ms = _least_ms(lambda: _metered(samples, rate_hz).measures(), repeats)
    bandwidth_ms = _least_ms(lambda: bandwidth.powers(frames), repeats)
    bandwidth_ms *= 10 * _SECONDS / len(frames)
    return MeterCost(
        rate_hz=rate_hz,
        channels=channels,
        levels_ms=max(0.0, whole_ms - bandwidth_ms),
        bandwidth_ms=bandwidth_ms,
        hash_ms=_least_ms(lambda: hashlib.sha256(waveform.data).hexdigest(), repeats),
        segments_ms=_least_ms(
            lambda: measure_segments(waveform, levels, segments, segments), repeats
        ),
    )


def _metered(samples: Floats, rate_hz: int) -> Meter:
    meter = Meter()
    for start in range(0, len(samples), _BLOCK):
        meter.add(samples[start : start + _BLOCK], rate_hz)
    meter.finish()
    return meter


def _least_ms(work: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds for a second of audio."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return 1000 * min(taken) / _SECONDS


def show_meter(console: Console, costs: list[MeterCost], label_ms: float) -> None:
    """A table of the costs, each also as a share of labelling (CPU ms for a second of audio)."""
    table = Table(title=f"CPU ms for a second of audio; in brackets of labelling, {label_ms:g} ms")
    groups = {
        "loudness, peak, clipping, channels": "levels_ms",
        "bandwidth": "bandwidth_ms",
        "audio_sha256": "hash_ms",
        "table quality": "segments_ms",
        "all": "total_ms",
    }
    for name in ("audio", *groups):
        table.add_column(name, justify="right")
    for cost in costs:
        values = [float(getattr(cost, name)) for name in groups.values()]
        shares = [f"{value:.3f} ({value / label_ms:.1%})" for value in values]
        table.add_row(f"{cost.rate_hz} Hz, {cost.channels} ch", *shares)
    console.print(table)
