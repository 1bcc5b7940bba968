"""Is everything as it was committed? python -m jobs.verify ROOT [--set key=value ...].

Reads the whole output. One line and exit code 0 if all is well; else what is wrong, and 1.
"""

import sys
from typing import Annotated

import typer
from rich.console import Console

from pipeline.config import load_options
from pipeline.errors import ConfigError, StoreError
from pipeline.maintenance.verify import Verdict, verify
from pipeline.tables import open_snapshot

_SHOWN = 100  # problems


def main(
    root: Annotated[str, typer.Argument(help="where the tables are: a path or an s3:// URI")],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, e.g. endpoint_url=..."),
    ] = None,
) -> None:
    """Check the log, every file, every row and every second."""
    console = Console(soft_wrap=True, highlight=False)
    try:
        verdict = verify(open_snapshot(root, load_options(options or [])).store)
    except (ConfigError, StoreError, OSError) as error:
        Console(stderr=True).print(f"refused: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    if not verdict.problems:
        console.print(_line(verdict))
        return
    for problem in verdict.problems[:_SHOWN]:
        console.print(problem, style="red", markup=False)
    hidden = len(verdict.problems) - _SHOWN
    more = f" ({hidden:,} more are not shown)" if hidden > 0 else ""
    console.print(f"{root}: {len(verdict.problems):,} problems{more}", markup=False)
    sys.exit(1)


def _line(verdict: Verdict) -> str:
    waiting = f"; {verdict.n_waiting:,} bundles wait for the next run" if verdict.n_waiting else ""
    return (
        f"verified: {verdict.n_recordings:,} recordings ({verdict.n_errors:,} failed), "
        f"{verdict.n_segments:,} segments, {verdict.audio_s / 3600:,.3f} h, "
        f"{verdict.n_fingerprints} fingerprints, {verdict.n_files:,} files "
        f"({verdict.n_bytes / 1e6:,.1f} MB), {verdict.seq:,} commits{waiting}"
    )


if __name__ == "__main__":
    typer.run(main)
