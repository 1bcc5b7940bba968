"""Recordings to 16 kHz int16 waveforms, one window at a time. Knows nothing of speech.

The format is detected from the bytes of a file, not from its name. If soundfile fails in the middle
of a file, PyAV decodes it again from the start, and the samples that were already yielded are
skipped.
"""

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.audio.channels import Selection, Waveform, Waveforms
from pipeline.audio.checks import Report, Stretch
from pipeline.audio.decoders import decoders_for
from pipeline.audio.downmix import Downmix
from pipeline.audio.headers import format_of
from pipeline.audio.meter import HOPS_PER_S, Measures, Meter, Meters
from pipeline.audio.resamplers import give_back, take
from pipeline.audio.sources import Source, open_source
from pipeline.audio.streams import Block, Floats
from pipeline.config import AudioConfig
from pipeline.errors import DecoderError, ErrorType, RecordingError
from pipeline.schema import FRAME, SAMPLE_RATE

_SHORTEST_S = 10.0  # of a window, as audio.window_s
_SETTLED_S = 0.1  # a resampler's filter is shorter
NO_LEVELS: Floats = np.empty((0, 3), np.float32)  # of a window that was not measured
_MAX_PEAK = 16.0  # +24 dB over full scale; a float file with higher values is not scaled as audio


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a recording. `waveform` is int16 (n_samples,) at SAMPLE_RATE, mono."""

    index: int
    start_s: float  # from the start of the file
    waveform: Waveform
    is_last: bool
    sample_rate_hz: int  # of the file
    channels: int
    codec: str
    warning: str  # "" or the problems found in the file so far; complete on the last window
    gap_s: float = 0.0  # silence in place of gaps so far; complete on the last window
    start_offset_s: float = 0.0  # how much later the audio starts than the file's video
    n_audio_streams: int = 1
    audio_stream: int = 0  # which of them was decoded, from 0
    channel: int = 0  # of the file, from 1; 0: all channels
    is_only: bool = False  # the stretch is this window, or one such window of each channel
    # If it was measured: the levels of its hops (meter.Meter.levels), and on the last window what
    # was measured of the recording.
    levels: Floats = field(default_factory=lambda: NO_LEVELS)
    measures: Measures | None = None


def decode(
    uri: str,
    config: AudioConfig,
    options: Mapping[str, Any],
    offset_s: float = 0.0,
    length_s: float = 0.0,
    channel: int = 0,
) -> Iterator[Window]:
    """The windows of a recording, or of a part of it (`length_s` 0: up to the end), in order.

    `channel` is the only one that is wanted, from 1; 0: as configured. Raises RecordingError; see
    decode_source.
    """
    with open_source(uri, config, options) as source:
        yield from decode_source(source, config, offset_s, length_s, channel)


def decode_source(
    source: Source,
    config: AudioConfig,
    offset_s: float = 0.0,
    length_s: float = 0.0,
    channel: int = 0,
    *,
    measure: bool = False,
) -> Iterator[Window]:
    """The windows of an open recording, in order; of several streams one after the other.

    A recording longer than `config.window_s` is cut where it is quiet; each window starts at the
    sample after the one before. About two windows are in memory at a time, however long the file
    is: of channels that are kept side by side, windows are as much shorter. Raises RecordingError,
    also after some windows if the file is damaged near its end.
    """
    report = Report(config, Stretch(offset_s, length_s, channel))
    selection = Selection(config.channels, channel)
    measured = Measured(offset_s, length_s) if measure else None
    if measured:
        report.meters = Meters([measured.wanted])
    n_before = 0
    index = itertools.count()
    try:
        for kept, is_last in _cut(samples(source, report, selection), config.window_s):
            start_s = offset_s + n_before / SAMPLE_RATE
            streams = selection.streams(kept, report.stream.channels, report.warnings)
            is_only = is_last and not n_before
            for place, (number, waveform) in enumerate(streams, start=1):
                window = make_window(
                    report,
                    index=next(index),
                    start_s=start_s,
                    waveform=waveform,
                    is_last=is_last and place == len(streams),
                    channel=number,
                    is_only=is_only,
                )
                yield measured.complete(window) if measured else window
            n_before += len(kept)
    except RecordingError as error:
        error.found = _found(report, n_before, selection.n_streams)
        raise


def make_window(
    report: Report,
    *,
    index: int,
    start_s: float,
    waveform: Waveform,
    is_last: bool,
    channel: int,
    is_only: bool,
) -> Window:
    """A window, with what is known of its recording so far."""
    stream = report.stream
    return Window(
        index=index,
        start_s=start_s,
        waveform=waveform,
        is_last=is_last,
        sample_rate_hz=stream.rate_hz,
        channels=stream.channels,
        codec=stream.codec,
        warning="; ".join(report.warnings),
        gap_s=stream.gap_s,
        start_offset_s=stream.start_offset_s,
        n_audio_streams=stream.n_audio_streams,
        audio_stream=stream.audio_stream,
        channel=channel,
        is_only=is_only,
    )


class Measured:
    """The meter of one recording, and the hash of its samples."""

    def __init__(self, offset_s: float, length_s: float) -> None:
        self._meter = Meter()
        self._offset_s = offset_s
        self._hashes: dict[int, Any] = {}  # by channel
        self.wanted = (self._meter, offset_s, offset_s + (length_s or math.inf))

    def complete(self, window: Window) -> Window:
        """The next window, with its levels; the last one also with the recording's measures."""
        of_channel = self._hashes.setdefault(window.channel, hashlib.sha256())
        of_channel.update(window.waveform.data)
        if window.is_last:
            self._meter.finish()
        first, end = hops_of(window.start_s - self._offset_s, window.waveform.size / SAMPLE_RATE)
        measures = None
        if window.is_last:
            measures = replace(self._meter.measures(), audio_sha256=self._sha256())
        return replace(window, levels=self._meter.levels(first, end), measures=measures)

    def _sha256(self) -> str:
        """Of the samples; of several channels the hash of their hashes, whatever the windows."""
        hashes = [self._hashes[channel] for channel in sorted(self._hashes)]
        if len(hashes) == 1:
            return str(hashes[0].hexdigest())
        return hashlib.sha256(b"".join(one.digest() for one in hashes)).hexdigest()


