"""Export labelled segments: python -m jobs export ROOT --format FORMAT -o DIR [--where SQL]."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import load_options
from pipeline.console.commands import (
    AsJson,
    Root,
    StorageOptions,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.export.write import Audio, Exported, Format, export


def main(
    root: Root,
    format: Annotated[Format, typer.Option(help="format to write")],
    target: Annotated[Path, typer.Option("--output", "-o", help="local directory, new or empty")],
    where: Annotated[
        str,
        typer.Option(help="SQL condition on the view `segments`; default: export all segments"),
    ] = "",
    audio: Annotated[
        Audio | None,
        typer.Option(
            help="reference: name a stretch of the original recording; clips: write each segment "
            "as a 16 kHz mono wav; default: reference where the format allows it"
        ),
    ] = None,
    options: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Write labelled segments in a format that other tools read.

    Exit codes: 0 done, 2 refused, 3 done, but recordings whose audio cannot be read any more are
    left out (export.json in the directory lists them).
    """
    with refusing():
        done = export(root, target, format, where, audio, load_options(options or []))
    if as_json:
        show_json(asdict(done) | {"output": str(target)})
    else:
        _show(done, target)
    sys.exit(3 if done.skipped else 0)


def _show(done: Exported, target: Path) -> None:
    console = results()
    console.print(
        f"{done.n_segments:,} segments of {done.n_recordings:,} recordings, {done.hours:.3f} h, "
        f"as {done.format} in {target} (commit {done.seq})"
    )
    if done.skipped:
        recording_id, reason = next(iter(done.skipped.items()))
        console.print(
            f"{len(done.skipped):,} recordings left out, listed in {target / 'export.json'}, "
            f"e.g. {recording_id}: {reason}"
        )


app = one_command(main)

if __name__ == "__main__":
    app()
