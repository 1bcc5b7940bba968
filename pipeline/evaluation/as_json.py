"""An evaluation as JSON: `evaluation.json`. Its keys are listed in README.md of this folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.evaluation.evaluate import Evaluation, Scores, TextScore
from pipeline.evaluation.gates import Verdict, metrics_of
from pipeline.evaluation.intervals import Difference
from pipeline.evaluation.labels import Classification
from pipeline.evaluation.text_norm import DESCRIPTIONS

SCHEMA = 1


def to_json(
    evaluation: Evaluation,
    verdicts: Sequence[Verdict] = (),
    baseline: str = "",
    differences: Mapping[str, Difference] | None = None,
) -> dict[str, Any]:
    """A dictionary of JSON types."""
    return {
        "evaluation_schema": SCHEMA,
        "references": evaluation.source,
        "fingerprint": evaluation.fingerprint,
        "seq": evaluation.seq,
        "normalizer": evaluation.normalizer,
        "normalization": DESCRIPTIONS[evaluation.normalizer],
        "text_form": evaluation.text_form,
        "n_recordings_without_reference": evaluation.n_without,
        "unmapped": dict(evaluation.unmapped),
        **_scores(evaluation.scores),
        "groups": {
            column: {value: _scores(scores) for value, scores in groups.items()}
            for column, groups in evaluation.groups.items()
        },
        "calibration": {name: asdict(one) for name, one in evaluation.calibration.items()},
        "speech": None
        if evaluation.speech is None
        else asdict(evaluation.speech)
        | {"precision": evaluation.speech.precision, "recall": evaluation.speech.recall},
        "word_times": asdict(evaluation.word_times) if evaluation.word_times else None,
        "confusions": [list(one) for one in evaluation.confusions],
        "worst": [
            {"recording_id": one.recording_id, **asdict(one.errors), "note": one.note}
            for one in evaluation.worst
        ],
        "baseline": baseline or None,
        "differences": {name: asdict(one) for name, one in (differences or {}).items()},
        "gates": [asdict(one) | {"is_met": one.is_met} for one in verdicts],
    }


def _scores(scores: Scores) -> dict[str, Any]:
    return {
        "n_recordings": scores.n_recordings,
        "n_failed": scores.n_failed,
        "n_missing": scores.n_missing,
        "metrics": metrics_of(scores),
        "mixed": _text(scores.mixed) if scores.mixed else None,
        "texts": {name: [_text(one) for one in told] for name, told in scores.texts.items()},
        "language": _labels(scores.language),
        "emotion": _labels(scores.emotion),
        "emotion_forced": _labels(scores.emotion_forced),
        "events": {
            name: asdict(one) | {"precision": one.precision, "recall": one.recall, "f1": one.f1}
            for name, one in scores.events.items()
        },
        "intervals": {name: asdict(one) for name, one in scores.intervals.items()},
    }


def _text(score: TextScore) -> dict[str, Any]:
    return {
        "unit": score.unit,
        "rate": score.errors.rate,
        **asdict(score.errors),
        "interval": asdict(score.interval) if score.interval else None,
        "n_recordings": score.n_recordings,
    }


def _labels(found: Classification | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "n": found.n,
        "n_right": found.n_right,
        "n_abstained": found.n_abstained,
        "accuracy": found.accuracy,
        "unweighted_accuracy": found.unweighted_accuracy,
        "macro_f1": found.macro_f1,
        "weighted_f1": found.weighted_f1,
        "classes": {name: asdict(one) | {"f1": one.f1} for name, one in found.classes.items()},
        "confusion": {name: dict(labels) for name, labels in found.confusion.items()},
    }
