"""Compare two models: python -m jobs diff ROOT FINGERPRINT_A FINGERPRINT_B."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Root,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.evaluation.compare import Agreement, Comparison, compare
from pipeline.tables import open_snapshot

_SHOWN = 12  # kinds of changes


def main(
    root: Root,
    a: Annotated[
        str, typer.Argument(metavar="FINGERPRINT_A", help="fingerprint to compare with: side A")
    ],
    b: Annotated[
        str, typer.Argument(metavar="FINGERPRINT_B", help="fingerprint that is compared: side B")
    ],
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Compare the labels of two models for the same recordings.

    Shows changed languages and emotions, the character error rate of B with A as the reference,
    and errors that only one of them has. The first letters of a fingerprint are enough; this lists
    them: python -m jobs status ROOT
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        snapshot = open_snapshot(found.root, found.options, fingerprint=a)
        other = open_snapshot(found.root, found.options, seq=snapshot.seq, fingerprint=b)
        result = compare(snapshot, other)
    if as_json:
        sides = {"seq": snapshot.seq, "a": snapshot.fingerprint, "b": other.fingerprint}
        show_json(sides | _facts(result))
        return
    console = results()
    console.print(f"A {snapshot.fingerprint}\nB {other.fingerprint}\n")
    _show(console, result)


def _show(console: Console, result: Comparison) -> None:
    console.print(
        f"{result.n_both:,} recordings in both, {result.n_only_a:,} only in A, "
        f"{result.n_only_b:,} only in B; segments without a match on the other side: "
        f"{result.n_unmatched_a:,} of A, {result.n_unmatched_b:,} of B\n"
    )
    table = Table("language in A", "stretches", "language changed", "emotion changed", "CER of B")
    for language, agreement in sorted(result.by_language.items()):
        table.add_row(language, *_cells(agreement))
    table.add_row("all", *_cells(result.total))
    console.print(table)
    for title, counts in (
        ("languages", _arrows(result.language_flips)),
        ("emotions", _arrows(result.emotion_flips)),
        ("errors gained", dict(result.errors_gained.most_common(_SHOWN))),
        ("errors lost", dict(result.errors_lost.most_common(_SHOWN))),
    ):
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        console.print(f"{title}: {listed or 'none'}")


def _cells(agreement: Agreement) -> tuple[str, str, str, str]:
    n = max(1, agreement.n_stretches)
    languages, emotions = agreement.n_language_flips, agreement.n_emotion_flips
    return (
        f"{agreement.n_stretches:,}",
        f"{languages:,} ({languages / n:.1%})",
        f"{emotions:,} ({emotions / n:.1%})",
        f"{agreement.cer:.2%}" if agreement.n_characters else "-",
    )


def _arrows(flips: Counter[tuple[str, str]]) -> Mapping[str, int]:
    return {f"{old} -> {new}": count for (old, new), count in flips.most_common(_SHOWN)}


def _facts(result: Comparison) -> dict[str, Any]:
    """The comparison for --json. A change is {"a": old, "b": new, "n": how often}."""
    languages = sorted(result.by_language.items())
    return {
        "n_both": result.n_both,
        "n_only_a": result.n_only_a,
        "n_only_b": result.n_only_b,
        "n_unmatched_a": result.n_unmatched_a,
        "n_unmatched_b": result.n_unmatched_b,
        "total": _with_cer(result.total),
        "by_language": {language: _with_cer(agreement) for language, agreement in languages},
        "language_flips": _changes(result.language_flips),
        "emotion_flips": _changes(result.emotion_flips),
        "errors_gained": dict(result.errors_gained.most_common()),
        "errors_lost": dict(result.errors_lost.most_common()),
    }


def _with_cer(agreement: Agreement) -> dict[str, Any]:
    cer = None if math.isnan(agreement.cer) else agreement.cer
    return asdict(agreement) | {"cer": cer}


def _changes(flips: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"a": old, "b": new, "n": count} for (old, new), count in flips.most_common()]


app = one_command(main)

if __name__ == "__main__":
    app()
