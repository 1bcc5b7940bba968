"""Many short stretches of one recording in one decoding. Knows nothing of manifests.

A compressed file has to be decoded from its start, or from a place before the stretch, and a file
in a store has to be fetched. One by one, 60 stretches of an hour cost eight times the hour.

What one decoding gives is what each stretch would give alone. Where that is not certain, because a
packet was damaged, a gap was filled or the file ended early, the stretch is left out here: the
caller decodes it alone, and it gets the warnings and errors of its own part.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pipeline.audio.channels import Selection, Waveforms
from pipeline.audio.checks import CLIPPED_SHARE, WITHOUT_LIMITS, Report, Stretch
from pipeline.audio.headers import format_of
from pipeline.audio.meter import Meters
from pipeline.audio.sources import Source
from pipeline.audio.windows import Measured, Window, make_window, most_samples, samples
from pipeline.config import AudioConfig
from pipeline.schema import FRAME_LENGTH, SAMPLE_RATE

_FAR_S = 20.0  # to seek over so much is quicker than to decode it, ...
# ... where a seek is a jump, by an index or by arithmetic.
_JUMPS = {"RIFF", "RF64", "RIFX", "AIFF", "AU", "Wave64", "FLAC", "MP4", "Matroska"}


@dataclass(slots=True)
class _Wanted:
    """A stretch of the pass, in samples of the file."""

    index: int
    start_s: float
    start: int
    end: int
    n_clipped: int = 0  # of the pass before its first samples
    measured: Measured | None = None


def decode_together(
    source: Source, config: AudioConfig, stretches: Sequence[Stretch], *, measure: bool = False
) -> Iterator[tuple[int, list[Window]]]:
    """(index, its only window of each stream) of what could be decoded together, by time.

    All stretches are of one channel, or all as configured. About one window is in memory, and what
    overlaps. Raises nothing: a stretch that is not yielded has to be decoded alone
    (windows.decode_source), which tells what is wrong.
    """
    # Whatever a library raises here, it raises again where the part is decoded alone, and there it
    # becomes that part's row.
    passes: list[list[_Wanted]] = []
    with suppress(Exception, SystemExit):
        passes = list(_passes(source, config, stretches, measure))
    for wanted in passes:
        with suppress(Exception, SystemExit):
            yield from _one_pass(source, config, wanted, stretches[0].channel)


def _passes(
    source: Source, config: AudioConfig, stretches: Sequence[Stretch], measure: bool
) -> Iterator[list[_Wanted]]:
    """The stretches that are one window each, by time, divided where a seek is worth it."""
    longest_s = min(config.window_s, config.max_duration_s)
    wanted = [
        _Wanted(index, one.offset_s, start, start + one.n_samples, measured=measured)
        for index, one in enumerate(stretches)
        for start in [round(one.offset_s * SAMPLE_RATE)]
        for measured in [Measured(one.offset_s, one.length_s) if measure else None]
        if FRAME_LENGTH <= one.n_samples <= longest_s * SAMPLE_RATE
    ]
    if len(wanted) < 2:
        return
    wanted.sort(key=lambda one: (one.start, one.end))
    can_jump = format_of(source)[0] in _JUMPS
    furthest = np.maximum.accumulate([one.end for one in wanted])
    far = [
        place + 1
        for place, (_, after) in enumerate(pairwise(wanted))
        if can_jump and after.start - furthest[place] > _FAR_S * SAMPLE_RATE
    ]
    for first, end in pairwise([0, *far, len(wanted)]):
        if end - first > 1:
            yield wanted[first:end]


def _one_pass(
    source: Source, config: AudioConfig, wanted: list[_Wanted], channel: int
) -> Iterator[tuple[int, list[Window]]]:
    first, last = wanted[0].start, max(one.end for one in wanted)
    stretch = Stretch(first / SAMPLE_RATE, (last - first) / SAMPLE_RATE)
    # The limits of a recording hold for each stretch, not for all of them together.
    limits = {"max_duration_s": WITHOUT_LIMITS.max_duration_s, "min_decoded_share": 0.0}
    report = Report(config.model_copy(update=limits), stretch)
    report.meters = Meters([one.measured.wanted for one in wanted if one.measured])
    held: deque[tuple[int, Waveforms]] = deque()  # pieces that are needed, and where each begins
    end, n_next = first, 0
    waiting: list[_Wanted] = []
    # A resampler gives samples one piece late, so the count of two pieces ago is before them.
    clipped = [0, 0]
    for piece in samples(source, report, Selection(config.channels, channel)):
        held.append((end, piece))
        end += len(piece)
        while n_next < len(wanted) and wanted[n_next].start < end:
            wanted[n_next].n_clipped = clipped[0]
            waiting.append(wanted[n_next])
            n_next += 1
        for one in [one for one in waiting if one.end <= end]:
            waiting.remove(one)
            is_whole = one.end - one.start <= most_samples(config.window_s, piece.shape[1])
            if is_whole and _is_clean(report, one):
                yield one.index, _windows(_joined(held, one), one, report, channel)
        clipped = [clipped[1], report.n_clipped]
        needed = min((one.start for one in waiting), default=end)
        while held and held[0][0] + len(held[0][1]) <= needed:
            held.popleft()


def _joined(held: Iterable[tuple[int, Waveforms]], one: _Wanted) -> Waveforms:
    """A copy of the samples of a stretch. Joined once: piece by piece would be quadratic."""
    pieces = [
        piece[max(0, one.start - at) : one.end - at]
        for at, piece in held
        if at < one.end and at + len(piece) > one.start
    ]
    return np.concatenate(pieces)


def _is_clean(report: Report, one: _Wanted) -> bool:
    """Whether the stretch, decoded alone, would have no warning."""
    stream = report.stream
    n_clipped = report.n_clipped - one.n_clipped
    n_values = (one.end - one.start) * stream.rate_hz * stream.channels / SAMPLE_RATE
    is_whole = not (stream.warnings or report.warnings or stream.gap_s or stream.n_bad_packets)
    return is_whole and n_clipped <= CLIPPED_SHARE * n_values


def _windows(kept: Waveforms, one: _Wanted, report: Report, channel: int) -> list[Window]:
    selection = Selection(report.config.channels, channel)
    told = replace(report, warnings=[])
    streams = selection.streams(kept, report.stream.channels, told.warnings)
    windows = [
        make_window(
            told,
            index=index,
            start_s=one.start_s,
            waveform=waveform,
            is_last=index == len(streams) - 1,
            channel=number,
            is_only=True,
        )
        for index, (number, waveform) in enumerate(streams)
    ]
    return [one.measured.complete(window) for window in windows] if one.measured else windows
