"""Audio for the page: clips as the model received them, peaks, and ranges of the original.

The browser names segments and recordings, never a place. The place comes from the table and is
checked against the allowed roots each time: rows can be old, and links can have changed since.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.audio.checks import WITHOUT_LIMITS
from pipeline.audio.sources import open_source
from pipeline.audio.windows import decode
from pipeline.errors import ErrorType, RecordingError
from pipeline.export.clips import read_clips, to_wav
from pipeline.manifest.access import AllowedRoots, canonical_uri, check_allowed
from pipeline.schema import SAMPLE_RATE
from pipeline.storage.address import split_member
from pipeline.storage.store import filesystem_for, write_file
from pipeline.storage.store_errors import explain_store_error

PEAKS_PER_S = 10  # of a whole recording: 36 kB an hour
MOST_CLIP_S = 120.0
_MOST_RANGE = 1 << 20  # bytes of the original in one answer
_CACHE_BYTES = 2 << 30

# By the first bytes; a browser is never told a type that it would run.
_KINDS = (
    (0, b"RIFF", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (4, b"ftyp", "audio/mp4"),
    (0, b"\x1a\x45\xdf\xa3", "audio/webm"),
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a recording, in seconds of its file."""

    segment_id: str
    uri: str
    start_s: float
    end_s: float
    channel: int = 0  # from 1; 0: all, mixed

    @property
    def n_samples(self) -> int:
        """At SAMPLE_RATE, as exports count them."""
        return round(self.end_s * SAMPLE_RATE) - round(self.start_s * SAMPLE_RATE)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [start, start + len(data)) of a file of `size` bytes."""

    data: bytes
    start: int
    size: int
    media_type: str


class Audio:
    """Reads recordings below the allowed roots, with a cache of what was decoded."""

    def __init__(
        self, allowed: AllowedRoots, options: Mapping[str, Any], cache: Path | None = None
    ) -> None:
        self._allowed = allowed
        self._options = options
        self._cache = cache

    def clip(self, stretch: Stretch, version: str) -> bytes:
        """A wav file, 16 kHz mono. Raises RecordingError."""
        self._check(stretch.uri)
        if stretch.end_s - stretch.start_s > MOST_CLIP_S:
            raise RecordingError(
                ErrorType.TOO_LONG, f"a clip may have {MOST_CLIP_S:.0f} s; play the recording"
            )
        place = (stretch.uri, version, stretch.start_s, stretch.end_s, stretch.channel)
        name = "\0".join(map(str, place))
        return self._cached(name, lambda: to_wav(next(iter(read_clips([stretch], self._options)))))

    def clip_peaks(self, stretch: Stretch, version: str, n_peaks: int) -> list[float]:
        """The largest absolute sample of each of `n_peaks` equal parts, 0..1."""
        waveform = np.frombuffer(self.clip(stretch, version)[44:], "<i2")
        return _peaks(waveform, n_peaks)

    def recording_peaks(self, uri: str, version: str) -> list[float]:
        """PEAKS_PER_S peaks for each second of the recording. Decodes it once."""
        self._check(uri)

        def decoded() -> bytes:
            step = SAMPLE_RATE // PEAKS_PER_S
            peaks: list[float] = []
            for window in decode(uri, WITHOUT_LIMITS, self._options):
                peaks += _peaks(window.waveform, -(-window.waveform.size // step))
            return json.dumps(peaks).encode()

        found: list[float] = json.loads(self._cached(f"peaks\0{uri}\0{version}", decoded))
        return found

    def part(self, uri: str, wanted: str | None) -> Part:
        """The bytes that a Range header asks for, at most 1 MiB; the first ones without it.

        Raises ValueError for a range that the file does not have, RecordingError.
        """
        self._check(uri)
        if split_member(uri):
            return self._part_of_member(uri, wanted)
        filesystem, path = filesystem_for(uri, self._options)
        try:
            size = int(filesystem.size(path))
            start, end = _range(wanted, size)
            data: bytes = filesystem.cat_file(path, start=start, end=min(end, start + _MOST_RANGE))
            head = data if start == 0 else filesystem.cat_file(path, start=0, end=16)
        except OSError as error:
            raise explain_store_error(error) from error
        return Part(data, start, size, _kind(head))

    def _part_of_member(self, uri: str, wanted: str | None) -> Part:
        with open_source(uri, WITHOUT_LIMITS, self._options) as source:
            start, end = _range(wanted, source.size)
            data = source.head(min(end - start, _MOST_RANGE), start)
            return Part(data, start, source.size, _kind(source.head(16)))

    def _check(self, uri: str) -> None:
        fault = check_allowed(canonical_uri(uri), self._allowed)
        if fault is not None:
            raise RecordingError(*fault)

    def _cached(self, name: str, make: Callable[[], bytes]) -> bytes:
        if self._cache is None:
            return make()
        path = self._cache / hashlib.sha256(name.encode()).hexdigest()
        with suppress(FileNotFoundError):
            data = path.read_bytes()
            os.utime(path)  # it is kept for longer
            return data
        data = make()
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds speech
        write_file(path, data)
        _prune(self._cache)
        return data


def _peaks(waveform: npt.NDArray[Any], n_peaks: int) -> list[float]:
    if not waveform.size:
        return []
    edges = np.linspace(0, waveform.size, max(1, min(n_peaks, waveform.size)) + 1).astype(int)
    loudest = np.maximum.reduceat(np.abs(waveform.astype(np.int32)), edges[:-1])
    return [round(float(peak) / 32768, 4) for peak in loudest]


def _range(wanted: str | None, size: int) -> tuple[int, int]:
    """[start, end) of `bytes=a-b`, `bytes=a-` or `bytes=-n`. ValueError for any other."""
    if not wanted:
        return 0, size
    unit, _, span = wanted.partition("=")
    first, dash, last = span.strip().partition("-")
    if unit.strip() != "bytes" or not dash or not (first or last):
        raise ValueError(f"cannot give the range {wanted!r}")
    if not (first or "0").isdigit() or not (last or "0").isdigit():
        raise ValueError(f"cannot give the range {wanted!r}")
    start = int(first) if first else max(0, size - int(last))
    end = int(last) + 1 if first and last else size
    if start >= size or end <= start:
        raise ValueError(f"cannot give the range {wanted!r} of {size} bytes")
    return start, min(end, size)


def _kind(head: bytes) -> str:
    for at, mark, kind in _KINDS:
        if head[at : at + len(mark)] == mark:
            return kind
    return "application/octet-stream"


def _prune(folder: Path) -> None:
    """Delete what was not used for longest, until the cache has its size again."""
    files = sorted((path.stat() for path in folder.iterdir()), key=lambda stat: stat.st_mtime)
    surplus = sum(stat.st_size for stat in files) - _CACHE_BYTES
    if surplus <= 0:
        return
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime):
        surplus -= path.stat().st_size
        path.unlink(missing_ok=True)
        if surplus <= 0:
            return
