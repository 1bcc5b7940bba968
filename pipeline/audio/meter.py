"""What a recording's samples are like, at the file's own rate and channels. Knows no speech.

Before downmix and resampling, because both hide what is measured here: a channel with inverted
polarity, a clipped peak, the rate that the audio once had. Streamed, and the same for every
division into blocks.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.audio import bandwidth
from pipeline.audio.loudness import k_filters, loudness_lufs, loudness_range_lu
from pipeline.audio.meter_kernel import (
    CLIPPED,
    K_SUM,
    N_HOP,
    N_STATE,
    PEAK,
    SQUARES,
    SUM,
    Doubles,
    compiled_scan,
)
from pipeline.audio.streams import Floats

HOPS_PER_S = 10
N_LEVELS = 3  # of a hop: mean power after the K filter, of all channels; peak; clipped share
_SILENT = 1e-12  # mean power of a channel, -120 dBFS: below the rounding of 16 bits
_N_FRAMES, _N_VALUES = N_HOP, N_HOP + 1  # columns of a hop behind those of the kernel


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one recording. NaN: cannot be measured, for example the loudness of digital silence."""

    loudness_lufs: float  # ITU-R BS.1770-4, gated, all channels
    loudness_range_lu: float  # EBU Tech 3342
    sample_peak_dbfs: float
    clipped_share: float  # of all values: those in runs of three or more at full scale
    dc_offset: float  # mean of the samples of the channel that is furthest from 0; full scale 1
    channel_correlation: float  # Pearson, of two channels
    channel_difference_db: float  # power of the louder of two channels over the other; up to 120
    bandwidth_hz: float  # where the spectrum ends
    bandwidth_drop_db: float  # how deep it falls there; above 40: made from a lower rate
    audio_sha256: str = ""  # of the decoded samples, int16, mono, 16 kHz


@dataclass(slots=True)
class _Run:
    """Consecutive samples of one rate and number of channels."""

    rate_hz: int
    first_hop: int  # index of the hop in which it starts, ...
    n_missed: int  # ... and the frames of this hop that came before, counted in this rate
    filters: Doubles
    state: Doubles  # (n_channels, N_STATE)
    power: Doubles  # sum of the power spectra
    pending: Floats  # (n_channels, n_frames) of a hop that is not complete
    products: float = 0.0  # of two channels
    n_frames: int = 0
    n_hops: int = 0
    n_spectra: int = 0


