"""Save corrections made elsewhere: python -m jobs reviews import ROOT EXPORT.json."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Quiet,
    Root,
    find_output,
    messages,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.export.label_studio_reviews import Imported, import_reviews

_N_SHOWN = 3  # examples of each reason


def main(
    action: Annotated[Literal["import"], typer.Argument(help="what to do")],
    root: Root,
    file: Annotated[
        Path, typer.Argument(help="JSON export of a Label Studio project (not JSON-MIN)")
    ],
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Save what annotators corrected in Label Studio as reviews.

    The tasks come from `export --format label-studio`. Each annotated segment becomes a review, as
    if it had been saved in the explorer. Importing a file again adds only what is new in it.

    Exit codes: 0 done, 2 refused, 3 done, but some of it did not become a review, and is listed.
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        done = import_reviews(found.root, file, found.options)
    if as_json:
        show_json(asdict(done) | {"counts": done.counts()})
    else:
        _show(done, quiet=quiet)
    sys.exit(3 if done.problems else 0)


def _show(done: Imported, *, quiet: bool) -> None:
    if not quiet:
        results().print(
            f"{done.n_saved:,} reviews saved, {done.n_present:,} were there; {done.n_tasks:,} "
            f"tasks, {done.n_without:,} without an annotation; "
            f"{done.n_cancelled:,} annotations skipped by their author"
        )
    for reason, n in done.counts().items():
        messages().print(f"{reason}: {n:,}, not saved", style="yellow")
        shown = [problem for problem in done.problems if problem.reason == reason][:_N_SHOWN]
        for problem in shown:
            messages().print(f"  task {problem.task} {problem.segment}: {problem.message}")
    if any(n > _N_SHOWN for n in done.counts().values()):
        messages().print("--json lists all of them")


app = one_command(main)

if __name__ == "__main__":
    app()
