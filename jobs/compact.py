"""Merge small files: python -m jobs compact ROOT [--good-mb MB]."""

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.config import load_options
from pipeline.console.commands import (
    AsJson,
    Root,
    SingleWriter,
    StorageOptions,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.maintenance.compact import GOOD_BYTES, Compacted, compact
from pipeline.storage.probe import writable
from pipeline.tables import open_snapshot


def main(
    root: Root,
    good_mb: Annotated[
        float, typer.Option(help="size of a part on disk, all of its tables together, MB")
    ] = GOOD_BYTES / 1e6,
    single_writer: SingleWriter = False,
    options: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Merge small files of the tables into larger ones.

    May run at the same time as label runs and readers. Old snapshots keep their files until
    `vacuum` deletes them.
    """
    with refusing():
        store = open_snapshot(root, load_options(options or [])).store
        with writable(store, single_writer=single_writer) as store:
            done = compact(store, good_bytes=int(good_mb * 1e6))
    if as_json:
        show_json(asdict(done))
    else:
        results().print(_line(done))


def _line(done: Compacted) -> str:
    return (
        f"{done.n_parts_before:,} small parts became {done.n_parts_after:,} "
        f"in {done.n_commits:,} commits; newest commit: {done.seq:,}"
    )


app = one_command(main)

if __name__ == "__main__":
    app()
