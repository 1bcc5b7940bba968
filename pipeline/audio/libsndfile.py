"""Decode with soundfile (libsndfile): fast and strict. Knows wav, aiff, flac and whole mp3 files.

libsndfile believes the size in a header. Where that is wrong (see headers.WavPart), it is given a
corrected one; it cannot read on behind it otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile

from pipeline.audio.headers import WavPart, wav_parts
from pipeline.audio.sources import Source
from pipeline.audio.streams import Block, Floats, Stream
from pipeline.errors import DecoderError

_BLOCK = 1 << 17  # values per block: these fit into the cache, twice as fast as 1 << 20
_UNKNOWN = 1 << 62  # frames of a FLAC that was written to a pipe; libsndfile gives 2^63 - 1


@contextmanager
def open_soundfile(source: Source, offset_s: float) -> Iterator[Stream]:
    """A file that libsndfile reads, from `offset_s` on. Raises DecoderError."""
    parts = wav_parts(source)
    views = [_view(source, part) for part in parts] or [source]
    try:
        with soundfile.SoundFile(_at_start(views[0])) as file:
            stream = Stream(
                rate_hz=file.samplerate,
                channels=file.channels,
                codec=f"{file.format}/{file.subtype}".lower(),
                total_s=_declared_s(file, parts),
            )
            if any(part.is_stale for part in parts):
                stream.warnings.append(
                    "the size in the WAV header is wrong; all samples up to the end were decoded"
                )
            elif parts and parts[0].declared_bytes > parts[0].end - parts[0].data_start:
                stream.warnings.append("the header claims more audio than the file holds")
            if len(parts) > 1:
                stream.warnings.append(f"{len(parts)} WAV files in one, decoded one after another")
            stream.blocks = _blocks(file, views[1:], offset_s)
            yield stream
    except soundfile.SoundFileError as error:
        raise DecoderError(f"soundfile: {getattr(error, 'error_string', error)}") from error


def _view(source: Source, part: WavPart) -> Source:
    return source.part(part.start, part.end, part.patches() if part.is_stale else {})


def _at_start(source: Source) -> Source:
    source.seek(0)
    return source


def _declared_s(file: Any, parts: list[WavPart]) -> float:
    if parts:
        known = all(part.declared_bytes and part.bytes_per_s for part in parts)
        return sum(part.declared_s for part in parts) if known else 0.0
    return float(file.frames / file.samplerate) if file.frames < _UNKNOWN else 0.0


def _blocks(file: Any, others: list[Source], offset_s: float) -> Iterator[Block]:
    """The samples of the open file, then those of the WAVs behind it."""
    n_skip = round(offset_s * file.samplerate)
    n_frames = file.frames
    yield from _read(file, min(n_skip, n_frames))
    for other in others:
        n_skip = max(0, n_skip - n_frames)
        with soundfile.SoundFile(_at_start(other)) as file:
            n_frames = file.frames
            yield from _read(file, min(n_skip, n_frames))


def _read(file: Any, first_frame: int) -> Iterator[Block]:
    if first_frame and file.format == "MP3":
        _skip(file, first_frame)
    elif first_frame:
        file.seek(first_frame)
    n_frames = max(1, _BLOCK // file.channels)
    while True:
        samples: Floats = file.read(n_frames, dtype="float32", always_2d=True)
        if not len(samples):
            return
        yield Block(file.samplerate, np.asarray(samples, np.float32))


def _skip(file: Any, n_frames: int) -> None:
    """Decode and drop: a seek in an mp3 has no pre-roll, and its first 0.15 s are wrong."""
    while n_frames > 0:
        read = file.read(min(n_frames, _BLOCK), dtype="float32", always_2d=True)
        if not len(read):
            return
        n_frames -= len(read)
