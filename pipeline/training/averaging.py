"""Averages of the trained weights over steps. Knows no step; pure but for its own tensors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average of the weights that are trained.

    In the first steps it follows faster, so that a short training is not averaged with its start
    only.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self._trained, self._decay = trained, decay
        self.values = {name: value.detach().clone() for name, value in trained.items()}

    @torch.no_grad()
    def update(self, n_steps: int) -> None:
        """After `n_steps` steps of the optimiser."""
        decay = min(self._decay, (1 + n_steps) / (10 + n_steps))
        for name, value in self._trained.items():
            self.values[name].lerp_(value, 1 - decay)

    def load(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.values[name].copy_(value)


@contextmanager
def holding(trained: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """The module has other values in its trained weights, for the time of a `with`."""
    kept = {name: value.detach().clone() for name, value in trained.items()}
    _copy(trained, values)
    try:
        yield
    finally:
        _copy(trained, kept)


@torch.no_grad()
def _copy(trained: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, value in trained.items():
        value.copy_(values[name])
