"""An evaluation as one HTML page and as lines for a terminal. Knows figures and words for them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.evaluation.calibration import N_BINS, Calibration
from pipeline.evaluation.evaluate import Evaluation, Item, Scores, TextScore, Worst
from pipeline.evaluation.gates import Verdict, metrics_of
from pipeline.evaluation.intervals import Difference, Interval
from pipeline.evaluation.labels import Classification
from pipeline.evaluation.published import Published
from pipeline.evaluation.text_norm import DESCRIPTIONS
from pipeline.report.charts import histogram
from pipeline.report.page import render_page

_UNITS = {"characters": "CER", "words": "WER", "mixed": "mixed"}
_N_RATE_BINS = 20


def make_page(
    evaluation: Evaluation,
    verdicts: Sequence[Verdict] = (),
    baseline: str = "",
    differences: Mapping[str, Difference] | None = None,
    published: Published | None = None,
) -> str:
    """A page without scripts; nothing is loaded from elsewhere."""
    scores = evaluation.scores
    return render_page(
        "evaluation.html",
        facts={
            "source": evaluation.source,
            "fingerprint": evaluation.fingerprint,
            "seq": evaluation.seq,
            "normalization": DESCRIPTIONS[evaluation.normalizer],
            "form": evaluation.text_form,
            "baseline": baseline,
        },
        tiles=list(_tiles(scores)),
        problems=list(problems(evaluation)),
        gates=[gate_row(one) for one in verdicts],
        differences=[difference_row(name, one) for name, one in (differences or {}).items()],
        texts=list(text_rows(scores)),
        rate_plot=_rate_plot(evaluation.rates),
        confusions=[(right, said, f"{n:,}") for right, said, n in evaluation.confusions],
        labels=list(_labels(scores)),
        events=list(event_rows(scores)),
        published=None
        if published is None
        else {
            "title": published.title,
            "rows": [(name, percent(value)) for name, value in published.figures],
        },
        reliability=[_reliability(name, one) for name, one in evaluation.calibration.items()],
        times=list(time_rows(evaluation)),
        groups=[
            {"column": column, "rows": [_group_row(name, one) for name, one in groups.items()]}
            for column, groups in evaluation.groups.items()
        ],
        worst=[_worst(one) for one in evaluation.worst],
    )


def percent(value: float | None) -> str:
    """12.3 %, or a dot where nothing was measured."""
    return "·" if value is None else f"{100 * value:.1f} %"


def between(interval: Interval | None) -> str:
    """The interval in per cent."""
    if interval is None:
        return "·"
    return f"{100 * interval.low:.1f} – {100 * interval.high:.1f} %"


def problems(evaluation: Evaluation) -> Iterator[str]:
    """What was not scored, and why: nothing is dropped without a word."""
    scores = evaluation.scores
    if scores.n_missing:
        yield (
            f"{scores.n_missing:,} references have no recording in the tables: all of their words "
            "count as deleted"
        )
    if evaluation.n_ignored:
        yield (
            f"{evaluation.n_ignored:,} references have no recording in the tables and were left "
            "out (--ignore-missing)"
        )
    silent = [item for item in evaluation.items if is_silent(item)]
    if silent:
        yield (
            f"{len(silent):,} recordings have no segment, because the VAD found no speech: no text "
            "and no label; segment.whole_below_s or segment.silence: label gives them one"
        )
    if scores.n_failed:
        yield f"{scores.n_failed:,} recordings failed: all of their words count as deleted"
    if evaluation.n_without:
        yield f"{evaluation.n_without:,} recordings have no reference and are not scored"
    for value, n in evaluation.unmapped.items():
        yield f"{n:,} references say {value!r}, which no label stands for; they are not scored"


def text_rows(scores: Scores) -> Iterator[tuple[str, ...]]:
    """(language and unit, rate, interval, sub, del, ins, units, recordings)."""
    for language, told in scores.texts.items():
        for one in told:
            yield _text_row(f"{language} {_UNITS[one.unit]}", one)
    if scores.mixed is not None and len(scores.texts) > 1:
        yield _text_row("all, mixed", scores.mixed)


def event_rows(scores: Scores) -> Iterator[tuple[str, ...]]:
    """(event, n, recall, precision, F1)."""
    for name, one in scores.events.items():
        figures = (percent(value) for value in (one.recall, one.precision, one.f1))
        yield name, f"{one.n:,}", *figures


def label_rows(scores: Scores) -> Iterator[tuple[str, ...]]:
    """(label, n, accuracy, interval, UA, macro F1, weighted F1, abstained)."""
    for name, title in _TITLES.items():
        found: Classification | None = getattr(scores, name)
        if found is not None:
            yield (
                *(title, f"{found.n:,}", percent(found.accuracy)),
                between(scores.intervals.get(name)),
                *map(percent, (found.unweighted_accuracy, found.macro_f1, found.weighted_f1)),
                percent(found.n_abstained / found.n),
            )


def time_rows(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """(what, value) of speech and word times, where the references have them."""
    if evaluation.speech is not None:
        yield "speech found, of its seconds", percent(evaluation.speech.recall)
        yield "text where there is speech, of its seconds", percent(evaluation.speech.precision)
    if evaluation.word_times is not None:
        words = evaluation.word_times
        yield "words with times on both sides", f"{words.n:,}"
        yield "start, median error", f"{1000 * words.median_start_s:+.0f} ms"
        yield "end, median error", f"{1000 * words.median_end_s:+.0f} ms"
        yield "start, median absolute error", f"{1000 * words.median_absolute_start_s:.0f} ms"
        yield "end, median absolute error", f"{1000 * words.median_absolute_end_s:.0f} ms"
        yield "start, mean error", f"{1000 * words.mean_start_s:+.0f} ms"
        yield "end, mean error", f"{1000 * words.mean_end_s:+.0f} ms"
        yield "start, mean absolute error", f"{1000 * words.mean_absolute_start_s:.0f} ms"
        yield "end, mean absolute error", f"{1000 * words.mean_absolute_end_s:.0f} ms"


def gate_row(verdict: Verdict) -> tuple[str, str, str, str]:
    """(metric, value, limit, met or not)."""
    name = f"{verdict.metric}, against the baseline" if verdict.is_regression else verdict.metric
    shown = "not measured" if verdict.value is None else percent(verdict.value)
    return name, shown, percent(verdict.limit), "met" if verdict.is_met else "NOT MET"


def difference_row(name: str, difference: Difference) -> tuple[str, str, str, str]:
    """(metric, difference, interval, P(better))."""
    better = "·" if difference.p_better is None else f"{difference.p_better:.2f}"
    value = f"{100 * difference.value:+.1f} points"
    return name, value, between(difference.interval), better


_TITLES = {
    "language": "language",
    "emotion": "emotion",
    "emotion_forced": "emotion, forced",
}


def _text_row(name: str, one: TextScore) -> tuple[str, ...]:
    errors = one.errors
    counts = (errors.substitutions, errors.deletions, errors.insertions, errors.n_units)
    return (
        *(name, percent(errors.rate), between(one.interval)),
        *(f"{n:,}" for n in (*counts, one.n_recordings)),
    )


def _tiles(scores: Scores) -> Iterator[tuple[str, str, str]]:
    if scores.mixed is not None:
        yield "text errors", percent(scores.mixed.errors.rate), between(scores.mixed.interval)
    for name, title in _TITLES.items():
        found: Classification | None = getattr(scores, name)
        if found is not None:
            yield f"{title} right", percent(found.accuracy), between(scores.intervals.get(name))


def _within(scores: Scores, name: str, mean: str) -> str:
    interval = scores.intervals.get(f"{name} {mean}")
    return f" ({between(interval)})" if interval else ""


def _labels(scores: Scores) -> Iterator[dict[str, Any]]:
    for name, title in _TITLES.items():
        found: Classification | None = getattr(scores, name)
        if found is None:
            continue
        yield {
            "title": title.capitalize(),
            "summary": f"{found.n_right:,} of {found.n:,} right (WA {percent(found.accuracy)}, "
            f"UA {percent(found.unweighted_accuracy)}{_within(scores, name, 'UA')}, "
            f"macro F1 {percent(found.macro_f1)}{_within(scores, name, 'macro F1')}, "
            f"weighted F1 {percent(found.weighted_f1)}); {found.n_abstained:,} abstentions",
            "rows": [
                (
                    *(label, f"{one.n:,}", percent(one.recall), percent(one.precision)),
                    *(percent(one.f1), _mostly(found.confusion[label])),
                )
                for label, one in found.classes.items()
            ],
        }


def is_silent(item: Item) -> bool:
    """Whether a recording is good and has no segment."""
    return item.hypothesis is not None and item.hypothesis.is_ok and not item.hypothesis.language


def _mostly(called: Mapping[str, int]) -> str:
    return ", ".join(f"{label or 'no label'} {n:,}" for label, n in [*called.items()][:3])


def _rate_plot(rates: Sequence[float]) -> object:
    if not rates:
        return None
    counts = [0] * _N_RATE_BINS
    for rate in rates:
        counts[min(int(rate * _N_RATE_BINS), _N_RATE_BINS - 1)] += 1
    titles = [
        f"{5 * number} to {'more' if number == _N_RATE_BINS - 1 else f'{5 * number + 5} %'}: {n:,}"
        for number, n in enumerate(counts)
    ]
    ticks = [(0.0, "0 %"), (_N_RATE_BINS / 2, "50 %"), (float(_N_RATE_BINS), "100 %")]
    return histogram("Error rate of a recording", counts, titles, ticks, unit="recordings")


def _reliability(name: str, one: Calibration) -> dict[str, Any]:
    shares = [round(100 * found.accuracy) if found else 0 for found in one.bins]
    titles = [
        f"{10 * number} to {10 * number + 10} %: "
        + (f"{found.accuracy:.0%} right of {found.n:,}" if found else "none")
        for number, found in enumerate(one.bins)
    ]
    ticks = [(0.0, "0 %"), (N_BINS / 2, "50 %"), (float(N_BINS), "100 %")]
    return {
        "title": f"{name.capitalize()}: right, by the probability that was told",
        "plot": histogram(f"Reliability of {name}", shares, titles, ticks, unit="% right"),
        "note": f"{one.n:,} values; expected calibration error {percent(one.ece)}, Brier "
        f"{one.brier:.3f}. Honest probabilities rise evenly from 0 to 100 %.",
    }


def _group_row(name: str, scores: Scores) -> tuple[str, ...]:
    metrics = metrics_of(scores)
    return (
        *(name or "(none)", f"{scores.n_recordings:,}", percent(metrics["mixed_error_rate"])),
        *(_right(metrics[f"{label}_error"]) for label in _TITLES),
    )


def _right(error: float | None) -> str:
    return "·" if error is None else percent(1 - error)


def _worst(one: Worst) -> dict[str, Any]:
    errors = one.errors
    summary = (
        f"{errors.n_edits} errors in {errors.n_units}: {errors.substitutions} substituted, "
        f"{errors.deletions} deleted, {errors.insertions} inserted"
    )
    return {
        "recording_id": one.recording_id,
        "summary": f"{one.note}; {summary}" if one.note else summary,
        "pieces": [
            (piece.kind, " ".join(piece.reference), " ".join(piece.hypothesis))
            for piece in one.pieces
        ],
    }
