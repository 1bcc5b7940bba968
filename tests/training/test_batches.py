"""Batches: each example once, as many on every worker, little padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.batches import padding_share, plan_epoch
from pipeline.training.loop import rate_at

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 5), st.integers(0, 3))
def test_each_example_is_trained_once_and_every_step_is_full(
    n_frames: list[int], n_per_step: int, seed: int
) -> None:
    steps = plan_epoch(n_frames, 60.0, n_per_step, [seed])
    assert {len(step) for step in steps} == {n_per_step}
    counted = [i for step in steps for batch in step if batch.counts for i in batch.members]
    assert sorted(counted) == list(range(len(n_frames)))
    for step in steps:
        for batch in step:
            longest = max(n_frames[i] for i in batch.members)
            assert len(batch.members) == 1 or longest * len(batch.members) <= 1000
        assert any(batch.counts for batch in step)
    assert steps == plan_epoch(n_frames, 60.0, n_per_step, [seed])


def test_padding_is_under_a_tenth_for_clips_of_all_lengths() -> None:
    n_frames = np.random.default_rng(0).integers(10, 330, 2000).tolist()
    steps = plan_epoch(n_frames, 60.0, 4, [0])
    assert padding_share(steps, n_frames) < 0.1


def test_epochs_have_other_batches() -> None:
    n_frames = [100 + i % 7 for i in range(100)]
    assert plan_epoch(n_frames, 60.0, 2, [0, 0]) != plan_epoch(n_frames, 60.0, 2, [0, 1])


def test_the_rate_rises_for_a_share_of_all_steps_and_falls_to_zero() -> None:
    """FunASR's 25,000 steps of warm-up outlast most fine-tunings."""
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[-1] < 0.001
    assert rate_at(0, 1, 0.0) == 1.0