def hops_of(start_s: float, duration_s: float) -> tuple[int, int]:
    """The first hop of a stretch of a recording, and the one after its last."""
    first = math.floor(start_s * HOPS_PER_S + 1e-6)
    return first, max(first + 1, math.ceil((start_s + duration_s) * HOPS_PER_S - 1e-6))


def _found(report: Report, n_before: int, n_streams: int) -> dict[str, Any]:
    """What is known of a recording that failed, and the seconds decoded since its last window."""
    stream = report.stream
    if not stream.codec:
        return {}
    return {
        "window_start_s": report.stretch.offset_s + n_before / SAMPLE_RATE,
        "duration_s": (report.n_samples - n_before) / SAMPLE_RATE * n_streams,
        "sample_rate_hz": stream.rate_hz,
        "channels": stream.channels,
        "codec": stream.codec,
        "warning": "; ".join(report.warnings),
        "gap_s": stream.gap_s,
        "start_offset_s": stream.start_offset_s,
        "audio_streams": stream.n_audio_streams,
        "audio_stream": stream.audio_stream,
    }


# --------------------------------------------------------------------------- waveform


def samples(source: Source, report: Report, selection: Selection) -> Iterator[Waveforms]:
    """The wanted stretch in pieces. Raises RecordingError if it cannot be decoded completely.

    Decoding begins at a whole second before the stretch, where the samples of every rate and of
    SAMPLE_RATE coincide. So the resampler has what is before the stretch, and a part of a file has
    the same samples as the whole.
    """
    name, is_audio = format_of(source)
    if is_audio is False:
        raise RecordingError(ErrorType.NOT_AUDIO, f"looks like {name}")
    stretch = report.stretch
    begin_s = max(0, math.floor(stretch.offset_s - _SETTLED_S))
    n_before = round(stretch.offset_s * SAMPLE_RATE) - begin_s * SAMPLE_RATE
    reasons: list[str] = []
    for open_stream in decoders_for(name, source):
        try:
            with open_stream(source, float(begin_s)) as stream:
                report.start(stream)
                pieces = _to_waveforms(stream.blocks, report, selection, begin_s)
                first = n_before + report.n_samples
                for piece in _between(pieces, first, n_before + stretch.n_samples):
                    report.count(len(piece))
                    yield piece
            break
        except DecoderError as error:
            source.check()
            reasons.append(str(error))
            report.fail(str(error))
    else:
        kind = ErrorType.UNDECODABLE if is_audio else ErrorType.NOT_AUDIO
        raise RecordingError(kind, f"looks like {name}; " + "; ".join(reasons))
    source.check()
    report.finish()


