"""Whether a probability means a probability: ECE, Brier score, reliability. Pure; numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

N_BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """The labels whose probability is in one tenth."""

    n: int
    mean_probability: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Probabilities of the labels that were given, against whether these were right."""

    n: int
    ece: float  # expected calibration error, 10 equal bins; Naeini et al. 2015
    brier: float  # mean squared difference; Brier 1950
    bins: tuple[Bin | None, ...]


def calibrate(probabilities: Sequence[float], is_right: Sequence[bool]) -> Calibration | None:
    """None without values."""
    if not len(probabilities):
        return None
    told = np.clip(np.asarray(probabilities, float), 0.0, 1.0)
    right = np.asarray(is_right, float)
    place = np.minimum((told * N_BINS).astype(int), N_BINS - 1)
    bins = tuple(
        Bin(int(inside.sum()), float(told[inside].mean()), float(right[inside].mean()))
        if (inside := place == number).any()
        else None
        for number in range(N_BINS)
    )
    gaps = (one.n * abs(one.accuracy - one.mean_probability) for one in bins if one is not None)
    return Calibration(
        n=len(told),
        ece=sum(gaps) / len(told),
        brier=float(np.mean((told - right) ** 2)),
        bins=bins,
    )
