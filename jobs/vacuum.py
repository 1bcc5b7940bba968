"""Delete what nobody can read any more: python -m jobs.vacuum ROOT [--retain-days 7] [--dry-run].

Safe beside runs and readers. Snapshots older than the retention can no longer be opened by number.
"""

import sys
from typing import Annotated

import typer
from rich.console import Console

from pipeline.config import load_options
from pipeline.errors import ConfigError, StoreError
from pipeline.maintenance.vacuum import RETAIN_S, vacuum
from pipeline.storage.probe import writable
from pipeline.tables import open_snapshot

_DAY_S = 86_400.0


def main(
    root: Annotated[str, typer.Argument(help="where the tables are: a path or an s3:// URI")],
    retain_days: Annotated[
        float, typer.Option(min=0, help="keep every snapshot that was the newest in this time")
    ] = RETAIN_S / _DAY_S,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be deleted, and delete nothing")
    ] = False,
    single_writer: Annotated[
        bool,
        typer.Option("--single-writer", help="a store without conditional writes: use a lease"),
    ] = False,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, e.g. endpoint_url=..."),
    ] = None,
) -> None:
    """Delete superseded and abandoned files, and bundles that were published long ago."""
    try:
        store = open_snapshot(root, load_options(options or [])).store
        with writable(store, single_writer=single_writer) as store:
            done = vacuum(store, retain_s=retain_days * _DAY_S, dry_run=dry_run)
    except (ConfigError, StoreError, OSError) as error:
        Console(stderr=True).print(f"refused: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    console = Console(soft_wrap=True, highlight=False)
    if dry_run:
        for key in (*done.files, *done.bundles, *done.derived):
            console.print(key, markup=False)
    console.print(
        f"{'would delete' if dry_run else 'deleted'} {len(done.files):,} table files, "
        f"{len(done.bundles):,} published bundles, {len(done.derived):,} outdated lists and "
        f"{done.n_temporaries:,} temporaries; commits {done.first_seq:,} to {done.seq:,} "
        f"can be read; the names of {len(done.forgotten):,} bundles deleted before "
        f"{'would be' if dry_run else 'were'} forgotten"
    )


if __name__ == "__main__":
    typer.run(main)
