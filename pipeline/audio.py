"""Recordings to 16 kHz mono int16 waveforms, streamed. Knows formats and rates, not speech.

Two decoders: soundfile (libsndfile), fast and strict, for wav, aiff, flac and whole mp3; PyAV
(FFmpeg), broad and forgiving, for everything else and for what soundfile refuses. What a file is
called does not matter, only its bytes do. When soundfile breaks midway, PyAV takes over from the
start of the file and the samples that were already delivered are skipped.
"""

import errno
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from pipeline.config import AudioConfig
from pipeline.schema import FRAME, FRAME_LENGTH, SAMPLE_RATE, RecordingError
from pipeline.storage import filesystem_for

Waveform = npt.NDArray[np.int16]  # (n_samples,), mono, SAMPLE_RATE
Floats = npt.NDArray[np.float32]  # (n_frames, channels) or (n_samples,), full scale 1
_Block = tuple[int, Floats]  # the rate in Hz, and (n_frames, channels)

_FETCH_WHOLE = 32 << 20  # bytes: one request is quicker than many small ones
_READ_AHEAD = 8 << 20  # bytes per request of a larger file, which is read from front to back
_BLOCK = (
    1 << 17
)  # values (frames x channels) at a time: stays in the cache, twice as fast as 1 << 20
_LOUDEST = 16.0  # +24 dB over full scale; a float file beyond it is not scaled as audio is
_SLACK_S = 0.1  # lengths in headers are rounded, and codecs pad and prime by up to 0.1 s

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

_SIGNATURES = (  # (offset, bytes, what it is, whether it may hold audio)
    (0, b"RIFF", "RIFF", True),
    (0, b"fLaC", "FLAC", True),
    (0, b"OggS", "Ogg", True),
    (0, b"ID3", "MP3", True),
    (4, b"ftyp", "MP4", True),
    (0, b"\x1a\x45\xdf\xa3", "Matroska", True),
    (0, b"#!AMR", "AMR", True),
    (0, b"\x30\x26\xb2\x75", "ASF", True),
    (0, b"FORM", "AIFF", True),
    (0, b"RF64", "RF64", True),
    (0, b"NIST_1A", "NIST SPHERE", True),
    (0, b"\x1f\x8b", "gzip", False),
    (0, b"PK\x03\x04", "a zip archive", False),
    (0, b"\x28\xb5\x2f\xfd", "zstd", False),
    (0, b"BZh", "bzip2", False),
    (0, b"\xfd7zXZ", "xz", False),
    (0, b"%PDF", "PDF", False),
    (0, b"\x89PNG", "a PNG image", False),
    (0, b"\xff\xd8\xff", "a JPEG image", False),
    (0, b"PAR1", "parquet", False),
)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a recording. `waveform` is int16 (n_samples,) at SAMPLE_RATE, mono."""

    index: int
    start_s: float  # in file time
    waveform: Waveform
    is_last: bool
    sample_rate_hz: int  # of the file
    channels: int
    codec: str
    warning: str  # "" or what is odd about the file as far as it was read; complete on the last


def decode(
    uri: str,
    config: AudioConfig,
    options: Mapping[str, Any],
    offset_s: float = 0.0,
    length_s: float = 0.0,
) -> Iterator[Window]:
    """The windows of a recording, or of a stretch of it (`length_s` 0: to the end), in order.

    A recording longer than `config.window_s` is cut at quiet spots; the windows follow one another
    sample for sample. Holds about two windows at a time, whatever the length of the file. Raises
    RecordingError, also after some windows when a file breaks late.
    """
    _check_range(offset_s, length_s)
    report = _Report()
    n_before = 0
    with _open(uri, config, options) as source:
        samples = _samples(source, config, offset_s, length_s, report)
        for index, (waveform, is_last) in enumerate(_cut(samples, config.window_s)):
            yield Window(
                index=index,
                start_s=offset_s + n_before / SAMPLE_RATE,
                waveform=waveform,
                is_last=is_last,
                sample_rate_hz=report.stream.rate_hz,
                channels=report.stream.channels,
                codec=report.stream.codec,
                warning="; ".join(report.warnings),
            )
            n_before += waveform.size


# ------------------------------------------------------------------------------ bytes


class _Source:
    """A file that remembers why it failed.

    libsndfile reads through C callbacks: cffi prints an exception raised in one and returns 0,
    which looks like the end of the file. So an exception is kept here, and asked for afterwards.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file
        self._failure: Exception | None = None

    def read(self, n: int = -1) -> bytes:
        try:
            return self._file.read(n)
        except Exception as error:
            self._failure = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError):  # before the start, as broken headers ask for
            return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def head(self, n: int, start: int = 0) -> bytes:
        self.seek(start)
        data = self.read(n)
        self.seek(0)
        self.check()
        return data

    def check(self) -> None:
        """Raise what reading has failed with, if it has."""
        if self._failure:
            raise explain_store_error(self._failure)


