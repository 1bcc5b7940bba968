"""Estimate what a plan holds from a sample of it. Opens the heads of some files; labels nothing.

The seconds of all files are estimated from the seconds per byte of the sample (a ratio estimate:
Cochran, Sampling Techniques, 3rd ed., 6.2), because the plan knows all sizes in bytes. Damage later
in a file is only found when it is decoded.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audio.decoders import decoders_for
from pipeline.audio.headers import format_of
from pipeline.audio.sources import Source, open_source
from pipeline.audio.streams import Stream
from pipeline.config import AudioConfig
from pipeline.errors import DecoderError, ErrorType, RecordingError
from pipeline.planning.legs import Legs
from pipeline.schema import PLANNED
from pipeline.storage.redaction import redact

N_SAMPLED = 200  # enough to know an unreadable share of 5 % to +-3 %
_N_THREADS = 16
_PROBED = [
    *("recording_id", "uri", "offset_s", "length_s", "bytes", "start"),
    *("error_type", "error_message"),
]
# Bytes to decode of a file whose header has no duration. The estimate is then good to 5 %: FFmpeg
# reads about 32 KiB ahead of what it has decoded, and a block holds some seconds.
_DECODED_BYTES = 2 << 20
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True, slots=True)
class Probe:
    """What the head of one file shows. `error` is "" or an error_type."""

    bytes: int
    duration_s: float
    codec: str
    error: str
    message: str = ""  # of the error


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Survey:
    """Estimates for all recordings to do, from a sample of them."""

    n_sampled: int
    seconds: Estimate  # of all recordings to do
    unreadable: Estimate  # share of the recordings
    longest_s: float  # in the sample
    median_s: float
    codecs: Mapping[str, int]  # in the sample, most frequent first
    errors: Mapping[str, int]
    examples: Mapping[str, str]  # error_type -> "recording_id: message" of one in the sample

    @property
    def mostly_fails(self) -> bool:
        """Whether more than half of the sample cannot be read."""
        return self.unreadable.value > 0.5


def survey_todo(
    todo: pa.Table | Legs,
    config: AudioConfig,
    options: Mapping[str, Any],
    *,
    n_sampled: int = N_SAMPLED,
    seed: int = 0,
) -> Survey:
    """Probe `n_sampled` random recordings of a plan (schema.PLANNED); estimate the whole plan."""
    legs = [todo] if isinstance(todo, pa.Table) else todo
    n_rows = todo.num_rows if isinstance(todo, pa.Table) else todo.n_rows
    chosen = np.random.default_rng(seed).permutation(n_rows)[:n_sampled]
    rows, figures = _sampled(legs, chosen)
    with ThreadPoolExecutor(_N_THREADS) as pool:
        sample = list(
            pool.map(
                lambda row: probe_row(row, config, options),
                rows.to_pylist(),
            )
        )
    durations = [probe.duration_s for probe in sample if not probe.error] or [0.0]
    n_broken = sum(1 for probe in sample if probe.error)
    share = wilson(n_broken, len(sample))
    if len(sample) == n_rows > 0:  # all of them: the share is known
        share = Estimate(share.value, share.value, share.value)
    return Survey(
        n_sampled=len(sample),
        seconds=_total_seconds(figures, sample, chosen),
        unreadable=share,
        longest_s=max(durations),
        median_s=float(np.median(durations)),
        codecs=dict(Counter(p.codec for p in sample if p.codec).most_common()),
        errors=dict(Counter(p.error for p in sample if p.error).most_common()),
        examples=_examples(rows["recording_id"].to_pylist(), sample),
    )


def _examples(recording_ids: Sequence[str], sample: Sequence[Probe]) -> dict[str, str]:
    """The first recording of the sample with each error, and its message."""
    examples: dict[str, str] = {}
    for recording_id, probe in zip(recording_ids, sample, strict=True):
        if probe.error:
            examples.setdefault(probe.error, redact(f"{recording_id}: {probe.message}"))
    return examples


def _sampled(legs: Iterable[pa.Table], chosen: np.ndarray) -> tuple[pa.Table, pa.Table]:
    """The chosen rows in their order, and length_s and bytes of all rows."""
    parts, places, figures, n_before = [], [], [], 0
    for leg in legs:
        inside = np.sort(chosen[(chosen >= n_before) & (chosen < n_before + leg.num_rows)])
        parts.append(leg.select(_PROBED).take(inside - n_before))
        places.append(inside)
        figures.append(leg.select(["length_s", "bytes"]))
        n_before += leg.num_rows
    empty = PLANNED.empty_table()
    rows = pa.concat_tables([empty.select(_PROBED), *parts])
    order = np.searchsorted(np.concatenate([np.empty(0, np.int64), *places]), chosen)
    return rows.take(order), pa.concat_tables([empty.select(["length_s", "bytes"]), *figures])


def probe_row(row: Mapping[str, Any], config: AudioConfig, options: Mapping[str, Any]) -> Probe:
    """Probe one planned recording. Errors have the error_type that the tables would have."""
    if row["error_type"]:
        return Probe(row["bytes"], 0.0, "", row["error_type"], row["error_message"])
    try:
        with open_source(row["uri"], config, options, row["start"], row["bytes"]) as source:
            duration_s, codec = _head(source)
    except RecordingError as error:
        return Probe(row["bytes"], 0.0, "", error.kind, str(error))
    except Exception as error:
        return Probe(row["bytes"], 0.0, "", type(error).__name__, str(error))
    wanted_s = duration_s - row["offset_s"]
    if wanted_s <= 0:
        return Probe(
            row["bytes"],
            0.0,
            codec,
            ErrorType.BAD_RANGE if row["offset_s"] else ErrorType.NO_SAMPLES,
            f"there is nothing after {row['offset_s']:g} s",
        )
    return Probe(row["bytes"], min(row["length_s"] or math.inf, wanted_s), codec, "")


def wilson(n_hits: int, n: int) -> Estimate:
    """A share with its 95 % score interval (Wilson 1927), which is also right for 0 of n."""
    if not n:
        return Estimate(0.0, 0.0, 1.0)
    share, spread = n_hits / n, _Z**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def ratio_estimate(
    sizes: Sequence[float], seconds: Sequence[float], total_size: float, n_all: int
) -> Estimate:
    """Seconds of all `n_all` files of `total_size`, from the seconds per size of a sample."""
    x, y = np.asarray(sizes, float), np.asarray(seconds, float)
    if not x.sum():
        return Estimate(0.0, 0.0, 0.0)
    ratio = y.sum() / x.sum()
    total, n = ratio * total_size, len(x)
    if n < 2 or n >= n_all:
        return Estimate(total, total, total)
    spread = math.sqrt(np.square(y - ratio * x).sum() / (n - 1) * (1 - n / n_all) / n)
    half = _Z * total_size * spread / x.mean()
    return Estimate(total, max(0.0, total - half), total + half)


def _total_seconds(rows: pa.Table, sample: Sequence[Probe], chosen: np.ndarray) -> Estimate:
    """Sum the lengths that the manifest gives; estimate the other recordings by their bytes."""
    known = np.asarray(rows["length_s"]) > 0
    sizes = np.asarray(rows["bytes"])
    with_length = [p for p, i in zip(sample, chosen, strict=True) if known[i]]
    readable = 1 - sum(1 for p in with_length if p.error) / max(1, len(with_length))
    counted_s = float(np.asarray(rows["length_s"])[known].sum()) * readable
    whole = [p for p, i in zip(sample, chosen, strict=True) if not known[i]]
    rest = ratio_estimate(
        [p.bytes for p in whole],
        [p.duration_s for p in whole],
        float(sizes[~known].sum()),
        int((~known).sum()),
    )
    return Estimate(rest.value + counted_s, rest.low + counted_s, rest.high + counted_s)


def _head(source: Source) -> tuple[float, str]:
    """(seconds, codec) of a file. Raises RecordingError if its first samples cannot be decoded."""
    name, is_audio = format_of(source)
    if is_audio is False:
        raise RecordingError(ErrorType.NOT_AUDIO, f"looks like {name}")
    for open_stream in decoders_for(name, source):
        try:
            with open_stream(source, 0.0) as stream:
                return _duration_s(source, stream), stream.codec
        except DecoderError:
            source.check()
    raise RecordingError(
        ErrorType.UNDECODABLE if is_audio else ErrorType.NOT_AUDIO, f"looks like {name}"
    )


def _duration_s(source: Source, stream: Stream) -> float:
    """The duration in the header; else an estimate from the bytes of the first seconds."""
    decoded_s = 0.0
    for block in stream.blocks:
        decoded_s += len(block.samples) / block.rate_hz
        if stream.total_s:
            return stream.total_s
        if _DECODED_BYTES <= source.tell() < source.size:
            return decoded_s * source.size / source.tell()
    return decoded_s
