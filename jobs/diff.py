"""What did the other model change? python -m jobs.diff ROOT FINGERPRINT_A FINGERPRINT_B.

Fingerprints by their first letters: `SELECT DISTINCT fingerprint, model FROM recordings`.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.config import load_options
from pipeline.errors import ConfigError, StoreError
from pipeline.evaluation.compare import Agreement, Comparison, compare
from pipeline.tables import open_snapshot

_SHOWN = 12  # kinds of flips


def main(
    root: Annotated[str, typer.Argument(help="where the tables are: a path or an s3:// URI")],
    a: Annotated[str, typer.Argument(metavar="FINGERPRINT_A", help="the one to compare with")],
    b: Annotated[str, typer.Argument(metavar="FINGERPRINT_B", help="the other one")],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, e.g. endpoint_url=..."),
    ] = None,
) -> None:
    """Languages and emotions flipped, character error rate, errors gained and lost."""
    try:
        given = load_options(options or [])
        snapshot = open_snapshot(root, given, fingerprint=a)
        other = open_snapshot(root, given, seq=snapshot.seq, fingerprint=b)
        result = compare(snapshot, other)
    except (ConfigError, StoreError, OSError) as error:
        Console(stderr=True).print(f"refused: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"A {snapshot.fingerprint}\nB {other.fingerprint}\n")
    _show(console, result)


def _show(console: Console, result: Comparison) -> None:
    console.print(
        f"{result.n_both:,} recordings in both, {result.n_only_a:,} only in A, "
        f"{result.n_only_b:,} only in B; segments that the other side has not: "
        f"{result.n_unmatched_a:,} of A, {result.n_unmatched_b:,} of B\n"
    )
    table = Table("language in A", "stretches", "language flipped", "emotion flipped", "CER of B")
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


if __name__ == "__main__":
    typer.run(main)
