"""Which decoders to try for a file, in order. Knows formats; decodes nothing."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from pipeline.audio.ffmpeg import open_ffmpeg
from pipeline.audio.headers import MP3_SLACK, is_flac_consistent, mp3_surplus
from pipeline.audio.libsndfile import open_soundfile
from pipeline.audio.sources import Source
from pipeline.audio.streams import Stream

Decoder = Callable[[Source, float], AbstractContextManager[Stream]]

_BOTH = {"RIFF", "RF64", "AIFF", "NIST SPHERE"}  # libsndfile first: it is twice as fast
_SOUNDFILE_ONLY = {"RIFX", "PVF", "PAF", "IRCAM", "AVR"}  # FFmpeg reads RIFX as noise


def decoders_for(name: str, source: Source) -> Sequence[Decoder]:
    """The decoders to try for a file of this format, in order.

    libsndfile stops without an error after the first of several mp3, FLAC or Ogg streams in one
    file, at the length that a FLAC declares, and at the length that it estimates for an mp3
    without a header; it also decodes random bytes as mp3.
    """
    if name in _SOUNDFILE_ONLY:
        return (open_soundfile,)
    is_whole_mp3 = name == "MP3" and abs(mp3_surplus(source)) <= MP3_SLACK
    is_whole_flac = name == "FLAC" and is_flac_consistent(source) and _is_single(source, b"fLaC")
    if name in _BOTH or is_whole_mp3 or is_whole_flac:
        return open_soundfile, open_ffmpeg
    return (open_ffmpeg,)


def _is_single(source: Source, magic: bytes) -> bool:
    """Whether these bytes stand only at the start, as far as the file is in memory."""
    return not source.is_in_memory or source.find(magic, 4) < 0
