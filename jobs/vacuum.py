"""Delete files that are not needed any more: python -m jobs vacuum ROOT [--retain-days 7]."""

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Quiet,
    Root,
    SingleWriter,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.maintenance.vacuum import RETAIN_S, Vacuumed, vacuum
from pipeline.storage.probe import writable
from pipeline.tables import open_snapshot

_DAY_S = 86_400.0


def main(
    root: Root,
    retain_days: Annotated[
        float,
        typer.Option(
            min=0, help="number of days; snapshots that were the newest in this time are kept"
        ),
    ] = RETAIN_S / _DAY_S,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list what would be deleted, and delete nothing")
    ] = False,
    single_writer: SingleWriter = False,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Delete files that no recent snapshot needs.

    These are files that later commits replaced, files that interrupted runs left behind, and
    bundles that were published long ago. May run at the same time as label runs and readers.
    Snapshots that are older than --retain-days can no longer be opened.
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        store = open_snapshot(found.root, found.options).store
        with writable(store, single_writer=single_writer or found.single_writer) as store:
            done = vacuum(store, retain_s=retain_days * _DAY_S, dry_run=dry_run)
    if as_json:
        show_json(asdict(done) | {"dry_run": dry_run})
    elif not quiet:
        _show(done, dry_run=dry_run)


def _show(done: Vacuumed, *, dry_run: bool) -> None:
    console = results()
    if dry_run:
        for key in (*done.files, *done.bundles, *done.derived):
            console.print(key)
    console.print(
        f"{'would delete' if dry_run else 'deleted'} {len(done.files):,} table files, "
        f"{len(done.bundles):,} published bundles, {len(done.derived):,} outdated lists and "
        f"{done.n_temporaries:,} temporary files; commits {done.first_seq:,} to {done.seq:,} "
        f"can be read; the log {'would drop' if dry_run else 'dropped'} the names of "
        f"{len(done.forgotten):,} bundles that were deleted earlier"
    )


app = one_command(main)

if __name__ == "__main__":
    app()
