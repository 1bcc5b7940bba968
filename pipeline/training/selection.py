"""Which of the weights on the way are kept, and when to stop. Knows scores; no network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pipeline.training.scores import Regression, SetScore, mean_error, regressions
from pipeline.training.trainable import mixed


@dataclass(slots=True)
class Selection:
    """The best weights so far, by the mean error on the held-out sets."""

    n_kept: int
    patience: int  # stop after this many evaluations in a row that were not the best
    kept: list[tuple[float, int]] = field(default_factory=list)  # (error, step), best first
    best: float = float("inf")
    n_without_gain: int = 0

    def add(self, step: int, error: float) -> None:
        """The mean error after so many steps."""
        self.kept = sorted([*self.kept, (error, step)])[: self.n_kept]
        self.n_without_gain = 0 if error < self.best else self.n_without_gain + 1
        self.best = min(error, self.best)

    @property
    def is_over(self) -> bool:
        """Whether it has not become better for long enough to stop."""
        return self.n_without_gain >= self.patience

    def steps(self) -> list[int]:
        return [step for _, step in self.kept]

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"kept": self.kept, "best": self.best, "n_without_gain": self.n_without_gain}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.kept = [(error, step) for error, step in state["kept"]]
        self.best, self.n_without_gain = state["best"], state["n_without_gain"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mix of the start and the trained weights, and how it scores."""

    share: float  # of the trained weights; 0: the start itself
    scores: Sequence[SetScore]
    error: float
    regressions: Sequence[Regression]  # that the gates do not allow


@dataclass(frozen=True, slots=True)
class Choice:
    """Which mix is written, and what it was chosen from."""

    chosen: Candidate
    candidates: Sequence[Candidate]  # the start is the first

    @property
    def is_better(self) -> bool:
        """Whether anything but the start met the gates and was better than it."""
        return self.chosen.share > 0


def choose_mix(
    start: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    shares: Sequence[float],
    score: Callable[[Mapping[str, Tensor]], Sequence[SetScore]],
    before: Sequence[SetScore],
    max_regression: float,
) -> tuple[dict[str, Tensor], Choice]:
    """The weights of the mix with the least error among those that no gate refuses.

    With equal errors, the one nearest to the start; the start itself if none is better.
    """
    candidates = [Candidate(0.0, before, mean_error(before), [])]
    for share in sorted(shares):
        scores = score(mixed(start, new, share))
        worse = regressions(before, scores, max_regression)
        candidates.append(Candidate(share, scores, mean_error(scores), worse))
    allowed = [one for one in candidates if not one.regressions]
    choice = Choice(min(allowed, key=lambda one: (one.error, one.share)), candidates)
    return mixed(start, new, choice.chosen.share), choice
