from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import pack_by_length

LENGTHS = st.lists(st.integers(min_value=1, max_value=3000), max_size=60)


@given(LENGTHS, st.integers(min_value=1, max_value=12000))
def test_every_clip_is_in_exactly_one_batch(lengths: list[int], limit: int) -> None:
    batches = pack_by_length(lengths, limit)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(min_value=1, max_value=12000))
def test_no_batch_is_longer_than_the_limit_unless_one_clip_is(
    lengths: list[int], limit: int
) -> None:
    for batch in pack_by_length(lengths, limit):
        assert len(batch) == 1 or sum(lengths[index] for index in batch) <= limit


def test_neighbours_in_length_share_a_batch() -> None:
    assert pack_by_length([1, 50, 2, 49], 100) == [[1, 3], [2, 0]]
