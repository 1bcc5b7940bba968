"""Join and cut speech intervals to segments. Knows lengths and gaps; no audio, no network.

FunASR's merge_vad turns silence into segments and exceeds its limit. Here intervals are joined
across short gaps only, and no segment is longer than the limit.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.config import SegmentConfig
from pipeline.schema import FRAMES_PER_S, Segment

TOLERANCE = 1e-6  # frames; 0.29 s * 100 is 28.999999999999996
SMOOTH_FRAMES = 21  # 210 ms: a pause is longer than the closure of a consonant
SEARCH_FILL = 0.75  # aim at parts of 3/4 of the limit, which leaves room to search for a pause


def merge_segments(
    segments: Sequence[Segment],
    config: SegmentConfig,
    *,
    duration_s: float,
    loudness: np.ndarray | None = None,
) -> list[Segment]:
    """Join neighbours, drop short intervals, cut long ones; the segments are in order, disjoint.

    Neighbours are joined if the result is at most `merge_length_s` long and the gap at most
    `merge_gap_s`. An interval over `max_segment_s` is cut where `loudness` (n_frames,), any measure
    per 10 ms frame, is lowest; without `loudness` into equal parts. Boundaries are widened to the
    10 ms grid; only the end of the recording may lie off it. Raises ValueError when
    `max_segment_s` is under one frame.
    """
    cap = _whole_frames(config.max_segment_s)
    if cap < 1:
        raise ValueError(f"max_segment_s ({config.max_segment_s}) is shorter than a frame of 10 ms")
    inside = _clip_to_recording(segments, duration_s)
    joined = _join(inside, min(_whole_frames(config.merge_length_s), cap), config.merge_gap_s)
    quiet = None if loudness is None else _smooth(loudness)
    kept = [s for s in joined if s.duration_s >= config.min_segment_s - TOLERANCE / FRAMES_PER_S]
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
    """Join neighbours. `merge_length`, in frames, limits the widened interval; the gap is exact."""
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
    """(start, end) in frames; a frame that two segments share goes to the first."""
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
    """The end of a part that starts at `start` and is followed by `n_after` more parts."""
    even = (end - start) / (n_after + 1)
    middle = start + math.ceil(even)
    if quiet is None:
        return middle
    # No part is over the cap or under half of an equal part, and the rest fits into its parts.
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
    """Widened to whole frames: (start, end)."""
    return _whole_frames(start_s), math.ceil(end_s * FRAMES_PER_S - TOLERANCE)


def _whole_frames(seconds: float) -> int:
    return math.floor(seconds * FRAMES_PER_S + TOLERANCE)