@contextmanager
def _open(uri: str, config: AudioConfig, options: Mapping[str, Any]) -> Iterator[_Source]:
    try:
        fs, path = filesystem_for(uri, options)
        info = fs.info(path)
        size = info["size"] or 0
        if info["type"] != "file":  # a FIFO or /dev/zero would never end
            raise RecordingError("NotAFile", f"{path} is a {info['type']}, not a regular file")
        if not size:
            raise RecordingError("EmptyFile", "the file has no bytes")
        if size > config.max_bytes:
            raise RecordingError(
                "TooLarge", f"{size} bytes; audio.max_bytes allows {config.max_bytes}"
            )
        if size <= _FETCH_WHOLE:
            file: BinaryIO = BytesIO(fs.cat_file(path))
        else:
            file = fs.open(path, "rb", block_size=_READ_AHEAD, cache_type="readahead")
    except RecordingError:
        raise
    except Exception as error:
        raise explain_store_error(error) from error
    with file:
        yield _Source(file, size)


def explain_store_error(error: Exception) -> RecordingError:
    """Whatever a filesystem raises, as FileMissing, AccessDenied, BadUri or StoreUnavailable.

    s3fs turns 404, 403 and 400 into built-in errors; 5xx, timeouts and lost connections come in
    many types, and may pass.
    """
    message = f"{type(error).__name__}: {error}"
    code = getattr(error, "errno", 0)
    gone = (FileNotFoundError, NotADirectoryError)
    if isinstance(error, gone) or code in (errno.ELOOP, errno.ENAMETOOLONG):
        return RecordingError("FileMissing", message)
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return RecordingError("AccessDenied", message)
    # An unknown scheme, a NUL in the path, a name that cannot be a bucket's
    refused = isinstance(error, ValueError | ImportError) or code == errno.EINVAL
    if refused or type(error).__name__ == "ParamValidationError":
        return RecordingError("BadUri", message)
    return RecordingError("StoreUnavailable", message)


def _sniff(head: bytes) -> tuple[str, bool | None]:
    """What the first bytes look like, and whether that may hold audio (None: cannot tell)."""
    for start, signature, name, is_audio in _SIGNATURES:
        if head[start:].startswith(signature):
            return name, is_audio
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "HTML", False
    if text.startswith((b"<?xml", b"<error")):
        return "an XML error document" if b"<error" in text else "XML", False
    if text.startswith((b"{", b"[")) and head.isascii():
        return "JSON", False
    if head.isascii() and head.decode("ascii").replace("\n", "").replace("\r", "").isprintable():
        return "text", False
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return ("AAC" if head[1] & 0xF6 == 0xF0 else "MP3"), True
    return f"unknown bytes ({head[:8].hex(' ')})", None


# --------------------------------------------------------------------------- decoders


class _Refused(Exception):
    """A decoder cannot read this file, or cannot read on."""