def _to_waveforms(
    blocks: Iterator[Block], report: Report, selection: Selection, begin_s: float
) -> Iterator[Waveforms]:
    """To the wanted channels, 16 kHz and int16. The rate may change (HE-AAC, chained Ogg)."""
    at_s = begin_s
    downmix = Downmix(report.warnings)
    for rate_hz, group in itertools.groupby(blocks, key=lambda block: block.rate_hz):
        resampler, n_streams = None, 1
        for block in group:
            report.check_limits(rate_hz, block.samples.shape[1])
            report.count_clipped(_check_peak(block.samples, at_s, rate_hz), block.samples.size)
            report.meters.add(block.samples, at_s, rate_hz)
            kept = selection.keep(block.samples, at_s, block.channels, downmix)
            at_s += len(kept) / rate_hz
            if rate_hz == SAMPLE_RATE:
                yield _quantise(kept)
                continue
            n_streams = kept.shape[1]
            resampler = resampler or take(rate_hz, n_streams)
            yield _quantise(resampler.resample_chunk(kept))
        if resampler is not None:
            nothing = np.empty((0, n_streams), np.float32)
            yield _quantise(resampler.resample_chunk(nothing, last=True))
            give_back(rate_hz, n_streams, resampler)


def _check_peak(samples: Floats, at_s: float, rate_hz: int) -> int:
    """How many values are over full scale. Raises RecordingError for those that no audio has."""
    peak = max(float(samples.max()), -float(samples.min()))
    if peak <= 1.0:
        return 0
    if peak <= _MAX_PEAK:  # false for NaN
        return int(np.count_nonzero(np.abs(samples) > 1.0))
    bad = ~(np.abs(samples) <= _MAX_PEAK).all(axis=1)
    where = f"at {at_s + int(bad.argmax()) / rate_hz:.3f} s"
    if np.isfinite(samples).all():
        text = f"sample of {peak:.3g} {where}; full scale is 1"
        raise RecordingError(ErrorType.OUT_OF_RANGE, text)
    raise RecordingError(ErrorType.NON_FINITE, f"NaN or infinite sample {where}")


def _quantise(samples: Floats) -> Waveforms:
    """To int16, scaled by 2^15 as in 16-bit files, whose samples are therefore unchanged."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def _between(pieces: Iterable[Waveforms], first: int, end: int) -> Iterator[Waveforms]:
    """The samples from `first` to before `end`, in pieces."""
    position = 0
    for piece in pieces:
        kept = piece[max(0, first - position) : end - position]
        position += len(piece)
        if kept.size:
            yield kept
        if position >= end:
            return


def _cut(pieces: Iterable[Waveforms], window_s: float) -> Iterator[tuple[Waveforms, bool]]:
    """(samples, is_last) of at most `window_s` over all streams, cut where it is quiet."""
    pending: list[Waveforms] = []
    n_pending = 0
    for piece in pieces:
        n_window = most_samples(window_s, piece.shape[1])
        pending.append(piece)
        n_pending += len(piece)
        while n_pending > n_window:
            whole = np.concatenate(pending)
            cut = _find_cut(whole[:n_window])
            yield whole[:cut], False
            pending, n_pending = [whole[cut:].copy()], n_pending - cut
    yield np.concatenate(pending), True


def most_samples(window_s: float, n_streams: int) -> int:
    """The longest window: streams that are decoded side by side share the memory of one."""
    return round(max(window_s / n_streams, _SHORTEST_S) * SAMPLE_RATE)


def _find_cut(window: Waveforms) -> int:
    """The middle of the quietest half second in the last minute, or in the last quarter if shorter.

    It looks at energy, not at speech. If a whole minute has no pause of half a second, for example
    with music, the cut may be inside a word, whose halves are then labelled as two segments.
    """
    n_tail = min(60 * SAMPLE_RATE, len(window) // 4)
    tail = window[-n_tail:]
    squares = np.square(tail[: n_tail // FRAME * FRAME].astype(np.int64)).sum(axis=1)
    total = np.concatenate([[0], np.cumsum(squares.reshape(-1, FRAME).sum(axis=1))])
    n_frames = SAMPLE_RATE // 2 // FRAME
    energy = total[n_frames:] - total[:-n_frames]
    last = energy.size - 1 - int(energy[::-1].argmin())  # the last of equal values: longer windows
    return int(len(window) - n_tail + (last + n_frames // 2) * FRAME)
