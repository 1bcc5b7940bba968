"""Words to where they sound: from the peaks of CTC to the edges of loudness. Pure numpy.

CTC puts one peak into a word, as a rule at its end (350 ms late for the demo model's starts, as
FunASR's are). A word is grown from there over the stretch of audio that is loud around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.schema import FRAMES_PER_S

_QUIET, _LOUD = 10, 95  # percentiles of the loudness of a clip
_ON = 0.25  # of the way from quiet to loud: a louder frame belongs to a word
_CENTRE_S = 0.0125  # of a frame, whose window has 25 ms
_SMOOTHED = 3  # frames, 30 ms


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a clip, in seconds from its start."""

    start_s: float
    end_s: float


def grow(peaks: Sequence[Span], contour: np.ndarray) -> list[Span]:
    """The spans of words, given where CTC has them, in order and without overlap.

    `contour` is the mean log-mel of each frame of the clip, float32 (n_frames,), 10 ms each. A word
    reaches to the edges of the loud stretch in which its peak is, but not over the peak of a
    neighbour, whose own stretch ends there: between two peaks without a pause, the later word has
    all, because a peak is at the end. A word in no loud stretch keeps its peak.
    """
    loud = _loud_stretches(contour)
    found = [_stretch_of(peak, loud) or peak for peak in peaks]
    before = [0.0, *(peak.end_s for peak in peaks)][: len(peaks)]
    starts = [
        min(peak.start_s, max(stretch.start_s, last_s))
        for peak, stretch, last_s in zip(peaks, found, before, strict=True)
    ]
    ends = [max(peak.start_s, stretch.end_s) for peak, stretch in zip(peaks, found, strict=True)]
    for index, (_, next_start_s) in enumerate(pairwise(starts)):
        ends[index] = min(ends[index], next_start_s)
    return [Span(*pair) for pair in zip(starts, ends, strict=True)]


def _loud_stretches(contour: np.ndarray) -> list[Span]:
    if not len(contour):
        return []
    low, high = np.percentile(contour, (_QUIET, _LOUD))
    smooth = np.convolve(
        np.pad(contour, 1, mode="edge"), np.full(_SMOOTHED, 1 / _SMOOTHED), "valid"
    )
    is_on = np.concatenate([[False], smooth > low + _ON * (high - low), [False]])
    edges = np.flatnonzero(is_on[1:] != is_on[:-1]).reshape(-1, 2)
    return [
        Span(first / FRAMES_PER_S + _CENTRE_S, (end - 1) / FRAMES_PER_S + _CENTRE_S)
        for first, end in edges.tolist()
    ]


def _stretch_of(peak: Span, loud: Sequence[Span]) -> Span | None:
    """The loud stretch that a peak touches; of two, the one that it covers for longer."""
    common = [min(peak.end_s, one.end_s) - max(peak.start_s, one.start_s) for one in loud]
    if not common or max(common) < 0:
        return None
    return loud[int(np.argmax(common))]
