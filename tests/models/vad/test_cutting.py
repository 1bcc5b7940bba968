"""Where segments are cut, joined and clipped, at the limits."""

from typing import Any

import numpy as np
import pytest

from pipeline.config import SegmentConfig
from pipeline.models.vad.endpoints import EndpointRules, find_intervals
from pipeline.models.vad.merging import merge_segments
from pipeline.schema import Segment

LIMITS: dict[str, Any] = {
    **{"max_segment_s": 30.0, "min_segment_s": 0.1, "merge_length_s": 15.0, "merge_gap_s": 0.5},
}


def merge(
    *intervals: tuple[float, float],
    loudness: Any = None,
    duration_s: float = 1_000.0,
    **limits: Any,
) -> list[tuple[float, float]]:
    config = SegmentConfig.model_construct(**{**LIMITS, **limits})
    segments = [Segment(*interval) for interval in intervals]
    found = merge_segments(segments, config, duration_s=duration_s, loudness=loudness)
    return [(one.start_s, one.end_s) for one in found]


def test_no_part_is_under_half_an_even_one() -> None:
    """40 s make two even parts of 20 s: however quiet the ends, a cut keeps 10 s from them."""
    rising = np.arange(4_000)
    for cap_s in (30.0, 39.0):
        limits = {"max_segment_s": cap_s}
        assert merge((0.0, 40.0), loudness=rising, **limits) == [(0.0, 10.0), (10.0, 40.0)]
        assert merge((0.0, 40.0), loudness=-rising, **limits) == [(0.0, 30.0), (30.0, 40.0)]


def test_no_part_is_over_the_cap_however_loud_it_is_before() -> None:
    falling = -np.arange(10_000)
    parts = merge((5.0, 65.0), loudness=falling, max_segment_s=25.0)
    assert parts[0] == (5.0, 30.0)
    assert max(end - start for start, end in parts) <= 25.0


def test_parts_aim_at_three_quarters_of_the_cap() -> None:
    """Else a part as long as the cap would leave no choice where to cut."""
    assert len(merge((0.0, 45.0), loudness=np.zeros(4_500))) == 2
    assert len(merge((0.0, 45.1), loudness=np.zeros(4_510))) == 3
    assert len(merge((0.0, 60.0))) == 2


def test_the_ends_of_a_recording_are_not_quiet_by_themselves() -> None:
    """The average over 210 ms takes the first and the last frame for those beyond the ends."""
    parts = merge((0.0, 0.5), loudness=np.ones(50), max_segment_s=0.3, merge_length_s=0.3)
    assert parts == [(0.0, 0.17), (0.17, 0.34), (0.34, 0.5)]


def test_of_equally_quiet_places_the_one_nearest_to_the_middle_is_taken() -> None:
    loudness = np.ones(4_000)
    for start in (1_200, 2_300, 2_900):
        loudness[start : start + 40] = 0.0
    (_, cut), _ = merge((0.0, 40.0), loudness=loudness)
    assert 23.0 < cut < 23.4


def test_overlapping_intervals_are_used_once() -> None:
    limits = {"merge_length_s": 0.0, "min_segment_s": 0.1}
    assert merge((1.0, 6.0), (5.95, 6.05), **limits) == [(1.0, 6.0)]
    assert merge((1.0, 6.0), (5.5, 7.0), **limits) == [(1.0, 6.0), (6.0, 7.0)]
    assert merge((1.0, 6.0), (2.0, 3.0), **limits) == [(1.0, 6.0)]


@pytest.mark.parametrize(
    ("second", "joined"),
    [
        ((2.5, 16.0), True),  # a gap of 0.5 s, 15 s together
        ((2.51, 16.0), False),
        ((2.5, 16.01), False),
        ((2.5, 15.99), True),
    ],
)
def test_neighbours_join_up_to_both_limits(second: tuple[float, float], joined: bool) -> None:
    assert len(merge((1.0, 2.0), second)) == (1 if joined else 2)


def test_a_join_is_never_longer_than_the_cap() -> None:
    """Joined and cut again, they would meet at 5.0 s, inside the first."""
    parts = merge((0.0, 6.0), (6.0, 10.0), max_segment_s=9.0, merge_length_s=15.0)
    assert parts == [(0.0, 6.0), (6.0, 10.0)]


def test_a_frame_that_two_segments_share_belongs_to_the_first() -> None:
    limits = {"merge_length_s": 0.0, "min_segment_s": 0.001}
    assert merge((1.0, 2.001), (2.003, 3.0), **limits) == [(1.0, 2.01), (2.01, 3.0)]
    assert merge((1.0, 2.001), (2.003, 2.008), **limits) == [(1.0, 2.01)]


def test_the_shortest_segment_allowed_is_kept() -> None:
    assert merge((1.0, 1.1), (5.0, 5.099)) == [(1.0, 1.1)]


# ------------------------------------------------------------------------- endpoints

RULES = EndpointRules(
    **{"window": 20, "to_speech": 15, "to_silence": 15, "lookback": 40, "end_silence": 65},
    **{"take_back": 54, "max_length": 300},
)


def frames(*runs: tuple[int, int]) -> np.ndarray:
    return np.repeat([bool(speech) for speech, _ in runs], [n_frames for _, n_frames in runs])


def test_an_interval_does_not_begin_before_the_last_one_ends() -> None:
    found = find_intervals(frames((0, 50), (1, 700), (0, 200)), RULES)
    assert [start for start, _ in found[1:]] == [end for _, end in found[:-1]]
    assert found[0] == (24, 24 + 301)


def test_an_interval_begins_at_the_first_frame_at_the_earliest() -> None:
    assert find_intervals(frames((1, 30), (0, 99)), RULES)[0][0] == 0
