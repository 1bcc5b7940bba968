"""Write the dataset card of a snapshot: python -m jobs.report ROOT [-o FILE].

Without -o it goes to ROOT/report.html, where every run leaves one, too.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.config import load_options
from pipeline.errors import ConfigError, StoreError
from pipeline.report.card import REPORT, make_report
from pipeline.storage.store import open_store


def main(
    root: Annotated[str, typer.Argument(help="where the tables are: a path or an s3:// URI")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="a local file; default: ROOT/report.html")
    ] = None,
    seq: Annotated[int | None, typer.Option(help="as of this commit; default: the newest")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="of this model and configuration; default: the current one")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, e.g. endpoint_url=..."),
    ] = None,
) -> None:
    """One self-contained HTML page about what the tables hold."""
    try:
        chosen = load_options(options or [])
        page = make_report(root, chosen, seq, fingerprint).encode()
        if output is None:
            store = open_store(root, chosen)
            store.put(REPORT, page)
        else:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(page)
    except (StoreError, ConfigError, OSError) as error:
        Console(stderr=True).print(f"refused: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    Console(markup=False, soft_wrap=True).print(f"{output or store.uri(REPORT)}")


if __name__ == "__main__":
    typer.run(main)
