"""Fewer, larger files: python -m jobs.compact ROOT [--set key=value ...]. Safe beside a run."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from pipeline.config import load_options
from pipeline.errors import ConfigError, StoreError
from pipeline.maintenance.compact import GOOD_BYTES, compact
from pipeline.storage.probe import writable
from pipeline.tables import open_snapshot


def main(
    root: Annotated[str, typer.Argument(help="where the tables are: a path or an s3:// URI")],
    good_mb: Annotated[
        float, typer.Option(help="size of a part, all its tables together, MB on disk")
    ] = GOOD_BYTES / 1e6,
    single_writer: Annotated[
        bool,
        typer.Option("--single-writer", help="a store without conditional writes: use a lease"),
    ] = False,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, e.g. endpoint_url=..."),
    ] = None,
) -> None:
    """Merge small files. Old snapshots keep theirs until a vacuum."""
    try:
        store = open_snapshot(root, load_options(options or [])).store
        with writable(store, single_writer=single_writer) as store:
            done = compact(store, good_bytes=int(good_mb * 1e6))
    except (ConfigError, StoreError, OSError) as error:
        Console(stderr=True).print(f"refused: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    Console(soft_wrap=True, highlight=False).print(
        f"{done.n_parts_before:,} small parts became {done.n_parts_after:,} "
        f"in {done.n_commits:,} commits; newest commit: {done.seq:,}"
    )


if __name__ == "__main__":
    typer.run(main)
