"""The parts of the dataset card, from figures to HTML. Knows what they mean to a reader."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from pipeline.report.charts import bars, divided, histogram, text_of
from pipeline.report.figures import Bin, ErrorGroup, Figures, Mismatch, Share
from pipeline.report.page import (
    card,
    duration,
    edge,
    grid,
    nothing,
    number,
    plain_seconds,
    section,
    share,
    table,
)
from pipeline.report.scripts import SCRIPTS
from pipeline.tables.run_records import RunRecord


@dataclass(frozen=True, slots=True)
class Source:
    """What a report is about."""

    root: str
    seq: int
    fingerprint: str
    runs: Sequence[RunRecord] = ()  # those of its runs that left a record, newest first


def header(figures: Figures, source: Source, name: str) -> str:
    last = max((run.committed_at for run in figures.runs), default="")
    models = ", ".join(f"<code>{text_of(model)}</code>" for model, _ in figures.models) or "none"
    when = f", committed {escape(last[:16].replace('T', ' '))} UTC" if last else ""
    return (
        f"<header><h1>{text_of(name)}</h1><p>{text_of(source.root)}</p>"
        f"<p>Labelled with {models}. Commit {source.seq}{when}.</p></header>"
    )


def tiles(figures: Figures) -> str:
    values = (
        (duration(figures.audio_s), "of audio"),
        (f"{figures.n_recordings:,}", "recordings"),
        (f"{figures.n_segments:,}", "labelled segments"),
        (share(figures.n_errors, figures.n_recordings), "of recordings failed"),
        (share(figures.nospeech_s, figures.labelled_s), "of labelled time without speech"),
        (share(figures.n_emotion_unknown, figures.n_segments), "of segments EMO_UNKNOWN"),
        (f"{figures.median_confidence:.2f}", "median confidence of text"),
    )
    cells = (f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in values)
    return f'<div class="tiles">{"".join(cells)}</div>'


def ledger(figures: Figures) -> str:
    parts = (
        ("bar", "in labelled segments", figures.labelled_s),
        ("quiet", "silence, by the VAD", figures.silence_s),
        ("bad", "failed", figures.failed_s),
    )
    whole = figures.audio_s or 1.0
    keys = "".join(
        f'<span><i class="key {tone}"></i>{duration(seconds)} {name}, '
        f"{share(seconds, whole)}</span>"
        for tone, name, seconds in parts
    )
    name = "Where the audio went"
    plot = divided(name, [(tone, seconds / whole) for tone, _, seconds in parts])
    return card(name, f'{plot}<div class="keys">{keys}</div>')


def contents(figures: Figures) -> str:
    plots = (
        ("Hours by language", figures.languages),
        ("Hours by emotion", figures.emotions),
        ("Hours by event", figures.events),
    )
    cards = (card(name, _label_bars(name, shares)) for name, shares in plots)
    return section("What is in it", grid(cards))


def _label_bars(name: str, shares: Sequence[Share]) -> str:
    whole = sum(each.seconds for each in shares)
    rows = [
        (each.label, each.seconds, f"{duration(each.seconds)} · {share(each.seconds, whole)}")
        for each in shares
    ]
    return bars(name, rows) if rows else nothing("nothing labelled yet")


def quality(figures: Figures) -> str:
    confidences, lengths = figures.confidences, figures.segment_lengths
    cards = (
        card(
            "Confidence of text, by segment",
            _plot("Confidence of text", confidences, "segments", number, _ticks(confidences, 5)),
            "Mean probability of the tokens that were written; segments with text only.",
        ),
        card(
            "Length of segments",
            _plot("Length of segments", lengths, "segments", plain_seconds, _ticks(lengths, 6)),
            "Seconds.",
        ),
        card(
            "Length of recordings",
            _plot(
                "Length of recordings",
                figures.recording_lengths,
                "recordings",
                duration,
                [
                    (i + 1, edge(bin.high))
                    for i, bin in enumerate(figures.recording_lengths)
                    if bin.high < float("inf") and i % 2 == 0
                ],
            ),
            "Edges are not evenly spaced.",
        ),
    )
    return section("How sure, how long", grid(cards))


def _plot(
    name: str,
    bins: Sequence[Bin],
    what: str,
    show: Callable[[float], str],
    ticks: Sequence[tuple[float, str]],
) -> str:
    if not any(bin.n for bin in bins):
        return nothing("nothing to show")
    titles = [
        f"{show(bin.low)} to {show(bin.high)}: {bin.n:,} {what}"
        if bin.high < float("inf")
        else f"{show(bin.low)} and longer: {bin.n:,} {what}"
        for bin in bins
    ]
    return histogram(name, [bin.n for bin in bins], titles, ticks)


def _ticks(bins: Sequence[Bin], n: int) -> list[tuple[float, str]]:
    """About `n` places on an even axis, at round distances."""
    every = next((step for step in (1, 2, 4, 5, 10, 20) if len(bins) / step <= n), 20)
    width = bins[0].high if bins else 1.0
    return [(i, number(i * width)) for i in range(0, len(bins) + 1, every)]


def to_review(figures: Figures) -> str:
    unknown = [
        (each.label, each.n_unknown / each.n, f"{share(each.n_unknown, each.n)} of {each.n:,}")
        for each in figures.languages
    ]
    plot = bars("EMO_UNKNOWN by language", unknown, "warn") if unknown else nothing("no segments")
    cards = (
        card(
            "EMO_UNKNOWN by language",
            plot,
            "Share of segments where the model abstains; emotion_forced has its next best guess.",
        ),
        card("Script of the text, by language", _script_table(figures), _script_note(figures)),
    )
    examples = _mismatch_table(figures.mismatches)
    return section("Worth a look", grid(cards) + examples)


def _script_table(figures: Figures) -> str:
    counts = {(each.language, each.script): each for each in figures.scripts}
    languages = [each.label for each in figures.languages]
    used = [script for script in SCRIPTS if any((name, script) in counts for name in languages)]
    rows = []
    for language in languages:
        cells = []
        for script in used:
            count = counts.get((language, script))
            if count is None:
                cells.append('<td class="n none">·</td>')
            else:
                tone = "" if count.fits else " odd"
                cells.append(f'<td class="n{tone}"><span>{count.n:,}</span></td>')
        rows.append(f'<tr><th scope="row">{text_of(language)}</th>{"".join(cells)}</tr>')
    if not rows:
        return nothing("no segments")
    return table(("", *used), rows, numbers=used)


def _script_note(figures: Figures) -> str:
    n_odd = sum(each.n for each in figures.scripts if not each.fits)
    found = f"{share(n_odd, figures.n_segments)} of segments" if n_odd else "No segment"
    return f"{found} in a script that does not fit the language. None: digits, signs or no text."


def _mismatch_table(mismatches: Sequence[Mismatch]) -> str:
    if not mismatches:
        return ""
    rows = [
        f'<tr><td class="wraps"><code>{text_of(each.segment_id)}</code></td>'
        f'<td class="n">{duration(each.start_s)}</td><td>{text_of(each.language)}</td>'
        f'<td class="odd"><span>{text_of(each.script)}</span></td>'
        f'<td class="wraps">{text_of(each.text)}</td></tr>'
        for each in mismatches
    ]
    names = ("segment", "at", "language", "script", "text")
    examples = card("Script and language disagree", table(names, rows, numbers=("at",)))
    return f'<div class="below">{examples}</div>'


def errors(figures: Figures) -> str:
    if not figures.errors:
        silent = f"{figures.n_silent:,} are silent: no segment in them."
        return section("Errors", card("No recording failed", nothing(silent)))
    plot = bars(
        "Errors by type",
        [(each.type, each.n, f"{each.n:,}") for each in figures.errors],
        "bad",
    )
    note = (
        f"{figures.n_errors:,} of {figures.n_recordings:,} recordings failed; "
        f"{figures.n_silent:,} more are silent (no segment), {figures.n_warnings:,} have a warning."
    )
    rows = [row for group in figures.errors for row in _error_rows(group)]
    examples = table(("type", "stage", "recording", "message"), rows)
    cards = card("By type", plot, note) + card("Examples", examples)
    return section("Errors", f'<div class="narrow-wide">{cards}</div>')


def _error_rows(group: ErrorGroup) -> Iterable[str]:
    for uri, message in group.examples:
        yield (
            f'<tr><th scope="row">{text_of(group.type)}</th><td>{text_of(group.stage)}</td>'
            f'<td class="wraps"><code>{text_of(uri)}</code></td>'
            f'<td class="wraps">{text_of(message, 300)}</td></tr>'
        )


def provenance(figures: Figures, source: Source) -> str:
    records = {record.run_id: record for record in source.runs}
    rows = []
    for run in figures.runs:
        record = records.get(run.run_id)
        speed = f"{record.rtfx:,.1f}x" if record else "·"
        took = duration(record.wall_s) if record else "·"
        stage = record.bottleneck if record else ""
        rows.append(
            f'<tr><td class="id"><code>{text_of(run.run_id)}</code></td>'
            f"<td>{escape(run.committed_at[:16].replace('T', ' '))}</td>"
            f'<td class="n">{run.n_recordings:,}</td><td class="n">{run.n_errors:,}</td>'
            f'<td class="n">{duration(run.seconds)}</td><td class="n">{took}</td>'
            f'<td class="n">{speed}</td><td>{text_of(stage) or "·"}</td></tr>'
        )
    names = (
        *("run", "committed (UTC)", "recordings", "failed", "audio", "took", "real time"),
        "most time in",
    )
    numbers = ("recordings", "failed", "audio", "took", "real time")
    facts = [(f"model {model}", digest) for model, digest in figures.models]
    facts.append(("fingerprint (model and every setting that changes a label)", source.fingerprint))
    if source.runs:
        facts.append(("VAD", source.runs[0].vad))
    lines = "".join(
        f'<tr><th scope="row">{text_of(name)}</th>'
        f'<td class="wraps"><code>{text_of(value)}</code></td></tr>'
        for name, value in facts
    )
    model = card("Model", table((), [lines]) + _settings(source))
    stages = _stage_card(source)
    columns = "narrow-wide" if stages else "one"
    below = f'<div class="{columns} below">{stages}{model}</div>'
    return section("How it was made", card("Runs", table(names, rows, numbers)) + below)


def _settings(source: Source) -> str:
    if not source.runs:
        return ""
    text = json.dumps(source.runs[0].settings, ensure_ascii=False, indent=2)
    return (
        "<details><summary>Settings of the newest run</summary>"
        f"<pre><code>{escape(text)}</code></pre></details>"
    )


def _stage_card(source: Source) -> str:
    stages = source.runs[0].stage_s if source.runs else {}
    if not stages:
        return ""
    whole = sum(stages.values())
    rows = [
        (name, seconds, f"{duration(seconds)} · {share(seconds, whole)}")
        for name, seconds in stages.items()
    ]
    return card(
        "Time in each stage, newest run",
        bars("Time in each stage", rows),
        "All workers of a stage together, its own code only: the longest needs more of them.",
    )
