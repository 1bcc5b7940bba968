"""What a dataset card is about, and its plots. Writes no HTML."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from markupsafe import Markup

from pipeline.config import LabelConfig, RayConfig, RunConfig, label_precision
from pipeline.report.charts import bars, divided, histogram
from pipeline.report.figures import Bin, Figures, Share
from pipeline.report.text import axis_duration, duration, number, plain_seconds, share
from pipeline.tables.run_records import RunRecord

LOW_CONFIDENCE = 0.5  # bars of the histogram below this are drawn as a warning
_LABEL_TONES = {"unknown": "warn", "nospeech": "quiet"}


@dataclass(frozen=True, slots=True)
class CardSubject:
    """The snapshot that a card is about."""

    root: str
    seq: int
    fingerprint: str
    runs: Sequence[RunRecord] = ()  # those of its runs that left a record, newest first

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.root.rstrip("/").rpartition("/")[2] or self.root

    @property
    def settings(self) -> str:
        """The configuration of the newest run as JSON; "" if no run left a record."""
        if not self.runs:
            return ""
        return json.dumps(self.runs[0].settings, ensure_ascii=False, indent=2)

    @property
    def engine(self) -> str:
        """What ran the model of the newest run, and its precision; "" if no run left a record."""
        if not self.runs:
            return ""
        settings = self.runs[0].settings
        label = LabelConfig.model_construct(**settings.get("label", {}))
        ray = RayConfig.model_construct(**settings.get("ray", {}))
        precision = label_precision(
            RunConfig.model_construct(manifest="", output="", label=label, ray=ray)
        )
        return f"{label.backend}, {precision}"

    @property
    def python(self) -> str:
        """How to read its tables, as Python code."""
        return (
            "from pipeline.tables import connect\n"
            f"db = connect({self.root!r}, seq={self.seq}, fingerprint={self.fingerprint[:12]!r})\n"
            'db.sql("SELECT * FROM segments ORDER BY confidence LIMIT 20").df()'
        )


@dataclass(frozen=True, slots=True)
class Plots:
    """The plots of a card as SVG. One without anything to draw is empty."""

    time_account: Markup
    languages: Markup
    emotions: Markup
    events: Markup
    confidences: Markup
    segment_lengths: Markup
    recording_lengths: Markup
    emotion_unknown: Markup
    errors: Markup
    stages: Markup


def draw_plots(figures: Figures, subject: CardSubject) -> Plots:
    """Every plot of the card."""
    confidences, lengths = figures.confidences, figures.segment_lengths
    return Plots(
        time_account=_time_account(figures),
        languages=_label_bars("Hours by language", figures.languages),
        emotions=_label_bars("Hours by emotion", figures.emotions),
        events=_label_bars("Hours by event", figures.events),
        confidences=_histogram(
            "Confidence of text",
            confidences,
            "segments",
            number,
            _ticks(confidences, 5),
            n_warned=sum(bin.high <= LOW_CONFIDENCE for bin in confidences),
        ),
        segment_lengths=_histogram(
            "Length of segments", lengths, "segments", plain_seconds, _ticks(lengths, 6)
        ),
        recording_lengths=_recording_lengths(figures.recording_lengths),
        emotion_unknown=_emotion_unknown(figures.languages),
        errors=_error_bars(figures),
        stages=_stage_bars(subject),
    )


def _time_account(figures: Figures) -> Markup:
    totals = figures.totals
    parts = (
        ("bar", totals.labelled_s),
        ("quiet", totals.silence_s),
        ("bad", totals.failed_s),
    )
    whole = totals.audio_s or 1.0
    return divided("Audio by outcome", [(tone, seconds / whole) for tone, seconds in parts])


def _label_bars(name: str, shares: Sequence[Share]) -> Markup:
    return _duration_bars(name, [(each.label, each.seconds) for each in shares], _LABEL_TONES)


def _stage_bars(subject: CardSubject) -> Markup:
    stage_s = subject.runs[0].stage_s if subject.runs else {}
    return _duration_bars("Time in each stage", list(stage_s.items()))


def _duration_bars(
    name: str,
    seconds: Sequence[tuple[str, float]],
    tones: Mapping[str, str] = MappingProxyType({}),
) -> Markup:
    whole = sum(each for _, each in seconds)
    rows = [(label, each, f"{duration(each)} · {share(each, whole)}") for label, each in seconds]
    return bars(name, rows, tones=tones) if rows else Markup()


def _emotion_unknown(languages: Sequence[Share]) -> Markup:
    rows = [
        (each.label, each.n_unknown / each.n, f"{share(each.n_unknown, each.n)} of {each.n:,}")
        for each in languages
    ]
    return bars("EMO_UNKNOWN by language", rows, "warn") if rows else Markup()


def _error_bars(figures: Figures) -> Markup:
    rows = [(each.type, each.n, f"{each.n:,}") for each in figures.errors]
    return bars("Errors by type", rows, "bad") if rows else Markup()


def _recording_lengths(bins: Sequence[Bin]) -> Markup:
    every = 2 if len(bins) <= 8 else 3  # so that the texts do not touch
    ticks = [
        (i + 1, axis_duration(bin.high))
        for i, bin in enumerate(bins)
        if bin.high < float("inf") and i % every == 0
    ]
    return _histogram("Length of recordings", bins, "recordings", duration, ticks)


def _histogram(
    name: str,
    bins: Sequence[Bin],
    what: str,
    show: Callable[[float], str],
    ticks: Iterable[tuple[float, str]],
    n_warned: int = 0,
) -> Markup:
    if not any(bin.n for bin in bins):
        return Markup()
    titles = [
        f"{show(bin.low)} to {show(bin.high)}: {bin.n:,} {what}"
        if bin.high < float("inf")
        else f"{show(bin.low)} and longer: {bin.n:,} {what}"
        for bin in bins
    ]
    return histogram(name, [bin.n for bin in bins], titles, ticks, what, n_warned)


def _ticks(bins: Sequence[Bin], n: int) -> list[tuple[float, str]]:
    """About `n` places on an axis of bins of one width, at round distances."""
    every = next((step for step in (1, 2, 4, 5, 10, 20) if len(bins) / step <= n), 20)
    width = bins[0].high if bins else 1.0
    return [(i, number(i * width)) for i in range(0, len(bins) + 1, every)]
