"""Merge small files: python -m jobs compact ROOT [--good-mb MB]."""

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
from pipeline.console.plain_text import counted
from pipeline.maintenance.compact import GOOD_BYTES, Compacted, compact, preview
from pipeline.storage.probe import writable
from pipeline.tables import open_snapshot


def main(
    root: Root,
    good_mb: Annotated[
        float, typer.Option(help="size of a part on disk, all of its tables together, MB")
    ] = round(GOOD_BYTES / 1e6),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="count what would be merged, and write nothing")
    ] = False,
    single_writer: SingleWriter = False,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Merge small files of the tables into larger ones, and reviews into theirs.

    May run at the same time as label runs and readers. Old snapshots keep their files until
    `vacuum` deletes them.
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        store = open_snapshot(found.root, found.options).store
        good_bytes = int(good_mb * 1e6)
        if dry_run:
            done = preview(store, good_bytes=good_bytes)
        else:
            with writable(store, single_writer=single_writer or found.single_writer) as store:
                done = compact(store, good_bytes=good_bytes)
    if as_json:
        show_json(asdict(done) | {"dry_run": dry_run})
    elif not quiet:
        results().print(_line(done, dry_run=dry_run))


def _line(done: Compacted, *, dry_run: bool) -> str:
    folded = f"{counted(done.n_reviews, 'review')} added to the table; " if done.n_reviews else ""
    if not done.n_commits:
        return f"{folded}nothing to merge; newest commit: {done.seq:,}"
    return (
        f"{folded}"
        f"{done.n_parts_before:,} small parts {'would become' if dry_run else 'became'} "
        f"{done.n_parts_after:,} "
        f"in {counted(done.n_commits, 'commit')}; newest commit: {done.seq:,}"
    )


app = one_command(main)

if __name__ == "__main__":
    app()
