"""Scores of labels: language, emotion, events. Pure.

`unknown` is an abstention and never a class: a mean over classes that had it in would be another
number than the published ones. So the classes are those of the references, always.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: how much of it was found, and how much of what was called so is."""

    n: int  # references
    recall: float
    precision: float | None  # None if nothing was called so

    @property
    def f1(self) -> float:
        precision = self.precision or 0.0
        both = precision + self.recall
        return 2 * precision * self.recall / both if both else 0.0


@dataclass(frozen=True, slots=True)
class Classification:
    """Labels against references, over the classes of the references."""

    n: int = 0
    n_right: int = 0
    n_abstained: int = 0  # labels `unknown`, or none because the recording failed
    classes: Mapping[str, ClassScore] = field(default_factory=dict)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # reference -> label

    @property
    def accuracy(self) -> float | None:
        """WA, weighted accuracy: the share of all that is right."""
        return self.n_right / self.n if self.n else None

    @property
    def unweighted_accuracy(self) -> float | None:
        """UA: the mean recall of the classes."""
        return _mean([one.recall for one in self.classes.values()])

    @property
    def macro_f1(self) -> float | None:
        return _mean([one.f1 for one in self.classes.values()])

    @property
    def weighted_f1(self) -> float | None:
        if not self.n:
            return None
        return sum(one.n * one.f1 for one in self.classes.values()) / self.n


def classify(pairs: Sequence[tuple[str, str]], abstentions: Collection[str]) -> Classification:
    """Scores of (reference, label) pairs."""
    called = Counter(label for _, label in pairs)
    confusion: dict[str, Counter[str]] = {}
    for reference, label in pairs:
        confusion.setdefault(reference, Counter())[label] += 1
    classes = {
        name: ClassScore(
            n=labels.total(),
            recall=labels[name] / labels.total(),
            precision=labels[name] / called[name] if called[name] else None,
        )
        for name, labels in sorted(confusion.items())
    }
    return Classification(
        n=len(pairs),
        n_right=sum(reference == label for reference, label in pairs),
        n_abstained=sum(label in abstentions for _, label in pairs),
        classes=classes,
        confusion={name: dict(labels.most_common()) for name, labels in sorted(confusion.items())},
    )


@dataclass(frozen=True, slots=True)
class EventScore:
    """One event over all recordings that have a reference for events."""

    n: int  # recordings that have it
    n_found: int  # of these, labelled so
    n_called: int  # recordings labelled so

    @property
    def precision(self) -> float | None:
        return self.n_found / self.n_called if self.n_called else None

    @property
    def recall(self) -> float | None:
        return self.n_found / self.n if self.n else None

    @property
    def f1(self) -> float | None:
        both = self.n + self.n_called
        return 2 * self.n_found / both if both else None


def score_events(
    pairs: Sequence[tuple[Collection[str], Collection[str]]],
) -> dict[str, EventScore]:
    """Scores by event of (events of the reference, events that were labelled) pairs."""
    names = sorted({event for pair in pairs for side in pair for event in side})
    return {
        name: EventScore(
            n=sum(name in reference for reference, _ in pairs),
            n_found=sum(name in reference and name in found for reference, found in pairs),
            n_called=sum(name in found for _, found in pairs),
        )
        for name in names
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
