"""Whether speech and words are where the references have them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from rapidfuzz.distance import Levenshtein

from pipeline.evaluation.references import TimedWord
from pipeline.report.text_units import plain

Spans = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class SpeechScore:
    """Seconds of speech of the references, of the segments with text, and of both."""

    reference_s: float
    labelled_s: float
    both_s: float

    @property
    def precision(self) -> float | None:
        return self.both_s / self.labelled_s if self.labelled_s else None

    @property
    def recall(self) -> float | None:
        return self.both_s / self.reference_s if self.reference_s else None


@dataclass(frozen=True, slots=True)
class WordTimes:
    """Errors of the words that both have, in seconds; positive: later than the reference."""

    n: int
    median_start_s: float
    median_end_s: float
    median_absolute_start_s: float
    median_absolute_end_s: float
    mean_start_s: float  # the bias
    mean_end_s: float
    mean_absolute_start_s: float
    mean_absolute_end_s: float


def score_speech(pairs: Sequence[tuple[Spans, Spans]]) -> SpeechScore:
    """(reference, labelled) spans of each recording that has a reference for them."""
    merged = [(_merged(reference), _merged(labelled)) for reference, labelled in pairs]
    return SpeechScore(
        sum(_length(reference) for reference, _ in merged),
        sum(_length(labelled) for _, labelled in merged),
        sum(
            max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
            for reference, labelled in merged
            for a in reference
            for b in labelled
        ),
    )


def score_words(
    pairs: Sequence[tuple[Sequence[TimedWord], Sequence[TimedWord]]],
) -> WordTimes | None:
    """Over the words that are equal in an alignment of both; None without any."""
    starts: list[float] = []
    ends: list[float] = []
    for reference, labelled in pairs:
        ours = [plain(word.word) for word in labelled]
        for block in Levenshtein.opcodes([plain(word.word) for word in reference], ours):
            if block.tag != "equal":
                continue
            places = zip(
                range(block.src_start, block.src_end),
                range(block.dest_start, block.dest_end),
                strict=True,
            )
            for there, here in places:
                starts.append(labelled[here].start_s - reference[there].start_s)
                ends.append(labelled[here].end_s - reference[there].end_s)
    if not starts:
        return None
    return WordTimes(
        n=len(starts),
        median_start_s=median(starts),
        median_end_s=median(ends),
        median_absolute_start_s=median(map(abs, starts)),
        median_absolute_end_s=median(map(abs, ends)),
        mean_start_s=fmean(starts),
        mean_end_s=fmean(ends),
        mean_absolute_start_s=fmean(map(abs, starts)),
        mean_absolute_end_s=fmean(map(abs, ends)),
    )


def _merged(spans: Spans) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end_s)
        else:
            merged.append((start_s, end_s))
    return merged


def _length(spans: Spans) -> float:
    return sum(end_s - start_s for start_s, end_s in spans)
