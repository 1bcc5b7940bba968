"""Joining and cutting: examples that FunASR gets wrong, and rules that hold for any input."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SegmentConfig
from pipeline.models.vad.endpoints import EndpointRules, _scan, find_intervals
from pipeline.models.vad.merging import merge_segments
from pipeline.schema import Segment

LIMITS: dict[str, Any] = {
    "max_segment_s": 30.0,
    "merge_length_s": 15.0,
    "merge_gap_s": 0.5,
    "min_segment_s": 0.1,
    "duration_s": 1_000.0,
}


def _merge(*intervals: tuple[float, float], **changes: Any) -> list[tuple[float, float]]:
    segments = [Segment(start, end) for start, end in intervals]
    return [(s.start_s, s.end_s) for s in merge(segments, **{**LIMITS, **changes})]


def merge(
    segments: list[Segment], *, duration_s: float, loudness: Any = None, **limits: float
) -> list[Segment]:
    """Without the checks of a configuration, so with any limits."""
    config = SegmentConfig.model_construct(**limits)  # type: ignore[arg-type]
    return merge_segments(segments, config, duration_s=duration_s, loudness=loudness)


def test_neighbours_across_a_short_gap_join() -> None:
    assert _merge((1.0, 2.0), (2.3, 4.0)) == [(1.0, 4.0)]


def test_neighbours_across_a_long_gap_stay_apart() -> None:
    # funasr.utils.vad_utils.merge_vad: [[0, 6000], [6000, 20000], [20000, 21000]]
    assert _merge((5.0, 6.0), (20.0, 21.0)) == [(5.0, 6.0), (20.0, 21.0)]


def test_ten_minutes_of_silence_never_become_a_segment() -> None:
    # merge_vad: [[0, 5000], [5000, 600000], [600000, 605000]]
    assert _merge((0.0, 5.0), (600.0, 605.0)) == [(0.0, 5.0), (600.0, 605.0)]


def test_a_segment_never_starts_before_its_speech() -> None:
    # merge_vad: [[0, 9000]]
    assert _merge((3.0, 5.0), (7.0, 9.0), merge_gap_s=2.0) == [(3.0, 9.0)]


def test_joining_stops_at_the_merge_length() -> None:
    assert _merge((0.0, 8.0), (8.2, 15.0), (15.1, 16.0)) == [(0.0, 15.0), (15.1, 16.0)]


def test_a_gap_of_exactly_the_limit_is_bridged() -> None:
    assert _merge((0.1, 0.3), (0.8, 1.0)) == [(0.1, 1.0)]


def test_a_long_segment_is_cut_into_equal_parts() -> None:
    assert _merge((10.0, 70.0), max_segment_s=25.0) == [(10.0, 30.0), (30.0, 50.0), (50.0, 70.0)]


def test_a_segment_of_exactly_the_cap_stays_whole() -> None:
    assert _merge((0.29, 30.29)) == [(0.29, 30.29)]


def test_a_cut_is_in_the_quietest_place() -> None:
    loudness = np.ones(100_000)
    loudness[1_700:1_730] = 0.0
    (_, cut), (start, end) = _merge((0.0, 40.0), loudness=loudness)
    assert 17.0 < cut < 17.3
    assert (start, end) == (cut, 40.0)


def test_a_cut_prefers_a_pause_to_a_single_quiet_frame() -> None:
    loudness = np.ones(100_000)
    loudness[2_000] = -3.0
    loudness[1_700:1_730] = 0.0
    assert 17.0 < _merge((0.0, 40.0), loudness=loudness)[0][1] < 17.3


def test_with_equal_loudness_the_cut_is_in_the_middle() -> None:
    assert _merge((0.0, 40.0), loudness=np.zeros(4_000)) == [(0.0, 20.0), (20.0, 40.0)]


def test_loudness_may_end_before_the_recording() -> None:
    parts = _merge((0.0, 40.0), loudness=np.zeros(3), duration_s=40.0)
    assert parts == [(0.0, 20.0), (20.0, 40.0)]


def test_too_short_a_segment_is_dropped() -> None:
    assert _merge((1.0, 1.09), (5.0, 5.1)) == [(5.0, 5.1)]


def test_a_short_segment_beside_a_neighbour_is_kept() -> None:
    assert _merge((1.0, 1.05), (1.2, 2.0)) == [(1.0, 2.0)]


def test_boundaries_widen_to_the_grid() -> None:
    assert _merge((1.0049, 2.0011)) == [(1.0, 2.01)]


def test_the_end_of_the_recording_may_lie_off_the_grid() -> None:
    assert _merge((1.0, 9.0), duration_s=2.00375) == [(1.0, 2.00375)]


def test_overlapping_input_is_put_in_order() -> None:
    assert _merge((5.0, 9.0), (1.0, 6.0), merge_length_s=0.0) == [(1.0, 6.0), (6.0, 9.0)]


def test_no_interval_gives_no_segment() -> None:
    assert _merge() == []
    assert _merge((1.0, 2.0), duration_s=0.0) == []


def test_a_cap_below_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="max_segment_s"):
        _merge((0.0, 1.0), max_segment_s=0.005)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[Segment], dict[str, Any]]:
    duration_s = draw(st.floats(0.01, 200.0))
    edges = sorted(draw(st.lists(st.floats(0.0, duration_s), max_size=40)))
    if draw(st.booleans()):
        edges = [math.floor(edge * 100) / 100 for edge in edges]
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    max_segment_s = draw(st.floats(1.0, 60.0))
    limits: dict[str, Any] = {
        "max_segment_s": max_segment_s,
        "merge_length_s": draw(st.floats(0.0, max_segment_s)),
        "merge_gap_s": draw(st.floats(0.0, 3.0)),
        "min_segment_s": draw(st.floats(0.025, 0.1)),
        "duration_s": duration_s,
    }
    if draw(st.booleans()):
        generator = np.random.default_rng(draw(st.integers(0, 99)))
        limits["loudness"] = generator.normal(size=int(duration_s * 100)).astype(np.float32)
    return [Segment(start, end) for start, end in pairs], limits


@given(_cases())
@settings(max_examples=300, deadline=None)
def test_segments_are_in_order_inside_the_recording_and_never_overlap(
    case: tuple[list[Segment], dict[str, Any]],
) -> None:
    segments, limits = case
    merged = merge(segments, **limits)
    assert all(0.0 <= s.start_s < s.end_s <= limits["duration_s"] for s in merged)
    assert all(a.end_s <= b.start_s for a, b in pairwise(merged))


@given(_cases())
@settings(max_examples=300, deadline=None)
def test_no_segment_is_longer_than_the_cap_or_shorter_than_the_minimum(
    case: tuple[list[Segment], dict[str, Any]],
) -> None:
    segments, limits = case
    for segment in merge(segments, **limits):
        assert segment.duration_s <= limits["max_segment_s"] + 1e-6
        # a frame that two segments share goes to the first
        assert segment.duration_s >= limits["min_segment_s"] - 0.01 - 1e-6


@given(_cases())
@settings(max_examples=300, deadline=None)
def test_boundaries_lie_on_the_grid(case: tuple[list[Segment], dict[str, Any]]) -> None:
    segments, limits = case
    for segment in merge(segments, **limits):
        assert segment.start_s == round(segment.start_s * 100) / 100
        assert segment.end_s in (round(segment.end_s * 100) / 100, limits["duration_s"])


@given(_cases())
@settings(max_examples=300, deadline=None)
def test_all_speech_over_the_minimum_is_kept(
    case: tuple[list[Segment], dict[str, Any]],
) -> None:
    segments, limits = case
    covered = _covered(merge(segments, **limits), limits["duration_s"])
    for segment in segments:
        if segment.duration_s >= limits["min_segment_s"]:
            middle = covered[math.ceil(segment.start_s * 1000) : math.floor(segment.end_s * 1000)]
            assert middle.all()


@given(_cases())
@settings(max_examples=300, deadline=None)
def test_no_silence_longer_than_the_gap_is_covered(
    case: tuple[list[Segment], dict[str, Any]],
) -> None:
    segments, limits = case
    merged = merge(segments, **limits)
    covered = _covered(merged, limits["duration_s"])
    edges = [0.0, *(t for s in segments for t in (s.start_s, s.end_s)), limits["duration_s"]]
    for start_s, end_s in zip(edges[::2], edges[1::2], strict=True):
        outer = start_s == 0.0 or end_s == limits["duration_s"]
        if outer or end_s - start_s > limits["merge_gap_s"] + 1e-6:
            # The grid may add a frame of it on either side.
            first, last = math.ceil(start_s * 1000) + 11, math.floor(end_s * 1000) - 11
            inside = covered[first : max(first, last)]
            assert not inside.any()


def _covered(segments: list[Segment], duration_s: float) -> np.ndarray:
    """One flag per ms."""
    covered = np.zeros(math.ceil(duration_s * 1000) + 1, dtype=bool)
    for segment in segments:
        covered[round(segment.start_s * 1000) : math.ceil(segment.end_s * 1000)] = True
    return covered


RULES = EndpointRules(
    window=20,
    to_speech=15,
    to_silence=15,
    lookback=40,
    end_silence=65,
    take_back=54,
    max_length=6e3,
)
"""The rules of the released model with 800 ms of end silence."""


def _frames(*runs: tuple[int, int]) -> np.ndarray:
    return np.repeat([bool(speech) for speech, _ in runs], [n_frames for _, n_frames in runs])


def test_an_interval_includes_lookback_and_part_of_its_end_silence() -> None:
    # Frame 114 becomes speech (15 of 20). Frame 204, the fifth of the silence, becomes silence. 65
    # more frames end the interval, and all but 54 of them belong to it.
    found = find_intervals(_frames((0, 100), (1, 100), (0, 200)), RULES)
    assert found == [(114 - 40, 204 + 65 + 1 - 54)]


def test_a_pause_below_the_end_silence_does_not_end_an_interval() -> None:
    assert len(find_intervals(_frames((1, 100), (0, 45), (1, 100), (0, 99)), RULES)) == 1


def test_speech_at_the_end_is_an_interval_to_the_end() -> None:
    assert find_intervals(_frames((0, 50), (1, 30)), RULES) == [(24, 80)]


def test_too_few_speech_frames_are_not_speech() -> None:
    assert find_intervals(_frames((0, 50), (1, 14), (0, 50)), RULES) == []


def test_the_compiled_state_machine_equals_the_python_one() -> None:
    generator = np.random.default_rng(8)
    is_speech = np.repeat(generator.random(400) < 0.5, generator.integers(1, 60, 400))
    assert find_intervals(is_speech, RULES) == _scan(is_speech, RULES)
