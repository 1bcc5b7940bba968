"""Batches as tensors: what is masked by chance, and what is not."""

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.training.settings import SpecAugConfig
from pipeline.training.tensors import mask

# specaug_conf of SenseVoiceSmall's config.yaml.
THEIRS = {
    "apply_time_warp": False,
    "freq_mask_width_range": [0, 30],
    "num_freq_mask": 1,
    "lfr_rate": 6,
    "time_mask_width_range": [0, 12],
    "num_time_mask": 1,
}


class _TorchDraws(np.random.Generator):
    """Draws the whole numbers that torch would, so that both sides mask by the same ones."""

    def integers(self, low: Any, high: Any = None, *_: Any, **__: Any) -> Any:
        return int(torch.randint(low, high, (1,)))


@pytest.mark.parametrize("n_frames", [200, 12, 5, 1])
def test_masks_are_those_of_funasr_for_the_same_random_numbers(funasr: Any, n_frames: int) -> None:
    """SpecAugLFR on one clip at a time; clips shorter than the widest mask are among them."""
    from funasr.models.specaug.specaug import SpecAugLFR

    theirs, draws = SpecAugLFR(**THEIRS), _TorchDraws(np.random.PCG64())
    n_masked = set()
    for seed in range(40):
        features = torch.randn(n_frames, 560, generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        expected, _ = theirs(features[None].clone(), torch.tensor([n_frames]))
        torch.manual_seed(seed)
        masked = mask(features, SpecAugConfig(), draws)
        assert torch.equal(masked, expected[0])
        n_masked.add(int((masked == 0).sum()))
    assert len(n_masked) > 5


def test_masks_stay_under_their_widths_and_the_clip_is_not_changed() -> None:
    features = torch.ones(100, 560)
    for seed in range(40):
        masked = mask(features, SpecAugConfig(freq=4, time=3), np.random.default_rng(seed))
        frames = (masked == 0).all(dim=1)
        assert int(frames.sum()) < 3
        bins = (masked[~frames] == 0).all(dim=0).view(7, 80)
        assert int(bins[0].sum()) < 4
        assert bool((bins == bins[0]).all())
    assert bool((features == 1).all())


def test_masks_of_width_0_are_turned_off() -> None:
    features = torch.ones(10, 560)
    off = SpecAugConfig(freq=0, time=0)
    assert torch.equal(mask(features, off, np.random.default_rng(0)), features)
