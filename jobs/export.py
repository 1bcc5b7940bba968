"""Export labelled segments: python -m jobs.export ROOT --format FORMAT -o DIR [--where SQL].

Exit codes: 0 done, 2 refused, 3 done without some recordings: their audio is gone (export.json).
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.config import load_options
from pipeline.errors import ConfigError, ExportError, StoreError
from pipeline.export.write import Audio, Format, export


def main(
    root: Annotated[str, typer.Argument(help="where the tables are: a path or an s3:// URI")],
    format: Annotated[Format, typer.Option(help="what to write")],
    target: Annotated[Path, typer.Option("--output", "-o", help="a directory, new or empty")],
    where: Annotated[
        str, typer.Option(help="SQL condition on the view segments; default: all of them")
    ] = "",
    audio: Annotated[
        Audio | None,
        typer.Option(help="refer to stretches of the recordings, or cut clips (16 kHz mono wav)"),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, e.g. endpoint_url=..."),
    ] = None,
) -> None:
    """Write the segments that fit a condition, in a format that other tools read."""
    try:
        done = export(root, target, format, where, audio, load_options(options or []))
    except (ExportError, StoreError, ConfigError, OSError) as error:
        Console(stderr=True).print(f"refused: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    console = Console(markup=False, soft_wrap=True)
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
    sys.exit(3 if done.skipped else 0)


if __name__ == "__main__":
    typer.run(main)
