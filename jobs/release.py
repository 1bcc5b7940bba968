"""A frozen copy for readers with a glob: python -m jobs.release ROOT TARGET.

TARGET must be new or empty; `_SUCCESS` in it is written last.
"""

import sys
from typing import Annotated

import typer
from rich.console import Console

from pipeline.config import load_options
from pipeline.errors import ConfigError, StoreError
from pipeline.maintenance.release import PARTITIONS, release
from pipeline.storage.store import open_store
from pipeline.tables import open_snapshot


def main(
    root: Annotated[str, typer.Argument(help="where the tables are: a path or an s3:// URI")],
    target: Annotated[str, typer.Argument(help="new directory or s3:// prefix of the copy")],
    partition_by: Annotated[
        str, typer.Option(help=f"directories in each table: {', '.join(PARTITIONS)}")
    ] = "none",
    seq: Annotated[int | None, typer.Option(help="commit; default: the newest")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="model, by its first letters; default: the current one")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, e.g. endpoint_url=..."),
    ] = None,
) -> None:
    """Copy one snapshot into plain parquet files that never change."""
    try:
        if partition_by not in PARTITIONS:
            raise ConfigError(f"--partition-by {partition_by}: use one of {', '.join(PARTITIONS)}")
        given = load_options(options or [])
        snapshot = open_snapshot(root, given, seq, fingerprint)
        done = release(snapshot, open_store(target, given), partition_by=partition_by)
    except (ConfigError, StoreError, OSError) as error:
        Console(stderr=True).print(f"refused: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    Console(soft_wrap=True, highlight=False).print(
        f"released commit {done.seq:,} to {target}: {done.n_rows['recordings']:,} recordings, "
        f"{done.n_rows['transcripts']:,} segments, {done.n_files:,} files",
        markup=False,
    )


if __name__ == "__main__":
    typer.run(main)
