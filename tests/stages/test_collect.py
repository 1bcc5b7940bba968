"""Short items share a list up to a minute; long ones are alone; order and number never change."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.collect import TABLE_S, collect


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [
        ([], []),
        ([0.0, 0.0], [2]),
        ([30, 30, 1], [2, 1]),
        ([30, 31], [1, 1]),
        ([1, 1800, 1, 1], [1, 1, 2]),
        ([1800, 1800], [1, 1]),
    ],
)
def test_lists_are_at_most_a_minute_or_one_item(seconds: list[float], sizes: list[int]) -> None:
    assert [len(one) for one in collect((s, s) for s in seconds)] == sizes


@given(st.lists(st.floats(0, 200)))
def test_every_item_is_in_one_list_in_its_order(seconds: list[float]) -> None:
    lists = list(collect((s, index) for index, s in enumerate(seconds)))
    assert [index for one in lists for index in one] == list(range(len(seconds)))
    for one in lists:
        assert len(one) == 1 or sum(seconds[index] for index in one) <= TABLE_S + 1e-9


def test_an_item_waits_for_no_later_one_once_a_minute_is_full() -> None:
    taken: list[int] = []

    def items() -> Iterator[tuple[float, int]]:
        for index in range(4):
            taken.append(index)
            yield 40.0, index

    lists = collect(items())
    assert next(lists) == [0]
    assert taken == [0, 1]
