"""Recordings to 16 kHz mono int16 waveforms, streamed. Knows formats and rates, not speech.

What a file is called does not matter, only its bytes do. When soundfile breaks midway, PyAV takes
over from the start of the file and the samples that were already delivered are skipped.
"""

import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from pipeline.audio.decoders import Block, Floats, Stream, decoders_for
from pipeline.audio.sources import Source, open_source, sniff
from pipeline.config import AudioConfig
from pipeline.errors import DecoderError, ErrorType, RecordingError
from pipeline.schema import FRAME, FRAME_LENGTH, SAMPLE_RATE

Waveform = npt.NDArray[np.int16]  # (n_samples,), mono, SAMPLE_RATE

_LOUDEST = 16.0  # +24 dB over full scale; a float file beyond it is not scaled as audio is
_SLACK_S = 0.1  # lengths in headers are rounded, and codecs pad and prime by up to 0.1 s


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

    Raises RecordingError; see decode_source.
    """
    with open_source(uri, config, options) as source:
        yield from decode_source(source, config, offset_s, length_s)


def decode_source(
    source: Source, config: AudioConfig, offset_s: float = 0.0, length_s: float = 0.0
) -> Iterator[Window]:
    """The windows of an open recording, in order.

    A recording longer than `config.window_s` is cut at quiet spots; the windows follow one another
    sample for sample. Holds about two windows at a time, whatever the length of the file. Raises
    RecordingError, also after some windows when a file breaks late.
    """
    _check_range(offset_s, length_s)
    report = _Report()
    n_before = 0
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


# --------------------------------------------------------------------------- waveform


@dataclass(slots=True)
class _Report:
    """What decoding learns on the way."""

    stream: Stream = field(default_factory=lambda: Stream(0, 0, "", 0.0))
    warnings: list[str] = field(default_factory=list)


def _samples(
    source: Source, config: AudioConfig, offset_s: float, length_s: float, report: _Report
) -> Iterator[Waveform]:
    """The asked stretch in pieces. Raises RecordingError when it is not to be had in full."""
    name, is_audio = sniff(source.head(512))
    if is_audio is False:
        raise RecordingError(ErrorType.NOT_AUDIO, f"looks like {name}")
    n_wanted = round(length_s * SAMPLE_RATE) or sys.maxsize
    n_done = 0
    refusals: list[str] = []
    for open_stream in decoders_for(name, source):
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
        except DecoderError as error:
            source.check()
            refusals.append(str(error))
            if report.stream.codec:  # it was open: the break lies somewhere in the audio
                report.warnings.append(str(error))
    else:
        kind = ErrorType.UNDECODABLE if is_audio else ErrorType.NOT_AUDIO
        raise RecordingError(kind, f"looks like {name}; " + "; ".join(refusals))
    source.check()
    _check_end(n_done, config, offset_s, length_s, report)


def _to_waveform(blocks: Iterator[Block], offset_s: float) -> Iterator[Waveform]:
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
            raise RecordingError(
                ErrorType.OUT_OF_RANGE, f"sample of {peak:.3g} {where}; full scale is 1"
            )
        raise RecordingError(ErrorType.NON_FINITE, f"NaN or infinite sample {where}")
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
    """Middle of the quietest half second in the last minute (or quarter, if that is shorter).

    Energy, not speech: where a whole minute has no pause of half a second, as under music, the cut
    may fall into a word. Its halves are then labelled as two segments.
    """
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
        raise RecordingError(ErrorType.BAD_RANGE, f"offset {offset_s} s, length {length_s} s")
    if length_s < 0 or 0 < length_s < 0.5 / SAMPLE_RATE:
        raise RecordingError(ErrorType.BAD_RANGE, f"length {length_s} s is not positive")


def _check_stream(stream: Stream, config: AudioConfig, offset_s: float, length_s: float) -> None:
    rate_hz, channels, total_s = stream.rate_hz, stream.channels, stream.total_s
    if not config.min_rate_hz <= rate_hz <= config.max_rate_hz:
        allowed = f"{config.min_rate_hz} to {config.max_rate_hz}"
        raise RecordingError(
            ErrorType.BAD_RATE, f"{rate_hz} Hz; audio.min/max_rate_hz allow {allowed}"
        )
    if channels > config.max_channels:
        raise RecordingError(
            ErrorType.TOO_MANY_CHANNELS,
            f"{channels}; audio.max_channels allows {config.max_channels}",
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
            raise RecordingError(ErrorType.TRUNCATED, text)
        report.warnings.append(text)
    if stream.n_bad_packets:
        text = f"{stream.n_bad_packets} of {stream.n_packets} packets could not be decoded"
        if stream.n_bad_packets > (1 - config.min_decoded_share) * stream.n_packets:
            raise RecordingError(ErrorType.UNDECODABLE, text)
        report.warnings.append(text)
    if not n_done and offset_s:
        end = f" at {stream.total_s:.3f} s" if stream.total_s else ""
        raise RecordingError(ErrorType.BAD_RANGE, f"offset {offset_s} s lies beyond the end{end}")
    if not n_done:
        raise RecordingError(ErrorType.NO_SAMPLES, f"{stream.codec} without a sample")
    if n_done < FRAME_LENGTH:
        raise RecordingError(
            ErrorType.TOO_SHORT, f"{heard_s * 1000:.1f} ms; one analysis frame is 25 ms"
        )
    if length_s - heard_s > FRAME / SAMPLE_RATE and (not left_s or length_s > left_s):
        report.warnings.append(f"the range ends {length_s - heard_s:.2f} s after the file")


def _too_long(duration_s: float, config: AudioConfig) -> RecordingError:
    limit = f"audio.max_duration_s allows {config.max_duration_s:.0f}"
    return RecordingError(ErrorType.TOO_LONG, f"{duration_s:.0f} s; {limit}")
