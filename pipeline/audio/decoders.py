"""Files to blocks of float samples at their own rate, by two decoders. Knows formats, no windows.

soundfile (libsndfile) is fast and strict: wav, aiff, flac and whole mp3. PyAV (FFmpeg) is broad and
forgiving: everything else, and what soundfile refuses.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile

from pipeline.audio.sources import Source
from pipeline.errors import DecoderError, ErrorType, RecordingError

Floats = npt.NDArray[np.float32]  # (n_frames, channels) or (n_samples,), full scale 1
Block = tuple[int, Floats]  # the rate in Hz, and (n_frames, channels)

# Values (frames x channels) at a time: stays in the cache, twice as fast as 1 << 20.
_BLOCK = 1 << 17

# FFmpeg would also take playlists, which open other files and hosts (hls, concat, dash), images
# and subtitles. https://ffmpeg.org/ffmpeg-formats.html, option format_whitelist.
_FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,flac,flv,matroska,webm,mov,mp4,mp3,"
    "mpc,mpc8,mpeg,mpegts,nistsphere,ogg,rm,tta,voc,w64,wav,wv"
)
# Demuxers that know how long their audio is; the others guess from the bit rate or from timestamps.
_KNOW_LENGTH = {
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flac", "wav", "aiff", "mp3"),
    "ogg",  # that of its last stream, if there are several
}
_CAN_SEEK = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # by an index, exact to the packet
_SOUNDFILE_READS = {"RIFF", "RF64", "AIFF", "FLAC", "NIST SPHERE"}
_MP3_SLACK = 256  # bytes: an ID3v1 tag of 128 may follow the audio that the header counts
_PREROLL_S = 1.0  # decode this much before an offset: AAC and Opus need some packets to settle

_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


@dataclass(slots=True)
class Stream:
    """An opened recording. `blocks` can be read once."""

    rate_hz: int
    channels: int
    codec: str
    total_s: float  # what the container declares; 0: it does not, or it guesses
    warnings: list[str] = field(default_factory=list)
    n_packets: int = 0
    n_bad_packets: int = 0
    blocks: Iterator[Block] = field(default_factory=lambda: iter(()))


_Decoder = Callable[[Source, float], AbstractContextManager[Stream]]


@contextmanager
def _open_soundfile(source: Source, offset_s: float) -> Iterator[Stream]:
    source.seek(0)
    try:
        with soundfile.SoundFile(source) as file:
            rate_hz, n_frames = file.samplerate, file.frames
            stream = Stream(
                rate_hz=rate_hz,
                channels=file.channels,
                codec=f"{file.format}/{file.subtype}".lower(),
                # A FLAC written to a pipe does not know its length; libsndfile says 2^63 - 1.
                total_s=n_frames / rate_hz if n_frames < 1 << 62 else 0.0,
            )
            # libsndfile trusts the bytes, and notes in its log what the header said instead.
            if any("should be" in line and "data" in line for line in file.extra_info.split("\n")):
                stream.warnings.append("the header claims more audio than the file holds")
            stream.blocks = _soundfile_blocks(file, min(round(offset_s * rate_hz), n_frames))
            yield stream
    except soundfile.SoundFileError as error:
        raise DecoderError(f"soundfile: {getattr(error, 'error_string', error)}") from error


def _soundfile_blocks(file: Any, first_frame: int) -> Iterator[Block]:
    if first_frame:
        file.seek(first_frame)
    n_frames = max(1, _BLOCK // file.channels)
    while True:
        block = file.read(n_frames, dtype="float32", always_2d=True)
        if not len(block):
            return
        yield file.samplerate, block


@contextmanager
def _open_av(source: Source, offset_s: float) -> Iterator[Stream]:
    source.seek(0)
    try:
        with av.open(
            source,
            # Tags in GBK or Latin-1 are common, and no reason to refuse a file.
            metadata_errors="replace",
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "none"},
        ) as container:
            if not container.streams.audio:
                raise RecordingError(
                    ErrorType.NO_AUDIO_STREAM, f"{container.format.name} without audio"
                )
            audio = container.streams.audio[0]
            if audio.codec_context is None:
                raise DecoderError("FFmpeg: no decoder for the audio stream")
            audio.codec_context.thread_count = 1  # a decode task has one CPU
            audio.codec_context.open()
            stream = Stream(
                rate_hz=audio.rate or 0,
                channels=audio.channels,
                codec=f"{container.format.name.partition(',')[0]}/{audio.codec_context.name}",
                total_s=_declared_s(source, container, audio),
            )
            if container.format.name == "ogg" and not _ends_ogg(source):
                stream.warnings.append("no end-of-stream page; the file may be cut")
            stream.blocks = _batched(_av_frames(container, audio, stream, offset_s))
            yield stream
    except av.FFmpegError as error:
        raise DecoderError(f"FFmpeg: {error.strerror}") from error


def _declared_s(source: Source, container: Any, audio: Any) -> float:
    name = container.format.name
    if name not in _KNOW_LENGTH or (name == "mp3" and _mp3_surplus(source) > _MP3_SLACK):
        return 0.0
    if audio.duration:
        return float(audio.duration * audio.time_base)
    # Matroska gives one length for the file, which is that of its longest stream.
    alone = len(container.streams) == 1
    return container.duration / av.time_base if alone and container.duration else 0.0


def _mp3_surplus(source: Source) -> float:
    """Bytes of an mp3 beyond what its Xing or Info header declares; infinite without a header.

    http://gabriel.mp3-tech.org/mp3infotag.html: tag, flags, frames if flags & 1,
    bytes if flags & 2.
    """
    position = source.tell()
    id3 = source.head(10)
    start = 0
    if id3.startswith(b"ID3"):  # the size has 7 bits per byte and leaves out these 10
        start = 10 + sum(byte << 7 * i for i, byte in enumerate(reversed(id3[6:10])))
    frame = source.head(256, start)
    source.seek(position)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16 or frame[at + 7] & 3 != 3:
        return math.inf
    return source.size - start - int.from_bytes(frame[at + 12 : at + 16], "big")


def _ends_ogg(source: Source) -> bool:
    """Whether the last page, of 64 KiB at most, is marked as such (RFC 3533: byte 5, bit 2)."""
    position = source.tell()
    tail = source.head(1 << 16, max(0, source.size - (1 << 16)))
    source.seek(position)
    page = tail.rfind(b"OggS")
    return page >= 0 and tail[page + 5 : page + 6] >= b"\4"


def _av_frames(container: Any, audio: Any, stream: Stream, offset_s: float) -> Iterator[Block]:
    """Decoded frames from `offset_s` on. Packets that do not decode are counted and left out."""
    first_s = float((audio.start_time or 0) * audio.time_base)
    seeks = offset_s > 2 * _PREROLL_S and container.format.name in _CAN_SEEK
    if seeks:
        target_s = first_s + offset_s - _PREROLL_S
        container.seek(int(target_s / audio.time_base), stream=audio)
    n_skip = -1  # frames still to leave out; known once the first one tells where the seek landed
    for packet in container.demux(audio):
        stream.n_packets += 1
        try:
            frames = packet.decode()
        except (av.InvalidDataError, av.ArgumentError):
            stream.n_bad_packets += 1
            continue
        for frame in frames:
            if n_skip < 0:
                at_s = frame.time - first_s if seeks else 0.0
                n_skip = max(0, round((offset_s - at_s) * frame.sample_rate))
            if n_skip < frame.samples:
                yield frame.sample_rate, _to_float(frame)[n_skip:]
            n_skip = max(0, n_skip - frame.samples)


def _to_float(frame: Any) -> Floats:
    """An FFmpeg audio frame, planar or packed, of any sample type, as (n_frames, channels).

    Not `frame.to_ndarray()`: PyAV 18 counts planes up to a null pointer, which FFmpeg does not
    promise; of 7.1 sound it finds 9 and the process dies.
    """
    channels, is_planar = frame.layout.nb_channels, frame.format.is_planar
    dtype = np.dtype(_SAMPLE_TYPES[frame.format.packed.name])
    n_values = frame.samples if is_planar else frame.samples * channels
    planes = frame.planes[: channels if is_planar else 1]
    values = np.stack([np.frombuffer(plane, dtype, n_values) for plane in planes])
    values = values.T if is_planar else values.reshape(frame.samples, channels)
    scaled: Floats = values.astype(np.float32)
    if dtype == np.uint8:
        scaled -= 128
        scaled /= 128
    elif dtype.kind == "i":
        scaled /= 2.0 ** (8 * dtype.itemsize - 1)
    return scaled


def _batched(blocks: Iterator[Block]) -> Iterator[Block]:
    """Frames of 20 ms joined to blocks: the resampler and numpy cost as much for a short one."""
    for (rate_hz, channels), group in itertools.groupby(
        blocks, key=lambda block: (block[0], block[1].shape[1])
    ):
        n_frames = max(1, _BLOCK // channels)
        held: list[Floats] = []
        n_held = 0
        for _, block in group:
            held.append(block)
            n_held += len(block)
            if n_held >= n_frames:
                yield rate_hz, np.concatenate(held)
                held, n_held = [], 0
        if held:
            yield rate_hz, np.concatenate(held)


def decoders_for(name: str, source: Source) -> Sequence[_Decoder]:
    """What to read a file with, in turn.

    libsndfile stops, without a word, after the first of several mp3 or Ogg streams in one file and
    at the length that it guesses for an mp3 without a header, and takes random bytes for mp3.
    """
    whole_mp3 = name == "MP3" and abs(_mp3_surplus(source)) <= _MP3_SLACK
    if name in _SOUNDFILE_READS or whole_mp3:
        return _open_soundfile, _open_av
    return (_open_av,)
