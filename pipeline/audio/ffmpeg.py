"""Decode with PyAV (FFmpeg): broad, and tolerant of damage. Knows packets, not windows.

The samples that come out are where the file's timestamps say. A gap between packets, a packet that
cannot be decoded and the frames that a phone encoder does not transmit become silence of their
length, so that everything behind them keeps its time.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from pipeline.audio.headers import MP3_SLACK, has_ogg_end, mp3_surplus
from pipeline.audio.sources import Source
from pipeline.audio.streams import Block, Floats, Stream
from pipeline.errors import DecoderError, ErrorType, RecordingError

# Demuxers of audio that lies in the file itself. FFmpeg would also accept playlists, which open
# other files and hosts (hls, concat, dash, imf, sdp), images and subtitles, and raw samples, which
# any bytes are. https://ffmpeg.org/ffmpeg-formats.html, option format_whitelist.
_FORMATS = ",".join(
    (
        "aac,ac3,ac4,aea,aiff,amr,amrnb,amrwb,ape,apc,asf,ast,au,avi,avr,bfstm,brstm,caf,dsf,dss",
        "dts,dtshd,eac3,epaf,flac,flv,g729,gsm,iff,ilbc,ircam,loas,lc3,matroska,webm,mca,mlp,mmf",
        "mov,mp4,mp3,mpc,mpc8,mpeg,mpegts,msf,mxf,nist,nistsphere,nut,ogg,oma,osq,pvf,qcp,qoa,rka",
        "rm,rso,sbc,shn,sds,sol,sox,svag,tak,truehd,tta,vag,voc,vqf,w64,wav,wsd,wtv,wv,wve,xvag",
        "xwma",
    )
)
# Demuxers that read the length from the file; others estimate it from the bit rate or timestamps.
_KNOWN_LENGTH = {
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flac", "wav", "aiff", "mp3", "ogg"),
    *("w64", "caf", "tta", "wv", "ape", "au", "dsf", "tak", "mpc8"),
}
# Containers that store a time for their packets. Of the others FFmpeg counts the packets, wrongly
# where the rate changes.
_HAS_TIMES = {
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "ogg", "mpegts", "mpeg", "flv", "asf", "avi"),
    *("nut", "rm", "mxf", "wtv"),
}
# There the duration counts from 0, not from the first packet.
_END_NOT_LENGTH = {"ogg", "matroska,webm"}
_CAN_SEEK = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # with an index, exact to one packet
_PREROLL_S = 1.0  # decoded before an offset and dropped: AAC's and Opus's first packets are wrong

# A shorter gap is rounding of timestamps: Matroska, FLV and ASF count milliseconds, and a live
# recorder's clock shakes by some more. One lost packet of music is longer, of speech is 20 ms and
# then seen as a packet that does not decode.
_GAP_S = 0.04
_LONGEST_GAP_S = 24 * 3600.0  # a timestamp beyond it is damage, not silence
# Frame types of packets without speech: comfort noise, lost, nothing. 3GPP TS 26.101 and 26.201.
_DTX = {"amrnb": {8, 15}, "amrwb": {9, 14, 15}}
_DTX_S = 0.02

# Their frames have a checksum, which FFmpeg checks when asked to, and reports with "explode" only.
# Of other codecs that would refuse frames with harmless faults.
_CHECKED = {"flac", "wavpack"}

_BLOCK = 1 << 17  # values per block: these fit into the cache, twice as fast as 1 << 20
_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


@contextmanager
def open_ffmpeg(source: Source, offset_s: float) -> Iterator[Stream]:
    """The default audio stream of a file, from `offset_s` on. Raises DecoderError."""
    source.seek(0)
    try:
        with av.open(
            source,
            # Tags in GBK or Latin-1 are common and must not make a file fail.
            metadata_errors="replace",
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "none"},
        ) as container:
            index, audio = _choose_stream(container)
            stream = Stream(
                rate_hz=audio.rate or 0,
                channels=audio.channels,
                codec=f"{container.format.name.partition(',')[0]}/{audio.codec_context.name}",
                total_s=_declared_s(source, container, audio),
                start_offset_s=_start_offset_s(container, audio),
                n_audio_streams=len(container.streams.audio),
                audio_stream=index,
            )
            if container.format.name == "ogg" and not has_ogg_end(source):
                stream.warnings.append("no intact end-of-stream page; the file may be cut")
            stream.blocks = _batched(_Reader(source, container, audio, stream).blocks(offset_s))
            yield stream
    except av.FFmpegError as error:
        raise DecoderError(f"FFmpeg: {error.strerror}") from error


def _choose_stream(container: Any) -> tuple[int, Any]:
    """(its place among the audio streams, the stream): the one marked default, else the first."""
    streams = container.streams.audio
    if not streams:
        text = f"{container.format.name} without audio"
        raise RecordingError(ErrorType.NO_AUDIO_STREAM, text)
    usable = [one for one in enumerate(streams) if one[1].codec_context is not None]
    if not usable:
        raise DecoderError("FFmpeg: no decoder for the audio stream")
    default = [one for one in usable if one[1].disposition & Disposition.default]
    index, audio = (default or usable)[0]
    audio.codec_context.thread_count = 1  # a decode task has one CPU
    if audio.codec_context.name in _CHECKED:
        audio.codec_context.options = {"err_detect": "crccheck+explode"}
    audio.codec_context.open()
    return index, audio


def _first_s(audio: Any) -> float:
    return float((audio.start_time or 0) * audio.time_base)


def _declared_s(source: Source, container: Any, audio: Any) -> float:
    """Seconds from the first sample of the stream to its end, as the file declares."""
    name = container.format.name
    if name not in _KNOWN_LENGTH or (name == "mp3" and mp3_surplus(source) > MP3_SLACK):
        return 0.0
    before_s = _first_s(audio) if name in _END_NOT_LENGTH else 0.0
    if audio.duration:
        return max(0.0, float(audio.duration * audio.time_base) - before_s)
    # Matroska has one length for the whole file, that of its longest stream.
    is_single = len(container.streams) == 1
    length_s = container.duration / av.time_base if is_single and container.duration else 0.0
    return max(0.0, length_s - before_s)


def _start_offset_s(container: Any, audio: Any) -> float:
    """How much later the audio starts than the first stream; what all streams share is not it."""
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in container.streams
        if stream.start_time is not None and stream.type in ("audio", "video")
    ]
    offset_s = _first_s(audio) - min(starts, default=0.0) if len(starts) > 1 else 0.0
    return round(offset_s, 6) if offset_s > _GAP_S else 0.0  # less is priming and rounding


@dataclass(slots=True)
class _Reader:
    """One decoding of one stream."""

    source: Source
    container: Any
    audio: Any
    stream: Stream
    # Of the samples that came out so far, silence included, from the stream's first sample.
    _at_s: float = 0.0
    _last_s: float = 0.0  # how long the last frame was
    _origin_s: float | None = None  # the timestamp of the stream's first sample
    _names: tuple[str, ...] = field(default_factory=tuple)
    _held: Any = None  # a frame behind a gap that the next frame has to confirm
    _end_s: float = 0.0  # of the container, from the stream's first sample; 0: unknown

    def blocks(self, offset_s: float) -> Iterator[Block]:
        """Decoded frames from `offset_s` on, with silence where there is nothing to decode."""
        if offset_s > 2 * _PREROLL_S and self.container.format.name in _CAN_SEEK:
            target_s = _first_s(self.audio) + offset_s - _PREROLL_S
            self.container.seek(int(target_s / self.audio.time_base), stream=self.audio)
            self._origin_s = _first_s(self.audio)
            self._at_s = -1.0  # unknown until the first frame shows where the seek ended
        if self.container.duration:
            start = self.container.start_time or 0
            self._end_s = (self.container.duration + max(0, start)) / av.time_base
        is_first = True
        for block in self._all_blocks():
            length_s = len(block.samples) / block.rate_hz
            n_skip = round((offset_s - (self._at_s - length_s)) * block.rate_hz)
            if is_first and n_skip < 0:  # Matroska seeks to behind a gap, not to before it
                yield from self._before(block, -n_skip)
            is_first = False
            if n_skip < len(block.samples):
                yield Block(block.rate_hz, block.samples[max(0, n_skip) :], block.channels)

    def _before(self, block: Block, n_frames: int) -> Iterator[Block]:
        """The silence between the wanted place and the first block. It is read to be dropped."""
        silence = np.zeros((n_frames, block.samples.shape[1]), np.float32)
        yield Block(block.rate_hz, silence, block.channels)

    def _all_blocks(self) -> Iterator[Block]:
        for packet in self._packets():
            try:
                frames = packet.decode()
            except av.FFmpegError:  # whatever it is, it is an error of this packet
                yield from self._missing(packet)
                continue
            for frame in frames:
                yield from self._placed(frame)
        if self._held is not None:
            yield from self._frame(self._held)

    def _placed(self, frame: Any) -> Iterator[Block]:
        """A frame at its time. Silence before it only if the next frame confirms the gap.

        A flipped bit in one timestamp is no gap.
        """
        held, self._held = self._held, None
        if held is not None:
            gap_s = self._gap_before(held)
            if self._gap_before(frame) > gap_s / 2:
                self.stream.gap_s += gap_s
                yield from self._silence(gap_s)
            yield from self._frame(held)
        if self._gap_before(frame) > _GAP_S:
            self._held = frame
        else:
            yield from self._frame(frame)

    def _gap_before(self, frame: Any) -> float:
        """Seconds between the samples so far and this frame, as its timestamp says; or 0."""
        is_timed = frame.time is not None and self.container.format.name in _HAS_TIMES
        if not is_timed or self._origin_s is None or self._at_s < 0:
            return 0.0
        gap_s = float(frame.time - self._origin_s - self._at_s)
        ends_s = frame.time - self._origin_s + frame.samples / frame.sample_rate
        if self._end_s and ends_s > self._end_s + 1.0:
            return 0.0  # behind the end of the file: the timestamp is damaged
        return gap_s if gap_s < _LONGEST_GAP_S else 0.0

    def _packets(self) -> Iterator[Any]:
        """All packets; an error between them ends the stream and is a warning."""
        packets = self.container.demux(self.audio)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                if self._at_s <= 0:
                    raise
                unread = max(0, self.source.size - self.source.tell())
                self.stream.unread_share = unread / max(1, self.source.size)
                self.stream.end_error = f"cannot be read to its end: {error.strerror}"
                return
            if packet is None:
                return
            yield packet

    def _missing(self, packet: Any) -> Iterator[Block]:
        """Silence in place of a packet that does not decode."""
        if not packet.size:
            return  # the empty packet that ends a stream
        frame_type = bytes(packet)[0] >> 3 & 15
        if frame_type in _DTX.get(self.audio.codec_context.name, ()):
            self.stream.dtx_s += _DTX_S
            yield from self._silence(_DTX_S)
            return
        length_s = float((packet.duration or 0) * self.audio.time_base) or self._last_s
        self.stream.n_bad_packets += 1
        self.stream.bad_s += length_s
        yield from self._silence(length_s)

    def _frame(self, frame: Any) -> Iterator[Block]:
        rate_hz = frame.sample_rate
        if frame.time is not None:
            self._origin_s = frame.time if self._origin_s is None else self._origin_s
            if self._at_s < 0:
                self._at_s = max(0.0, frame.time - self._origin_s)
        self._at_s = max(0.0, self._at_s)
        self._names = tuple(channel.name for channel in frame.layout.channels)
        self._last_s = frame.samples / rate_hz
        self._at_s += self._last_s
        yield Block(rate_hz, _to_float(frame), self._names)

    def _silence(self, length_s: float) -> Iterator[Block]:
        rate_hz, channels = self.stream.rate_hz, max(1, self.stream.channels)
        self._at_s = max(0.0, self._at_s)
        left = round(length_s * rate_hz)
        while left > 0:
            n_frames = min(left, max(1, _BLOCK // channels))
            self._at_s += n_frames / rate_hz
            yield Block(rate_hz, np.zeros((n_frames, channels), np.float32), self._names)
            left -= n_frames


def _to_float(frame: Any) -> Floats:
    """An FFmpeg audio frame, planar or packed, of any sample type, as (n_frames, channels).

    Not `frame.to_ndarray()`: PyAV 18 counts planes up to a null pointer, which FFmpeg does not
    guarantee. For 7.1 sound it counts 9 planes and the process crashes.
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
    """Join frames of 20 ms to blocks: a frame costs resampler and numpy as much as a block."""
    for (rate_hz, channels, names), group in itertools.groupby(
        blocks, key=lambda block: (block.rate_hz, block.samples.shape[1], block.channels)
    ):
        n_frames = max(1, _BLOCK // channels)
        pending: list[Floats] = []
        n_pending = 0
        for block in group:
            pending.append(block.samples)
            n_pending += len(block.samples)
            if n_pending >= n_frames:
                yield Block(rate_hz, np.concatenate(pending), names)
                pending, n_pending = [], 0
        if pending:
            yield Block(rate_hz, np.concatenate(pending), names)
