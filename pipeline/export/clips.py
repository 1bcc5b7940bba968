"""Segments to wav files: decodes each recording once. Knows audio and files; no labels."""

import io
import wave
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.audio.channels import Waveform
from pipeline.audio.checks import WITHOUT_LIMITS
from pipeline.audio.windows import decode
from pipeline.errors import ErrorType, RecordingError
from pipeline.export.rows import ExportRow
from pipeline.schema import SAMPLE_RATE
from pipeline.storage.read_ahead import map_ahead

_NEAR_S = 60.0  # to decode this much takes less time than to open a file
_MISSING_S = 0.01  # a decoder's last packet may end this much before the segment


class Clip(Protocol):
    """A stretch of a recording."""

    @property
    def segment_id(self) -> str: ...

    @property
    def uri(self) -> str: ...

    @property
    def start_s(self) -> float: ...

    @property
    def n_samples(self) -> int: ...

    @property
    def channel(self) -> int: ...


def cut_clips(
    recordings: Iterable[Sequence[ExportRow]],
    folder: Path,
    options: Mapping[str, Any],
    n_threads: int,
) -> dict[str, str]:
    """Write the clip of every row to `folder / row.clip`: 16 kHz, mono, 16 bit, as it was labelled.

    `recordings` are the rows of one recording each, in time order. Returns the reason, by
    recording_id, for each recording that cannot be read; it leaves no clips. Decoders release the
    GIL, so threads are enough.
    """

    def cut(rows: Sequence[ExportRow]) -> tuple[str, str]:
        try:
            _cut_recording(rows, folder, options)
        except RecordingError as error:
            for row in rows:
                (folder / row.clip).unlink(missing_ok=True)
            return rows[0].recording_id, f"{error.kind}: {error}"
        return rows[0].recording_id, ""

    with ThreadPoolExecutor(n_threads) as pool:
        done = map_ahead(pool, cut, recordings, 2 * n_threads)
        return {recording_id: reason for recording_id, reason in done if reason}


def _cut_recording(rows: Sequence[ExportRow], folder: Path, options: Mapping[str, Any]) -> None:
    for row, waveform in zip(rows, read_clips(rows, options), strict=True):
        path = folder / row.clip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_wav(waveform))


def read_clips(rows: Sequence[Clip], options: Mapping[str, Any]) -> Iterator[Waveform]:
    """The samples of each clip, (n_samples,), of one recording and in time order.

    Each channel is decoded on its own. Raises RecordingError if the file cannot be read, or is
    shorter now.
    """
    channels: dict[int, list[Clip]] = {}
    for row in rows:
        channels.setdefault(row.channel, []).append(row)
    waveforms = {channel: _of_channel(some, options) for channel, some in channels.items()}
    for row in rows:
        yield next(waveforms[row.channel])


def _of_channel(rows: Sequence[Clip], options: Mapping[str, Any]) -> Iterator[Waveform]:
    # No seek if the first row is near the start: after one, some decoders are inexact for a while.
    offset_s = rows[0].start_s if rows[0].start_s > _NEAR_S else 0.0
    first = round(offset_s * SAMPLE_RATE)
    windows = decode(rows[0].uri, WITHOUT_LIMITS, options, offset_s, channel=rows[0].channel)
    held = np.zeros(0, np.int16)  # samples [first, first + held.size) of the file
    for row in rows:
        start = round(row.start_s * SAMPLE_RATE)
        end = start + row.n_samples
        while first + held.size < end and (window := next(windows, None)) is not None:
            n_past = min(max(0, start - first), held.size)
            held = np.concatenate([held[n_past:], window.waveform])
            first += n_past
        yield _exactly(held[start - first : end - first], row)


def _exactly(samples: Waveform, row: Clip) -> Waveform:
    missing = row.n_samples - samples.size
    if missing > _MISSING_S * SAMPLE_RATE:
        raise RecordingError(
            ErrorType.TRUNCATED,
            f"{row.uri} ends {missing / SAMPLE_RATE:.2f} s before the segment {row.segment_id}; "
            "the file has changed since it was labelled: label it again",
        )
    return np.pad(samples, (0, missing))


def to_wav(waveform: Waveform) -> bytes:
    """A wav file: 16 kHz, mono, 16 bit."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(waveform.astype("<i2").tobytes())
    return data.getvalue()
