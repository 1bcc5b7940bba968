"""Ask the tables in SQL: python -m jobs.query ROOT "SELECT ..." [--csv].

Views: transcripts, languages, emotions, events, recordings, and segments, the join of them.
"""

import sys
from typing import Annotated

import duckdb
import typer
from rich.console import Console
from rich.table import Table

from pipeline.config import ConfigError, load_options
from pipeline.storage import StoreError
from pipeline.tables import connect


def main(
    root: Annotated[str, typer.Argument(help="where the tables are: a path or an s3:// URI")],
    sql: Annotated[str, typer.Argument(help="one statement")],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, e.g. endpoint_url=..."),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="print CSV, all of it")] = False,
) -> None:
    """Run one SQL statement on the newest snapshot."""
    try:
        answer = connect(root, load_options(options or [])).execute(sql)
        names = [column[0] for column in answer.description]
        rows = answer.fetchall()
    except (duckdb.Error, StoreError, ConfigError, OSError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    if csv:
        import csv as writer

        writer.writer(sys.stdout).writerows([names, *rows])
        return
    table = Table(*names)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
