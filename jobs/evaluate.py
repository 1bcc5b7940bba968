"""Score the labels: python -m jobs evaluate ROOT [--references FILE] [--max cer=0.05] [-o DIR]."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Fingerprint,
    Quiet,
    Root,
    Seq,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.errors import ConfigError
from pipeline.evaluation.as_json import to_json
from pipeline.evaluation.corpora import from_extra, read_references
from pipeline.evaluation.evaluate import Evaluation, evaluate
from pipeline.evaluation.gates import (
    METRICS,
    Verdict,
    check,
    differences_from,
    metrics_of,
    parse_limits,
)
from pipeline.evaluation.hypotheses import Hypothesis, read_channels, read_hypotheses
from pipeline.evaluation.intervals import Difference
from pipeline.evaluation.page import (
    between,
    difference_row,
    event_rows,
    gate_row,
    label_rows,
    make_page,
    percent,
    problems,
    text_rows,
    time_rows,
)
from pipeline.evaluation.published import PUBLISHED, Published, published
from pipeline.evaluation.references import Reference, ReferenceSet, join
from pipeline.evaluation.reviewed import SOURCE, read_reviewed
from pipeline.evaluation.text_norm import DESCRIPTIONS, Normalizer
from pipeline.storage.store import write_file
from pipeline.tables import Snapshot, open_snapshot


def main(
    root: Root,
    references: Annotated[
        str,
        typer.Option(
            help="what is right: jsonl, csv, tsv or parquet, a Kaldi `text`, the directory of a "
            "known corpus, or `reviews`, those of segments drawn by chance in `explore`; default: "
            "the manifest's columns ref_text, ref_language, ..."
        ),
    ] = "",
    by: Annotated[
        str, typer.Option(help="also score by language, speaker or a manifest column: a,b")
    ] = "",
    ignore_missing: Annotated[
        bool,
        typer.Option(
            "--ignore-missing",
            help="do not count references without a recording as deleted words: for references of "
            "more than was labelled, such as AISHELL-1's transcript of all its parts",
        ),
    ] = False,
    baseline: Annotated[
        str, typer.Option(metavar="FINGERPRINT", help="other labels to compare with, pair by pair")
    ] = "",
    normalizer: Annotated[
        Normalizer, typer.Option(help="what is done to both texts before they are compared")
    ] = "plain",
    simplified: Annotated[
        bool, typer.Option("--simplified", help="compare Chinese in simplified characters")
    ] = False,
    maximum: Annotated[
        list[str] | None,
        typer.Option(
            "--max", metavar="METRIC=LIMIT", help=f"exit code 3 above it: {', '.join(METRICS)}"
        ),
    ] = None,
    max_regression: Annotated[
        float | None,
        typer.Option(help="exit code 3 if a metric is more than this above the baseline's"),
    ] = None,
    published_set: Annotated[
        str,
        typer.Option(
            "--published", metavar="SET", help=f"show published figures: {', '.join(PUBLISHED)}"
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="directory for evaluation.json and evaluation.html"),
    ] = None,
    seq: Seq = None,
    fingerprint: Fingerprint = None,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score the labels of a snapshot against references. Labels nothing.

    Words (WER), characters (CER) or both, language, emotion as told and forced, events, times, and
    whether probabilities mean what they say, with 95 % intervals. Exit codes: 0 done, 2 refused,
    3 a gate (--max, --max-regression) is not met.
    """
    with refusing(as_json=as_json):
        limits = parse_limits(maximum or ())
        shown = published(published_set) if published_set else None
        if max_regression is not None and not baseline:
            raise ConfigError("--max-regression needs a --baseline to compare with")
        found = find_output(root, options)
        snapshot = open_snapshot(found.root, found.options, seq, fingerprint)
        columns = [name for name in by.split(",") if name]

        def run(one: Snapshot) -> Evaluation:
            if references == SOURCE:
                joined, hypotheses, right = read_reviewed(one, found.options)
            else:
                hypotheses = read_hypotheses(one, found.options)
                right = (
                    read_references(references, found.options)
                    if references
                    else _own(hypotheses, found.root)
                )
                uris = {name: row.uri for name, row in hypotheses.items()}
                channels = read_channels(one, found.options)
                joined = join(right, uris, channels)
                hypotheses |= channels
            if ignore_missing:
                joined = replace(joined, missing=())
            return evaluate(
                joined,
                hypotheses,
                right,
                (one.fingerprint, one.seq),
                normalizer=normalizer,
                simplified=simplified,
                by=columns,
            )

        evaluation = run(snapshot)
        differences: Mapping[str, Difference] = {}
        base = ""
        if baseline:
            other = open_snapshot(found.root, found.options, snapshot.seq, baseline)
            base = other.fingerprint
            differences = differences_from(evaluation, run(other))
        verdicts = check(evaluation, limits, max_regression, differences)
        told = to_json(evaluation, verdicts, base, differences)
        if output:
            page = make_page(evaluation, verdicts, base, differences, shown)
            write_file(output / "evaluation.html", page.encode())
            data = json.dumps(told, ensure_ascii=False, indent=1)
            write_file(output / "evaluation.json", (data + "\n").encode())
    if as_json:
        show_json(told)
    elif not quiet:
        _show(results(), evaluation, verdicts, differences, shown)
        if output:
            results().print(f"{output / 'evaluation.html'}")
    sys.exit(0 if all(one.is_met for one in verdicts) else 3)


