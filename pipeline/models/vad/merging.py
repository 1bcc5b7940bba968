"""Speech frames to intervals, intervals to segments. Knows lengths and gaps; no audio, no network.

FunASR's merge_vad turns silence into segments and ignores its cap. Here a join bridges a short
gap or does not happen, and nothing is longer than asked.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.schema import FRAME, SAMPLE_RATE, Segment

FRAMES_PER_S = SAMPLE_RATE // FRAME  # the grid: 10 ms
TOLERANCE = 1e-6  # frames; 0.29 s * 100 is 28.999999999999996
SMOOTH_FRAMES = 21  # 210 ms: cut in a pause, not in the closure of one consonant
SEARCH_FILL = 0.75  # aim at parts of 3/4 of the cap, or a cut has no room to look for a pause


class EndpointRules(NamedTuple):
    """When a run of frames becomes an interval; all in frames of 10 ms."""

    window: int  # a sliding count of speech frames decides
    to_speech: int  # at least so many of the window: speech
    to_silence: int  # at most so many: silence
    lookback: int  # an interval begins so long before it is noticed
    end_silence: int  # so many silent windows end it ...
    take_back: int  # ... and so many of them are given back to silence
    max_length: float


def find_intervals(is_speech: npt.NDArray[np.bool_], rules: EndpointRules) -> list[tuple[int, int]]:
    """FunASR's FSMN-VAD state machine: (start, end) in frames, in order.

    From `FsmnVADStreaming.DetectOneFrame` (FunASR 1.4.16), mode "multiple utterances" with
    do_extend. There it walks buffers frame by frame; here only what moves a boundary is left:
    an interval starts at `lookback` before its notice, but not before the end of the last one,
    and all but the silence to take back belongs to it.
    """
    return [(int(start), int(end)) for start, end in _compiled_scan()(is_speech, rules)]


@cache
def _compiled_scan() -> Any:
    """Plain Python does 20,000x real time, half a core beside a GPU at 10,000x; this, millions.

    Takes a second, once for a process.
    """
    import numba  # 50 MB: only where FSMN-VAD runs

    return numba.njit(_scan)


def _scan(is_speech: npt.NDArray[np.bool_], rules: EndpointRules) -> list[tuple[int, int]]:
    intervals = []
    recent = np.zeros(rules.window, np.int64)
    n_speech = n_silent = done = 0
    start, frame, voiced = -1, -1, False
    for frame, speech in enumerate(is_speech):
        slot = frame % rules.window
        n_speech += int(speech) - recent[slot]
        recent[slot] = int(speech)
        was_voiced = voiced
        voiced = n_speech > rules.to_silence if voiced else n_speech >= rules.to_speech
        n_silent = 0 if voiced or was_voiced else n_silent + 1
        if start < 0:
            if voiced:
                start = max(done, frame - rules.lookback)
            continue
        if n_silent >= rules.end_silence:
            done = frame + 1 - rules.take_back
        elif frame + 1 - start > rules.max_length:
            done = frame + 1
        else:
            continue
        intervals.append((start, done))
        start, n_speech, n_silent, voiced = -1, 0, 0, False
        recent[:] = 0
    if start >= 0:
        intervals.append((start, frame + 1))
    return intervals


def merge_segments(
    segments: Sequence[Segment],
    *,
    max_segment_s: float,
    merge_length_s: float,
    merge_gap_s: float,
    min_segment_s: float,
    duration_s: float,
    loudness: np.ndarray | None = None,
) -> list[Segment]:
    """Join neighbours, drop what is too short, cut what is too long: in order, no overlap.

    Neighbours join while the whole stays within `merge_length_s` and the gap within `merge_gap_s`.
    What is over `max_segment_s` is cut where `loudness` (n_frames,), any measure per 10 ms frame,
    is lowest, else into even parts. Boundaries widen to the 10 ms grid; only the end of the
    recording may lie off it. Raises ValueError when the cap is under one frame.
    """
    cap = _whole_frames(max_segment_s)
    if cap < 1:
        raise ValueError(f"max_segment_s ({max_segment_s}) is shorter than a frame of 10 ms")
    inside = _clip_to_recording(segments, duration_s)
    joined = _join(inside, min(_whole_frames(merge_length_s), cap), merge_gap_s)
    quiet = None if loudness is None else _smooth(loudness)
    kept = [s for s in joined if s.duration_s >= min_segment_s - TOLERANCE / FRAMES_PER_S]
    return [
        Segment(start / FRAMES_PER_S, min(end / FRAMES_PER_S, duration_s))
        for whole in _widen(kept)
        for start, end in _cut(*whole, cap, quiet)
    ]


def _clip_to_recording(segments: Iterable[Segment], duration_s: float) -> Iterator[Segment]:
    """In order, without overlap, inside [0, duration_s]."""
    done_s = 0.0
    for segment in sorted(segments, key=lambda segment: segment.start_s):
        start_s, end_s = max(segment.start_s, done_s), min(segment.end_s, duration_s)
        if start_s < end_s:
            yield Segment(start_s, end_s)
            done_s = end_s


def _join(segments: Iterable[Segment], merge_length: int, merge_gap_s: float) -> Iterator[Segment]:
    """`merge_length` in frames, measured on the widened interval; the gap on the true one."""
    current: Segment | None = None
    for segment in segments:
        if current is None:
            current = segment
            continue
        start, end = _to_grid(current.start_s, segment.end_s)
        gap_s = segment.start_s - current.end_s
        if end - start <= merge_length and gap_s <= merge_gap_s + TOLERANCE / FRAMES_PER_S:
            current = Segment(current.start_s, segment.end_s)
        else:
            yield current
            current = segment
    if current is not None:
        yield current


def _widen(segments: Iterable[Segment]) -> Iterator[tuple[int, int]]:
    """(start, end) in frames; two that meet inside a frame share it out to the first."""
    done = 0
    for segment in segments:
        start, end = _to_grid(segment.start_s, segment.end_s)
        if max(start, done) < end:
            yield max(start, done), end
            done = end


def _cut(start: int, end: int, cap: int, quiet: np.ndarray | None) -> Iterator[tuple[int, int]]:
    """Parts of at most `cap` frames that cover [start, end)."""
    if end - start > cap:
        target = cap if quiet is None else max(1, int(cap * SEARCH_FILL))
        for n_after in range(math.ceil((end - start) / target) - 1, 0, -1):
            cut = _choose_cut(start, end, n_after, cap, quiet)
            yield start, cut
            start = cut
    yield start, end


def _choose_cut(start: int, end: int, n_after: int, cap: int, quiet: np.ndarray | None) -> int:
    """The end of a part that begins at `start`, when `n_after` more are to follow it."""
    even = (end - start) / (n_after + 1)
    middle = start + math.ceil(even)
    if quiet is None:
        return middle
    # No part over the cap, the rest must fit its parts, and no part under half an even one.
    first = max(end - n_after * cap, start + math.ceil(even / 2))
    last = min(start + cap, end - max(n_after, math.ceil(n_after * even / 2)))
    choices = quiet[first : last + 1]
    if not len(choices):  # frames end up to 25 ms before the recording does
        return middle
    quietest = first + np.flatnonzero(choices == choices.min())
    return int(quietest[np.abs(quietest - middle).argmin()])


def _smooth(loudness: np.ndarray) -> np.ndarray:
    """Centred moving average, (n_frames,) -> (n_frames,)."""
    if not len(loudness):
        return loudness
    padded = np.pad(loudness.astype(np.float64), SMOOTH_FRAMES // 2, mode="edge")
    return np.convolve(padded, np.full(SMOOTH_FRAMES, 1 / SMOOTH_FRAMES), mode="valid")


def _to_grid(start_s: float, end_s: float) -> tuple[int, int]:
    """Outwards to whole frames."""
    return _whole_frames(start_s), math.ceil(end_s * FRAMES_PER_S - TOLERANCE)


def _whole_frames(seconds: float) -> int:
    return math.floor(seconds * FRAMES_PER_S + TOLERANCE)