class Meter:
    """Measures one recording, block by block. Holds 40 bytes for each hop of 100 ms.

    If the rate or the number of channels changes inside the recording, the filters start anew.
    Loudness, peak and clipping are of all samples; what needs one rate and layout (offset,
    correlation, bandwidth) is of the longest stretch that has one.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._hops: list[Doubles] = []  # (n, 1 + N_HOP + 2): index of the hop first

    @property
    def duration_s(self) -> float:
        return float(sum((run.n_frames + run.pending.shape[1]) / run.rate_hz for run in self._runs))

    def add(self, samples: Floats, rate_hz: int) -> None:
        """(n_frames, n_channels), full scale 1, finite: the samples after those before."""
        run = self._run_of(rate_hz, samples.shape[1])
        n_pending = run.pending.shape[1]
        joined = np.empty((samples.shape[1], n_pending + len(samples)), np.float32)
        joined[:, :n_pending], joined[:, n_pending:] = run.pending, samples.T
        ends = _ends(run, joined.shape[1])
        if len(ends):
            self._add_hops(run, joined, ends)
        run.pending = joined[:, ends[-1] :].copy() if len(ends) else joined

    def finish(self) -> None:
        """No more samples follow: the last hop may be shorter."""
        if self._runs and (rest := self._runs[-1].pending).size:
            run = self._runs[-1]
            run.pending = rest[:, :0]
            self._add_hops(run, rest, np.array([rest.shape[1]], np.int64))

    def levels(self, first: int = 0, end: int | None = None) -> Floats:
        """Float32 (n_hops, N_LEVELS) of the complete hops from `first` to before `end`."""
        hops = self._joined()[first:end]
        n_frames = np.maximum(hops[:, _N_FRAMES], 1)
        n_values = np.maximum(hops[:, _N_VALUES], 1)
        columns = (hops[:, K_SUM] / n_frames, hops[:, PEAK], hops[:, CLIPPED] / n_values)
        return np.stack(columns, axis=1).astype(np.float32)

    def measures(self) -> Measures:
        """Of all samples so far; complete after finish()."""
        hops = self._joined()
        peak = float(hops[:, PEAK].max(initial=0.0))
        n_values = float(hops[:, _N_VALUES].sum())
        run = max(self._runs, key=lambda run: run.n_frames / run.rate_hz, default=None)
        dc_offset = correlation = difference_db = width_hz = drop_db = math.nan
        if run is not None and run.n_frames:
            dc_offset = float(max(run.state[:, SUM] / run.n_frames, key=abs))
            correlation, difference_db = _compare_channels(run)
            width_hz, drop_db = bandwidth.edge(run.power, run.n_spectra, run.rate_hz)
        return Measures(
            loudness_lufs=loudness_lufs(hops[:, K_SUM], hops[:, _N_FRAMES]),
            loudness_range_lu=loudness_range_lu(hops[:, K_SUM], hops[:, _N_FRAMES]),
            sample_peak_dbfs=20 * math.log10(peak) if peak > 0 else math.nan,
            clipped_share=float(hops[:, CLIPPED].sum()) / n_values if n_values else math.nan,
            dc_offset=dc_offset,
            channel_correlation=correlation,
            channel_difference_db=difference_db,
            bandwidth_hz=width_hz,
            bandwidth_drop_db=drop_db,
        )

    def _run_of(self, rate_hz: int, n_channels: int) -> _Run:
        run = self._runs[-1] if self._runs else None
        if run and (run.rate_hz, len(run.state)) == (rate_hz, n_channels):
            return run
        self.finish()
        at_s = self.duration_s
        first_hop = math.floor(at_s * HOPS_PER_S + 1e-6)
        run = _Run(
            rate_hz,
            first_hop,
            max(0, round((at_s - first_hop / HOPS_PER_S) * rate_hz)),
            k_filters(rate_hz),
            np.zeros((n_channels, N_STATE)),
            np.zeros(bandwidth.n_fft(rate_hz) // 2 + 1),
            np.empty((n_channels, 0), np.float32),
        )
        self._runs.append(run)
        return run

    def _add_hops(self, run: _Run, samples: Floats, ends: np.ndarray) -> None:
        """(n_channels, n_frames or more), contiguous: hop i ends before frame `ends[i]`."""
        hops = np.zeros((len(ends), N_HOP))
        run.products += compiled_scan()(samples, ends, run.filters, run.state, hops)
        lengths = np.diff(ends, prepend=0)
        index = run.first_hop + run.n_hops + np.arange(len(ends))
        frames = [index, *hops.T, lengths, lengths * len(samples)]
        self._hops.append(np.stack(frames, axis=1).astype(np.float64))
        _add_spectra(run, samples, ends - lengths, lengths)
        run.n_frames += int(ends[-1])
        run.n_hops += len(ends)

    def _joined(self) -> Doubles:
        """(n_hops, N_HOP + 2). A hop in which the rate changes has two rows until here."""
        rows = np.concatenate([np.empty((0, 3 + N_HOP)), *self._hops])
        index, values = rows[:, 0].astype(np.int64), rows[:, 1:]
        if len(rows) == 0 or np.all(np.diff(index) == 1):
            return values
        joined = np.zeros((int(index[-1]) + 1, values.shape[1]))
        np.add.at(joined, index, values)
        joined[:, PEAK] = 0.0
        np.maximum.at(joined[:, PEAK], index, values[:, PEAK])
        return joined


class Meters:
    """The meters of one decoding: each takes the samples of its stretch, once.

    A decoder that fails is followed by another one that starts again, so a meter skips what it has.
    """

    def __init__(self, wanted: Iterable[tuple[Meter, float, float]] = ()) -> None:
        """(meter, start_s, end_s) of each stretch, in seconds of the file."""
        self._later = deque(sorted(wanted, key=lambda one: one[1]))
        self._active: list[tuple[Meter, float, float]] = []

    def add(self, samples: Floats, at_s: float, rate_hz: int) -> None:
        """(n_frames, n_channels) that start at `at_s`."""
        end_s = at_s + len(samples) / rate_hz
        while self._later and self._later[0][1] < end_s:
            self._active.append(self._later.popleft())
        for meter, start_s, stop_s in self._active:
            first = max(0, round((start_s + meter.duration_s - at_s) * rate_hz))
            end = len(samples) if stop_s >= end_s else round((stop_s - at_s) * rate_hz)
            if first < end:
                meter.add(samples[first:end], rate_hz)
        self._active = [one for one in self._active if one[2] > end_s]


def _ends(run: _Run, n_frames: int) -> np.ndarray:
    """Where the complete hops end that `n_frames` frames from the next one on hold."""
    rate_hz, at = run.rate_hz, run.n_frames + run.n_missed
    n_most = (at + n_frames) * HOPS_PER_S // rate_hz - run.n_hops + 1
    hops = run.n_hops + 1 + np.arange(n_most, dtype=np.int64)
    # Of 11,025 Hz, hops have 1,102 and 1,103 frames in turn.
    ends = np.maximum(hops * rate_hz // HOPS_PER_S - at, 0)
    return np.asarray(ends[ends <= n_frames], np.int64)


def _add_spectra(run: _Run, samples: Floats, starts: np.ndarray, lengths: np.ndarray) -> None:
    """A spectrum of the beginning of each hop, of the channels in turn: one of all costs more."""
    size = bandwidth.n_fft(run.rate_hz)
    frames = [
        samples[(run.n_hops + place) % len(samples), start : start + size]
        for place, (start, length) in enumerate(zip(starts, lengths, strict=True))
        if length >= size
    ]
    if frames:
        run.power += bandwidth.powers(np.stack(frames))
        run.n_spectra += len(frames)


def _compare_channels(run: _Run) -> tuple[float, float]:
    """(Pearson correlation, difference in dB) of two channels; NaN of another number of them."""
    if len(run.state) != 2:
        return math.nan, math.nan
    means = run.state[:, SUM] / run.n_frames
    powers = run.state[:, SQUARES] / run.n_frames
    quieter, louder = sorted(float(power) for power in powers)
    if louder <= _SILENT:
        return math.nan, math.nan
    difference_db = min(120.0, 10 * math.log10(louder / max(quieter, _SILENT)))
    spread = powers - means**2
    if spread.min() <= _SILENT:
        return math.nan, difference_db
    covariance = run.products / run.n_frames - means[0] * means[1]
    return float(np.clip(covariance / math.sqrt(spread[0] * spread[1]), -1, 1)), difference_db
