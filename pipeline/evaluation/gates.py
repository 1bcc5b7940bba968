"""Metrics by name, the difference of two evaluations, and limits that must be met. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.evaluation.evaluate import ABSTENTIONS, Evaluation, Item, Scores
from pipeline.evaluation.intervals import Difference, paired_difference
from pipeline.evaluation.labels import Classification
from pipeline.report.text_units import Unit

# Each metric is an error: lower is better, so that one rule serves all gates.
METRICS = {
    "mixed_error_rate": "errors per character or word, all languages",
    "cer": "errors per character of Chinese, Cantonese, Japanese and Korean",
    "wer": "errors per word of the other languages",
    "language_error": "share of recordings with a wrong language",
    "emotion_error": "share with a wrong emotion, abstentions among them",
    "emotion_forced_error": "the same, if the model must choose",
    "event_error": "1 - mean F1 of the events of the references",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One gate and whether it is met."""

    metric: str
    value: float | None  # None: nothing was measured, so the gate is not met
    limit: float
    is_regression: bool  # the value is the difference from the baseline

    @property
    def is_met(self) -> bool:
        return self.value is not None and self.value <= self.limit


def metrics_of(scores: Scores) -> dict[str, float | None]:
    """All METRICS; None where nothing was measured."""
    events = [one.f1 for one in scores.events.values() if one.n and one.f1 is not None]
    return {
        "mixed_error_rate": scores.mixed.errors.rate if scores.mixed else None,
        "cer": _rate(scores, "characters"),
        "wer": _rate(scores, "words"),
        "language_error": _error(scores.language),
        "emotion_error": _error(scores.emotion),
        "emotion_forced_error": _error(scores.emotion_forced),
        "event_error": 1 - sum(events) / len(events) if events else None,
    }


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """{"cer": 0.05} from ["cer=0.05"]. Raises ConfigError."""
    limits: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            raise ConfigError(f"--max {text}: write METRIC=NUMBER, e.g. cer=0.05") from None
        if name not in METRICS:
            raise ConfigError(f"--max {text}: there is no metric {name!r}; {', '.join(METRICS)}")
    return limits


def check(
    evaluation: Evaluation,
    limits: Mapping[str, float],
    max_regression: float | None = None,
    differences: Mapping[str, Difference] | None = None,
) -> list[Verdict]:
    """All gates. A metric that was not measured does not meet its limit."""
    measured = metrics_of(evaluation.scores)
    verdicts = [Verdict(name, measured[name], limit, False) for name, limit in limits.items()]
    if max_regression is not None:
        verdicts += [
            Verdict(name, difference.value, max_regression, True)
            for name, difference in (differences or {}).items()
        ]
    return verdicts


def differences_from(evaluation: Evaluation, baseline: Evaluation) -> dict[str, Difference]:
    """Each metric minus the baseline's, on the references that both were scored on.

    A recording that only one of the two has counts for both: the other one has no labels of it.
    """
    ours = {item.reference.key: item for item in evaluation.items}
    theirs = {item.reference.key: item for item in baseline.items}
    names = [name for name in ours if name in theirs]
    found = {
        metric: _difference([(ours[name], theirs[name]) for name in names], counts)
        for metric, counts in _COUNTS.items()
    }
    return {metric: one for metric, one in found.items() if one is not None}


_Counts = Callable[[Item], tuple[float, float] | None]


def _difference(pairs: Sequence[tuple[Item, Item]], counts: _Counts) -> Difference | None:
    told = [(item.group, counts(item), counts(base)) for item, base in pairs]
    known = [(group, one, other) for group, one, other in told if one and other]
    return paired_difference(
        [one[0] for _, one, _ in known],
        [other[0] for _, _, other in known],
        [one[1] for _, one, _ in known],
        [group for group, _, _ in known],
    )


def _in(unit: Unit) -> _Counts:
    """Edits and units of a text; of Korean, characters only, as in `_rate`."""

    def counts(item: Item) -> tuple[float, float] | None:
        errors = item.errors.get(unit)
        if errors is None or (unit == "words" and item.language == "ko"):
            return None
        return errors.n_edits, errors.n_units

    return counts


def _of(label: str, right: str) -> _Counts:
    def counts(item: Item) -> tuple[float, float] | None:
        wanted = getattr(item.reference, right)
        if wanted is None:
            return None
        said = getattr(item.hypothesis, label) if item.hypothesis else ""
        return float(said != wanted or said in ABSTENTIONS), 1.0

    return counts


_COUNTS: Mapping[str, _Counts] = {
    "mixed_error_rate": _in("mixed"),
    "cer": _in("characters"),
    "wer": _in("words"),
    "language_error": _of("language", "language"),
    "emotion_error": _of("emotion", "emotion"),
    "emotion_forced_error": _of("emotion_forced", "emotion"),
}


def _rate(scores: Scores, unit: Unit) -> float | None:
    """Over the languages whose first rate is in this unit, and Korean's characters."""
    chosen = [
        one
        for language, told in scores.texts.items()
        for one in told
        if one.unit == unit and (unit == "characters" or language != "ko")
    ]
    n_units = sum(one.errors.n_units for one in chosen)
    return sum(one.errors.n_edits for one in chosen) / n_units if n_units else None


def _error(found: Classification | None) -> float | None:
    return None if found is None or found.accuracy is None else 1 - found.accuracy
