"""Copy a snapshot for readers that use a glob: python -m jobs release ROOT TARGET."""

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Fingerprint,
    Quiet,
    Root,
    Seq,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.errors import ConfigError
from pipeline.maintenance.release import PARTITIONS, Released, preview, release
from pipeline.storage.store import open_store
from pipeline.tables import open_snapshot


def main(
    root: Root,
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="the same as --output")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="directory or s3:// prefix of the copy, new or empty"),
    ] = None,
    partition_by: Annotated[
        str, typer.Option(help=f"directories in each table: {', '.join(PARTITIONS)}")
    ] = "none",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="count what would be copied, and write nothing")
    ] = False,
    seq: Seq = None,
    fingerprint: Fingerprint = None,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Copy one snapshot into plain parquet files that never change.

    The file `_SUCCESS` in the copy is written last: a copy without it is not complete.
    """
    with refusing(as_json=as_json):
        if partition_by not in PARTITIONS:
            raise ConfigError(f"--partition-by {partition_by}: use one of {', '.join(PARTITIONS)}")
        copy = _only_one(target, output)
        found = find_output(root, options)
        snapshot = open_snapshot(found.root, found.options, seq, fingerprint)
        to = open_store(copy, found.options)
        if dry_run:
            done = preview(snapshot, to, partition_by=partition_by)
        else:
            done = release(snapshot, to, partition_by=partition_by)
    if as_json:
        show_json(asdict(done) | {"output": copy, "dry_run": dry_run})
    elif not quiet:
        results().print(_line(done, copy, dry_run=dry_run))


def _only_one(target: str | None, output: str | None) -> str:
    named = [place for place in (target, output) if place]
    if len(named) != 1:
        raise ConfigError("name one place for the copy: --output DIR, or TARGET after ROOT")
    return named[0]


def _line(done: Released, copy: str, *, dry_run: bool) -> str:
    return (
        f"{'would release' if dry_run else 'released'} commit {done.seq:,} to {copy}: "
        f"{done.n_rows['recordings']:,} recordings, {done.n_rows['transcripts']:,} segments"
        + ("" if dry_run else f", {done.n_files:,} files")
    )


app = one_command(main)

if __name__ == "__main__":
    app()
