"""What to review next: a frozen order with a random share. Knows segments; knows no pages.

The uncertain segments are the ones worth correcting, and say nothing about the corpus. So a queue
holds a share that was drawn by chance from the whole corpus, marked as such; accuracy is told from
these alone, without bias. No filter limits them: it would bias what they tell. They are spread
evenly over the order, so that a person who stops early has reviewed a fair share of them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Sample = Literal["random", ""]


class Chooser(Protocol):
    """Where a queue takes its segments from (browse.Browser)."""

    def sample(self, where: str, size: int, seed: int) -> list[str]: ...

    def most_uncertain(self, where: str, size: int, most_each: int) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Queue:
    """Segments in the order of review. `samples[k]` says how segment k was chosen."""

    queue_id: str
    where: str
    segment_ids: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def n_random(self) -> int:
        return self.samples.count("random")


def freeze(
    chooser: Chooser, where: str, size: int, share_random: float, seed: int, most_each: int = 3
) -> Queue:
    """A queue of `size` segments: uncertain ones that fit `where`, and `share_random` by chance.

    At most `most_each` uncertain ones are of one recording: ten doubtful segments of one noisy
    recording teach less than one of each of ten.
    """
    n_random = round(size * share_random)
    drawn = chooser.sample("", n_random, seed)
    taken = set(drawn)
    uncertain = [
        name for name in chooser.most_uncertain(where, size, most_each) if name not in taken
    ][: size - len(drawn)]
    order = _spread(uncertain, drawn)
    digest = hashlib.sha256("\0".join([where, *(name for name, _ in order)]).encode()).hexdigest()
    return Queue(
        digest[:16], where, tuple(name for name, _ in order), tuple(kind for _, kind in order)
    )


def _spread(uncertain: Sequence[str], drawn: Sequence[str]) -> list[tuple[str, Sample]]:
    """Both in their order, the drawn ones at even distances."""
    total = len(uncertain) + len(drawn)
    places = {int((number + 0.5) * total / len(drawn)) for number in range(len(drawn))}
    rest, chance = iter(uncertain), iter(drawn)
    order: list[tuple[str, Sample]] = []
    for place in range(total):
        first, second = (chance, rest) if place in places else (rest, chance)
        name = next(first, None)
        if name is None:
            first, name = second, next(second)
        order.append((name, "random" if first is chance else ""))
    return order
