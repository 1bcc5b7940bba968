"""Ask the tables in SQL: python -m jobs.query ROOT "SELECT ..." [--csv].

Views: transcripts, languages, emotions, events, recordings, and segments, the join of them.
"""

import csv
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import duckdb
import typer
from rich.console import Console
from rich.table import Table

from pipeline.config import load_options
from pipeline.errors import ConfigError, StoreError
from pipeline.tables import connect

_SHOWN = 1000  # rows on a terminal; more is for --csv
_FETCH = 10_000  # rows in memory at a time
_COLUMN = 9  # characters that a column needs to be of use


def main(
    root: Annotated[str, typer.Argument(help="where the tables are: a path or an s3:// URI")],
    sql: Annotated[str, typer.Argument(help="one statement")],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, e.g. endpoint_url=..."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV, all of it")] = False,
) -> None:
    """Run one SQL statement on the newest snapshot."""
    try:
        if not sql.strip(" ;\n"):
            raise ConfigError('nothing asked; try "SELECT * FROM segments LIMIT 5"')
        answer = connect(root, load_options(options or [])).execute(sql)
        names = [column[0] for column in answer.description]
        if as_csv:
            writer = csv.writer(sys.stdout)
            writer.writerow(names)
            while rows := answer.fetchmany(_FETCH):
                writer.writerows(rows)
            return
        rows = answer.fetchmany(_SHOWN + 1)
    except (duckdb.Error, StoreError, ConfigError, OSError) as error:
        Console(stderr=True).print(
            f"refused: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(2)
    _show(Console(), names, rows[:_SHOWN])
    if len(rows) > _SHOWN:
        note = f"the first {_SHOWN:,} rows; add a LIMIT, or --csv for all of them"
        Console(stderr=True).print(note, highlight=False)


def _show(console: Console, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table; of rows that are too wide for one, a line per value."""
    if len(names) * _COLUMN <= console.width:
        table = Table(*names)
        for row in rows:
            table.add_row(*map(_text, row))
        console.print(table, markup=False)
        return
    for row in rows:
        block = Table.grid(padding=(0, 2))
        for name, value in zip(names, row, strict=True):
            block.add_row(name, _text(value))
        console.print(block, "", markup=False)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` has read enough: end without a word
    typer.run(main)
