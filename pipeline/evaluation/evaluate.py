"""Labels against references: all scores of one snapshot, in one pass over its recordings.

Every reference counts. A recording that failed, or that the tables do not hold, has no text: all of
its words are deletions, and its labels are abstentions.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import ConfigError
from pipeline.evaluation.calibration import Calibration, calibrate
from pipeline.evaluation.hypotheses import Hypothesis
from pipeline.evaluation.intervals import Interval, bootstrap, bootstrap_classes
from pipeline.evaluation.labels import Classification, EventScore, classify, score_events
from pipeline.evaluation.references import Joined, Reference, ReferenceSet, spoken_only
from pipeline.evaluation.text_norm import Normalizer, normaliser
from pipeline.evaluation.times import SpeechScore, WordTimes, score_speech, score_words
from pipeline.evaluation.transcripts import Errors, Piece, align, count_errors, total
from pipeline.report.text_units import Unit, split, units_of

ABSTENTIONS = frozenset({"unknown", ""})
_NO_EVENT = frozenset({"unknown", "speech"})  # the published scores are over sounds
_N_WORST = 30


@dataclass(frozen=True, slots=True)
class TextScore:
    """An error rate over the recordings of some languages."""

    unit: Unit
    errors: Errors
    interval: Interval | None
    n_recordings: int


@dataclass(frozen=True, slots=True)
class Worst:
    """A recording with many errors, aligned for a person."""

    recording_id: str
    errors: Errors
    pieces: Sequence[Piece]
    note: str  # "", or why there is no text


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of some recordings."""

    n_recordings: int
    n_failed: int
    n_missing: int
    mixed: TextScore | None
    texts: Mapping[str, Sequence[TextScore]]  # by language of the reference
    language: Classification | None
    emotion: Classification | None  # as told
    emotion_forced: Classification | None  # the most probable of the emotions but `unknown`
    events: Mapping[str, EventScore]
    # Of accuracies by "language", "emotion", "emotion_forced"; of means by "emotion UA" and so on.
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one snapshot is worth against one set of references."""

    source: str
    fingerprint: str
    seq: int
    normalizer: Normalizer
    text_form: str  # "written", "spoken" or "only": which form of the references was taken
    n_without: int  # recordings without a reference
    unmapped: Mapping[str, int]
    scores: Scores
    groups: Mapping[str, Mapping[str, Scores]]  # column -> value -> scores
    calibration: Mapping[str, Calibration]
    speech: SpeechScore | None
    word_times: WordTimes | None
    worst: Sequence[Worst]
    confusions: Sequence[tuple[str, str, int]]  # units taken for others, the most frequent first
    rates: Sequence[float]  # mixed error rate of each recording with a text, for a histogram
    items: Sequence["Item"] = ()
    n_ignored: int = 0  # references without a recording that were left out on request


@dataclass(frozen=True, slots=True)
class Item:
    """One recording, compared."""

    recording_id: str
    group: str  # what the bootstrap draws: the speaker, or the recording
    language: str
    reference: Reference
    hypothesis: Hypothesis | None
    errors: Mapping[Unit, Errors]


def evaluate(
    joined: Joined,
    hypotheses: Mapping[str, Hypothesis],
    found: ReferenceSet,
    snapshot: tuple[str, int],
    *,
    normalizer: Normalizer = "plain",
    simplified: bool = False,
    by: Sequence[str] = (),
) -> Evaluation:
    """Score all labels. `snapshot` is (fingerprint, seq).

    Raises ConfigError if the references are spoken forms only and the labels written ones.
    """
    form = _form_of([*joined.by_recording.values()], hypotheses)
    compare = _comparer(normaliser(normalizer, simplified=simplified), form)
    items = [
        compare(recording_id, reference, hypotheses[recording_id])
        for recording_id, reference in joined.by_recording.items()
    ]
    items += [compare(reference.name, reference, None) for reference in joined.missing]
    texted = [item for item in items if "mixed" in item.errors]
    return Evaluation(
        source=found.source,
        fingerprint=snapshot[0],
        seq=snapshot[1],
        normalizer=normalizer,
        text_form=form,
        n_without=joined.n_without,
        unmapped=dict(found.unmapped.most_common()),
        scores=score(items),
        groups={column: _grouped(items, column) for column in by},
        calibration=_calibration(items),
        speech=_speech(items),
        word_times=_word_times(items),
        worst=_worst(texted, normaliser(normalizer, simplified=simplified), form),
        confusions=_confusions(texted, normaliser(normalizer, simplified=simplified), form),
        rates=[one.errors["mixed"].rate or 0.0 for one in texted if one.errors["mixed"].n_units],
        items=items,
        n_ignored=joined.n_missing - len(joined.missing),
    )


def score(items: Sequence[Item]) -> Scores:
    """The scores of some items."""
    texted = [item for item in items if "mixed" in item.errors]
    languages = sorted({item.language for item in texted})
    classified = {
        name: _classified(items, of, label)
        for name, (of, label) in {
            "language": (lambda one: one.language, lambda one: one.language),
            "emotion": (lambda one: one.emotion, lambda one: one.emotion),
            "emotion_forced": (lambda one: one.emotion, lambda one: one.emotion_forced),
        }.items()
    }
    return Scores(
        n_recordings=len(items),
        n_failed=sum(item.hypothesis is not None and not item.hypothesis.is_ok for item in items),
        n_missing=sum(item.hypothesis is None for item in items),
        mixed=_text_score(texted, "mixed") if texted else None,
        texts={
            language: [
                _text_score([one for one in texted if one.language == language], unit)
                for unit in units_of(language)
            ]
            for language in languages
        },
        language=classified["language"][0],
        emotion=classified["emotion"][0],
        emotion_forced=classified["emotion_forced"][0],
        events=_event_scores(items),
        intervals={
            f"{name}{of}": interval
            for name, (_, intervals) in classified.items()
            for of, interval in intervals.items()
        },
    )


# ------------------------------------------------------------------------------- texts


def _form_of(references: Sequence[Reference], hypotheses: Mapping[str, Hypothesis]) -> str:
    """Which text of the references fits labels made with or without inverse normalisation."""
    was_itn = any(one.was_itn for one in hypotheses.values())
    if any(one.text_itn is not None for one in references):
        return "written" if was_itn else "spoken"
    has_digits = any(c.isdigit() for one in hypotheses.values() for c in one.text)
    if was_itn and has_digits and spoken_only(references):
        raise ConfigError(
            "the references spell numbers out and the labels write them as digits, so every number "
            "would be an error: label with label.use_itn=false, or give the references a column "
            "ref_text_itn"
        )
    return "only"


def text_of(reference: Reference, form: str) -> str | None:
    """The form of the reference that is compared."""
    if form == "written":
        return reference.text_itn if reference.text_itn is not None else reference.text
    return reference.text if reference.text is not None else reference.text_itn


def _comparer(
    normalise: Callable[[str, str], str], form: str
) -> Callable[[str, Reference, Hypothesis | None], Item]:
    def compare(recording_id: str, reference: Reference, hypothesis: Hypothesis | None) -> Item:
        language = reference.language or (hypothesis.language if hypothesis else "") or "unknown"
        text = text_of(reference, form)
        errors: dict[Unit, Errors] = {}
        if text is not None:
            right = normalise(text, language)
            said = normalise(hypothesis.text if hypothesis else "", language)
            for unit in ("mixed", *units_of(language)):
                errors[unit] = count_errors(split(right, unit), split(said, unit))
        extra = hypothesis.extra if hypothesis else {}
        speaker = reference.speaker or extra.get("speaker", "")
        return Item(recording_id, speaker or recording_id, language, reference, hypothesis, errors)

    return compare


def _text_score(items: Sequence[Item], unit: Unit) -> TextScore:
    errors = [item.errors[unit] for item in items]
    interval = bootstrap(
        [one.n_edits for one in errors],
        [one.n_units for one in errors],
        [item.group for item in items],
    )
    return TextScore(unit, total(errors), interval, len(items))


def _worst(items: Sequence[Item], normalise: Callable[[str, str], str], form: str) -> list[Worst]:
    ordered = sorted(items, key=lambda one: (-one.errors["mixed"].n_edits, one.recording_id))
    return [
        Worst(
            item.recording_id,
            item.errors["mixed"],
            align(*_units(item, normalise, form)),
            _note(item),
        )
        for item in ordered[:_N_WORST]
        if item.errors["mixed"].n_edits
    ]


def _note(item: Item) -> str:
    if item.hypothesis is None:
        return "not in the tables"
    return "" if item.hypothesis.is_ok else f"failed: {item.hypothesis.error_type}"


def _units(
    item: Item, normalise: Callable[[str, str], str], form: str
) -> tuple[list[str], list[str]]:
    said = item.hypothesis.text if item.hypothesis else ""
    return (
        split(normalise(text_of(item.reference, form) or "", item.language), "mixed"),
        split(normalise(said, item.language), "mixed"),
    )


def _confusions(
    items: Sequence[Item], normalise: Callable[[str, str], str], form: str
) -> list[tuple[str, str, int]]:
    counts: Counter[tuple[str, str]] = Counter()
    for item in items:
        for piece in align(*_units(item, normalise, form)):
            if piece.kind == "replace":
                counts.update(zip(piece.reference, piece.hypothesis, strict=False))
    return [(right, said, n) for (right, said), n in counts.most_common(20)]


# ------------------------------------------------------------------------------ labels


def _classified(
    items: Sequence[Item],
    of: Callable[[Reference], str | None],
    label: Callable[[Hypothesis], str],
) -> tuple[Classification | None, dict[str, Interval]]:
    """Scores of one kind of label, and intervals by "" (accuracy), " UA" and " macro F1"."""
    named = [(item, of(item.reference)) for item in items]
    known = [(item, right) for item, right in named if right is not None]
    if not known:
        return None, {}
    pairs = [(right, label(item.hypothesis) if item.hypothesis else "") for item, right in known]
    groups = [item.group for item, _ in known]
    accuracy = bootstrap(
        [float(right == said) for right, said in pairs], [1.0] * len(pairs), groups
    )
    means = bootstrap_classes(pairs, groups)
    found = {"": accuracy, **(dict(zip((" UA", " macro F1"), means, strict=True)) if means else {})}
    return classify(pairs, ABSTENTIONS), {name: one for name, one in found.items() if one}


def _event_scores(items: Sequence[Item]) -> dict[str, EventScore]:
    pairs = [
        (
            {*item.reference.events} - _NO_EVENT,
            {*(item.hypothesis.events if item.hypothesis else {})} - _NO_EVENT,
        )
        for item in items
        if item.reference.events is not None
    ]
    return score_events(pairs)


def _grouped(items: Sequence[Item], column: str) -> dict[str, Scores]:
    """Scores by language or speaker of the reference, or by a column of the manifest."""

    def value(item: Item) -> str:
        if column == "language":
            return item.language
        if column == "speaker" and item.reference.speaker:
            return item.reference.speaker
        return (item.hypothesis.extra if item.hypothesis else {}).get(column, "")

    values = sorted({value(item) for item in items})
    if values == [""]:
        raise ConfigError(f"--by {column}: neither the references nor the manifest have it")
    return {one: score([item for item in items if value(item) == one]) for one in values}


def _calibration(items: Sequence[Item]) -> dict[str, Calibration]:
    told: dict[str, list[tuple[float, bool]]] = {}
    for item in items:
        ours, reference = item.hypothesis, item.reference
        if ours is None or not ours.is_ok:
            continue
        if reference.language is not None and ours.language:
            right = ours.language == reference.language
            told.setdefault("language", []).append((ours.language_probability, right))
        if reference.emotion is not None and ours.emotion:
            right = ours.emotion == reference.emotion
            told.setdefault("emotion", []).append((ours.emotion_probability, right))
        if reference.events is not None:
            for event, probability in ours.events.items():
                right = event in reference.events
                told.setdefault("event", []).append((probability, right))
        if ours.confidence is not None and "mixed" in item.errors:
            is_right = not item.errors["mixed"].n_edits
            told.setdefault("confidence", []).append((ours.confidence, is_right))
    found = {
        name: calibrate([one for one, _ in pairs], [right for _, right in pairs])
        for name, pairs in told.items()
    }
    return {name: one for name, one in found.items() if one is not None}


def _speech(items: Sequence[Item]) -> SpeechScore | None:
    pairs = [
        (item.reference.speech, item.hypothesis.speech if item.hypothesis else ())
        for item in items
        if item.reference.speech
    ]
    return score_speech(pairs) if pairs else None


def _word_times(items: Sequence[Item]) -> WordTimes | None:
    return score_words(
        [
            (item.reference.words, item.hypothesis.words)
            for item in items
            if item.reference.words and item.hypothesis
        ]
    )