def _own(hypotheses: Mapping[str, Hypothesis], root: str) -> ReferenceSet:
    """The references that the manifest carried along."""
    own = ReferenceSet("the manifest's own columns")
    found: list[Reference | None] = [
        from_extra(name, one.extra, own) for name, one in hypotheses.items()
    ]
    own.references.extend(one for one in found if one is not None)
    if not own.references:
        raise ConfigError(
            f"{root}: the manifest had no columns ref_text, ref_language, ref_emotion, ref_event; "
            "name a file with --references"
        )
    return own


def _show(
    console: Console,
    evaluation: Evaluation,
    verdicts: Sequence[Verdict],
    differences: Mapping[str, Difference],
    shown: Published | None,
) -> None:
    scores = evaluation.scores
    console.print(
        f"{scores.n_recordings:,} references from {evaluation.source}; texts: "
        f"{DESCRIPTIONS[evaluation.normalizer]}"
        + ("" if evaluation.text_form == "only" else f"; {evaluation.text_form} form")
    )
    for line in problems(evaluation):
        console.print(f"! {line}")
    _table(
        console,
        ("text", "rate", "95 % interval", "sub", "del", "ins", "of", "n"),
        list(text_rows(scores)),
    )
    _table(
        console,
        ("label", "n", "right", "95 % interval", "UA", "F1", "WF1", "unknown"),
        list(label_rows(scores)),
    )
    _table(console, ("event", "n", "recall", "precision", "F1"), list(event_rows(scores)))
    _table(
        console,
        ("probability of", "n", "ECE", "Brier"),
        [
            (name, f"{one.n:,}", percent(one.ece), f"{one.brier:.3f}")
            for name, one in evaluation.calibration.items()
        ],
    )
    _table(console, ("times", ""), list(time_rows(evaluation)))
    for column, groups in evaluation.groups.items():
        rows = [
            (
                *(name or "(none)", f"{one.n_recordings:,}"),
                percent(metrics_of(one)["mixed_error_rate"]),
                between(one.mixed.interval if one.mixed else None),
            )
            for name, one in groups.items()
        ]
        _table(console, (column, "recordings", "text errors", "95 % interval"), rows)
    _table(
        console,
        ("against the baseline", "difference", "95 % interval", "P(better)"),
        [difference_row(name, one) for name, one in differences.items()],
    )
    if shown is not None:
        figures = [(name, percent(value)) for name, value in shown.figures]
        _table(console, (f"published: SenseVoice-Small, {shown.title}", ""), figures)
    _table(console, ("gate", "value", "limit", ""), [gate_row(one) for one in verdicts])


def _table(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold", width=None)
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


app = one_command(main)

if __name__ == "__main__":
    app()
