"""Clips to model batches and rows to row batches: each index once, sizes about equal."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flow.row_batches import group_by_seconds
from pipeline.models.sensevoice.packing import pack_by_length

LENGTHS = st.lists(st.integers(min_value=1, max_value=3000), max_size=60)


@given(LENGTHS, st.integers(min_value=1, max_value=12000))
def test_every_clip_is_in_exactly_one_batch(lengths: list[int], limit: int) -> None:
    batches = pack_by_length(lengths, limit)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(min_value=1, max_value=12000))
def test_no_batch_exceeds_the_limit_unless_it_is_one_long_clip(
    lengths: list[int], limit: int
) -> None:
    for batch in pack_by_length(lengths, limit):
        assert len(batch) == 1 or sum(lengths[index] for index in batch) <= limit


def test_clips_of_similar_length_share_a_batch() -> None:
    assert pack_by_length([1, 50, 2, 49, 50, 48], 130) == [[1, 4], [3, 5, 2, 0]]


def test_there_is_no_small_last_batch() -> None:
    """130 frames in batches of 60: not 60, 60 and 10."""
    batches = pack_by_length([10] * 13, 60)
    assert sorted(map(len, batches)) == [4, 4, 5]


@given(st.lists(st.integers(min_value=1, max_value=100), min_size=1, max_size=300))
def test_batches_of_short_clips_have_about_one_size(lengths: list[int]) -> None:
    batches = [sum(lengths[index] for index in one) for one in pack_by_length(lengths, 1000)]
    assert max(batches) - min(batches) <= 200
    assert len(batches) <= sum(lengths) / 950 + 1


SECONDS = st.lists(st.floats(min_value=0, max_value=1e5), min_size=1, max_size=60)


@given(SECONDS, st.floats(min_value=0.1, max_value=1e4), st.integers(1, 20), st.integers(20, 40))
def test_every_row_is_in_exactly_one_group_in_order(
    seconds: list[float], target_s: float, n_least: int, n_most: int
) -> None:
    groups = group_by_seconds(np.array(seconds), target_s, n_least, n_most)
    rows = [row for group in groups for row in range(group.start, group.stop)]
    assert rows == list(range(len(seconds)))
    assert all(group.start < group.stop for group in groups)
    assert len(groups) <= n_most + 1


def sizes(seconds: list[float], target_s: float, n_least: int = 1, n_most: int = 1000) -> list[int]:
    groups = group_by_seconds(np.array(seconds), target_s, n_least, n_most)
    return [group.stop - group.start for group in groups]


def test_short_recordings_share_a_group_and_long_ones_do_not() -> None:
    assert sizes([10.0] * 12, target_s=40) == [4, 4, 4]
    assert sizes([100.0, 100.0, 5.0, 5.0, 5.0], target_s=20) == [1, 1, 3]


def test_a_small_corpus_has_enough_groups_and_a_huge_one_not_too_many() -> None:
    assert sizes([10.0] * 12, target_s=600, n_least=6) == [2] * 6
    assert sizes([10.0] * 12, target_s=600, n_least=100) == [1] * 12
    assert sizes([10.0] * 1000, target_s=10, n_most=4) == [250] * 4


def test_rows_of_unknown_length_are_grouped_by_their_number() -> None:
    assert sizes([0.0] * 12, target_s=60, n_least=4) == [3, 3, 3, 3]


def test_no_row_makes_no_group() -> None:
    assert sizes([], target_s=60) == []
