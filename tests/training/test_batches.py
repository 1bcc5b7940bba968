"""Batches: each example once, as many on every worker, little padding."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.sensevoice.decoding import Vocabulary
from pipeline.training.batches import padding_share, plan_epoch
from pipeline.training.data import TrainingData, plan_epochs, read_data
from pipeline.training.loop import rate_at
from pipeline.training.settings import DataConfig, FinetuneConfig
from tests.training.conftest import rows_of_demo, write_rows_to

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


@pytest.fixture(scope="module")
def data(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Four clips to train on, and the 13 others for replay."""
    folder: Path = tmp_path_factory.mktemp("replay")
    train = write_rows_to(folder / "train.jsonl", rows_of_demo()[:4])
    replay = write_rows_to(folder / "replay.jsonl", rows_of_demo()[4:])
    return read_data(DataConfig(train=train, replay=replay), vocabulary, {})


def trained_in_epochs(data: TrainingData, ratio: float, **settings: int) -> list[list[int]]:
    """The numbers of the clips of each epoch; those from 4 on are replay."""
    rows = DataConfig(train="rows.jsonl", replay="others.jsonl", replay_ratio=ratio)
    config = FinetuneConfig(model="m", output="o", data=rows, **settings)
    return [
        sorted(i for step in steps for batch in step if batch.counts for i in batch.members)
        for steps in plan_epochs(data, config, n_per_step=1)
    ]


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_replay_has_its_share_of_the_seconds_in_each_epoch(
    data: TrainingData, ratio: float
) -> None:
    """One clip more at most; those that are trained are never left out for it."""
    lengths = [one.duration_s for one in data.trained]
    wanted = ratio * sum(lengths[:4])
    for members in trained_in_epochs(data, ratio):
        assert members[:4] == [0, 1, 2, 3]
        replayed = [lengths[i] for i in members[4:]]
        assert wanted <= sum(replayed) < wanted + max(lengths)


def test_replay_is_drawn_anew_in_each_epoch_and_by_the_seed(data: TrainingData) -> None:
    first = trained_in_epochs(data, 1.0)
    assert len({tuple(members) for members in first}) > 1
    assert first == trained_in_epochs(data, 1.0)
    assert first != trained_in_epochs(data, 1.0, seed=1)


def test_replay_that_is_shorter_than_its_share_is_trained_once(data: TrainingData) -> None:
    """It is not repeated to fill the share."""
    assert trained_in_epochs(data, 100.0, epochs=1) == [list(range(17))]


def test_the_rate_rises_for_a_share_of_all_steps_and_falls_to_zero() -> None:
    """FunASR's 25,000 steps of warm-up outlast most fine-tunings."""
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[-1] < 0.001
    assert rate_at(0, 1, 0.0) == 1.0