@dataclass(slots=True)
class _Stream:
    """An opened recording. `blocks` can be read once."""

    rate_hz: int
    channels: int
    codec: str
    total_s: float  # what the container declares; 0: it does not, or it guesses
    warnings: list[str] = field(default_factory=list)
    n_packets: int = 0
    n_bad_packets: int = 0
    blocks: Iterator[_Block] = field(default_factory=lambda: iter(()))


_Decoder = Callable[[_Source, float], AbstractContextManager[_Stream]]


@contextmanager
def _open_soundfile(source: _Source, offset_s: float) -> Iterator[_Stream]:
    source.seek(0)
    try:
        with soundfile.SoundFile(source) as file:
            rate_hz, n_frames = file.samplerate, file.frames
            stream = _Stream(
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
        raise _Refused(f"soundfile: {getattr(error, 'error_string', error)}") from error


def _soundfile_blocks(file: Any, first_frame: int) -> Iterator[_Block]:
    if first_frame:
        file.seek(first_frame)
    n_frames = max(1, _BLOCK // file.channels)
    while True:
        block = file.read(n_frames, dtype="float32", always_2d=True)
        if not len(block):
            return
        yield file.samplerate, block


@contextmanager
def _open_av(source: _Source, offset_s: float) -> Iterator[_Stream]:
    source.seek(0)
    try:
        with av.open(
            source,
            # Tags in GBK or Latin-1 are common, and no reason to refuse a file.
            metadata_errors="replace",
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "none"},
        ) as container:
            if not container.streams.audio:
                raise RecordingError("NoAudioStream", f"{container.format.name} without audio")
            audio = container.streams.audio[0]
            if audio.codec_context is None:
                raise _Refused("FFmpeg: no decoder for the audio stream")
            audio.codec_context.thread_count = 1  # a decode task has one CPU
            audio.codec_context.open()
            stream = _Stream(
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
        raise _Refused(f"FFmpeg: {error.strerror}") from error


def _declared_s(source: _Source, container: Any, audio: Any) -> float:
    name = container.format.name
    if name not in _KNOW_LENGTH or (name == "mp3" and _mp3_surplus(source) > _MP3_SLACK):
        return 0.0
    if audio.duration:
        return float(audio.duration * audio.time_base)
    # Matroska gives one length for the file, which is that of its longest stream.
    alone = len(container.streams) == 1
    return container.duration / av.time_base if alone and container.duration else 0.0


def _mp3_surplus(source: _Source) -> float:
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


def _ends_ogg(source: _Source) -> bool:
    """Whether the last page, of 64 KiB at most, is marked as such (RFC 3533: byte 5, bit 2)."""
    position = source.tell()
    tail = source.head(1 << 16, max(0, source.size - (1 << 16)))
    source.seek(position)
    page = tail.rfind(b"OggS")
    return page >= 0 and tail[page + 5 : page + 6] >= b"\4"


def _av_frames(container: Any, audio: Any, stream: _Stream, offset_s: float) -> Iterator[_Block]:
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


def _batched(blocks: Iterator[_Block]) -> Iterator[_Block]:
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


def _decoders(name: str, source: _Source) -> Sequence[_Decoder]:
    """What to read a file with, in turn.

    libsndfile stops, without a word, after the first of several mp3 or Ogg streams in one file and
    at the length that it guesses for an mp3 without a header, and takes random bytes for mp3.
    """
    whole_mp3 = name == "MP3" and abs(_mp3_surplus(source)) <= _MP3_SLACK
    if name in _SOUNDFILE_READS or whole_mp3:
        return _open_soundfile, _open_av
    return (_open_av,)


# --------------------------------------------------------------------------- waveform


@dataclass(slots=True)
class _Report:
    """What decoding learns on the way."""

    stream: _Stream = field(default_factory=lambda: _Stream(0, 0, "", 0.0))
    warnings: list[str] = field(default_factory=list)


def _samples(
    source: _Source, config: AudioConfig, offset_s: float, length_s: float, report: _Report
) -> Iterator[Waveform]:
    """The asked stretch in pieces. Raises RecordingError when it is not to be had in full."""
    name, is_audio = _sniff(source.head(512))
    if is_audio is False:
        raise RecordingError("NotAudio", f"looks like {name}")
    n_wanted = round(length_s * SAMPLE_RATE) or sys.maxsize
    n_done = 0
    refusals: list[str] = []
    for open_stream in _decoders(name, source):
        try:
            with open_stream(source, offset_s) as stream:
                report.stream = stream
                _check_stream(stream, config, offset_s, length_s)
                for piece in _stretch(_to_waveform(stream.blocks, offset_s), n_done, n_wanted):
                    n_done += piece.size
                    if n_done > config.max_duration_s * SAMPLE_RATE:
                        raise _too_long(n_done / SAMPLE_RATE, config)
                    yield piece
            break
        except _Refused as error:
            source.check()
            refusals.append(str(error))
            if report.stream.codec:  # it was open: the break lies somewhere in the audio
                report.warnings.append(str(error))
    else:
        kind = "Undecodable" if is_audio else "NotAudio"
        raise RecordingError(kind, f"looks like {name}; " + "; ".join(refusals))
    source.check()
    _check_end(n_done, config, offset_s, length_s, report)


def _to_waveform(blocks: Iterator[_Block], offset_s: float) -> Iterator[Waveform]:
    """Down to one channel, to 16 kHz, to int16. The rate may change on the way (HE-AAC, chains)."""
    at_s = offset_s
    for rate_hz, group in itertools.groupby(blocks, key=lambda block: block[0]):
        resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        for _, block in group:
            mono = _downmix(block, at_s, rate_hz)
            at_s += len(mono) / rate_hz
            yield _quantise(mono if rate_hz == SAMPLE_RATE else resampler.resample_chunk(mono))
        if rate_hz != SAMPLE_RATE:
            yield _quantise(resampler.resample_chunk(np.empty(0, np.float32), last=True))


def _downmix(block: Floats, at_s: float, rate_hz: int) -> Floats:
    peak = max(float(block.max()), -float(block.min()))
    if not peak <= _LOUDEST:  # not "peak > _LOUDEST": NaN compares false
        bad = ~(np.abs(block) <= _LOUDEST).all(axis=1)
        where = f"at {at_s + int(bad.argmax()) / rate_hz:.3f} s"
        if np.isfinite(block).all():
            raise RecordingError("OutOfRange", f"sample of {peak:.3g} {where}; full scale is 1")
        raise RecordingError("NonFinite", f"NaN or infinite sample {where}")
    channels = block.shape[1]
    return block[:, 0] if channels == 1 else block @ np.full(channels, 1 / channels, np.float32)


def _quantise(samples: Floats) -> Waveform:
    """Scaled by 2^15 as 16-bit files are, so those come out as they went in."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def _stretch(pieces: Iterable[Waveform], n_skip: int, n_wanted: int) -> Iterator[Waveform]:
    """The pieces without their first `n_skip` samples, up to sample `n_wanted`."""
    position = 0
    for piece in pieces:
        kept = piece[max(0, n_skip - position) : n_wanted - position]
        position += piece.size
        if kept.size:
            yield kept
        if position >= n_wanted:
            return


def _cut(pieces: Iterable[Waveform], window_s: float) -> Iterator[tuple[Waveform, bool]]:
    """(waveform, is_last) of at most `window_s`, joined from pieces and cut where it is quiet."""
    n_window = round(window_s * SAMPLE_RATE)
    held: list[Waveform] = []
    n_held = 0
    for piece in pieces:
        held.append(piece)
        n_held += piece.size
        while n_held > n_window:
            whole = np.concatenate(held)
            cut = _quietest(whole[:n_window])
            yield whole[:cut], False
            held, n_held = [whole[cut:].copy()], n_held - cut
    yield np.concatenate(held), True


def _quietest(window: Waveform) -> int:
    """Middle of the quietest half second in the last minute (or quarter, if that is shorter)."""
    tail = window[-min(60 * SAMPLE_RATE, window.size // 4) :]
    hops = tail[: tail.size // FRAME * FRAME].reshape(-1, FRAME).astype(np.int64)
    total = np.concatenate([[0], np.cumsum(np.square(hops).sum(axis=1))])
    n_hops = SAMPLE_RATE // 2 // FRAME
    energy = total[n_hops:] - total[:-n_hops]
    last = energy.size - 1 - int(energy[::-1].argmin())  # of equals the last: longer windows
    return int(window.size - tail.size + (last + n_hops // 2) * FRAME)


# ----------------------------------------------------------------------------- checks


def _check_range(offset_s: float, length_s: float) -> None:
    if not (math.isfinite(offset_s) and offset_s >= 0 and math.isfinite(length_s)):
        raise RecordingError("BadRange", f"offset {offset_s} s, length {length_s} s")
    if length_s < 0 or 0 < length_s < 0.5 / SAMPLE_RATE:
        raise RecordingError("BadRange", f"length {length_s} s is not positive")


def _check_stream(stream: _Stream, config: AudioConfig, offset_s: float, length_s: float) -> None:
    rate_hz, channels, total_s = stream.rate_hz, stream.channels, stream.total_s
    if not config.min_rate_hz <= rate_hz <= config.max_rate_hz:
        allowed = f"{config.min_rate_hz} to {config.max_rate_hz}"
        raise RecordingError("BadRate", f"{rate_hz} Hz; audio.min/max_rate_hz allow {allowed}")
    if channels > config.max_channels:
        raise RecordingError(
            "TooManyChannels", f"{channels}; audio.max_channels allows {config.max_channels}"
        )
    wanted_s = min(length_s or math.inf, total_s - offset_s) if total_s else length_s
    if wanted_s > config.max_duration_s:
        raise _too_long(wanted_s, config)


def _check_end(
    n_done: int, config: AudioConfig, offset_s: float, length_s: float, report: _Report
) -> None:
    """Compare what was heard with what the container declares and the manifest asks for."""
    stream, heard_s = report.stream, n_done / SAMPLE_RATE
    report.warnings += stream.warnings
    left_s = stream.total_s - offset_s if stream.total_s else 0.0
    expected_s = min(left_s, length_s or math.inf)
    if expected_s - heard_s > _SLACK_S:
        text = f"{heard_s:.2f} s decoded of {expected_s:.2f} s that the file declares"
        if heard_s < config.min_decoded_share * expected_s:
            raise RecordingError("Truncated", text)
        report.warnings.append(text)
    if stream.n_bad_packets:
        text = f"{stream.n_bad_packets} of {stream.n_packets} packets could not be decoded"
        if stream.n_bad_packets > (1 - config.min_decoded_share) * stream.n_packets:
            raise RecordingError("Undecodable", text)
        report.warnings.append(text)
    if not n_done and offset_s:
        end = f" at {stream.total_s:.3f} s" if stream.total_s else ""
        raise RecordingError("BadRange", f"offset {offset_s} s lies beyond the end{end}")
    if not n_done:
        raise RecordingError("NoSamples", f"{stream.codec} without a sample")
    if n_done < FRAME_LENGTH:
        raise RecordingError("TooShort", f"{heard_s * 1000:.1f} ms; one analysis frame is 25 ms")
    if length_s - heard_s > FRAME / SAMPLE_RATE and (not left_s or length_s > left_s):
        report.warnings.append(f"the range ends {length_s - heard_s:.2f} s after the file")


def _too_long(duration_s: float, config: AudioConfig) -> RecordingError:
    limit = f"audio.max_duration_s allows {config.max_duration_s:.0f}"
    return RecordingError("TooLong", f"{duration_s:.0f} s; {limit}")
