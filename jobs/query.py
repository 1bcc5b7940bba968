"""Query the tables: python -m jobs query ROOT "SELECT ..." [--csv]."""

import csv
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipeline.config import load_options
from pipeline.console.commands import (
    Root,
    StorageOptions,
    messages,
    one_command,
    refusing,
    results,
)
from pipeline.errors import ConfigError
from pipeline.tables import connect

if TYPE_CHECKING:
    import duckdb

_SHOWN = 1000  # rows on a terminal; --csv prints all
_FETCH = 10_000  # rows in memory at a time
_COLUMN = 9  # characters that a column needs to be readable


def main(
    root: Root,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="one statement, in DuckDB's SQL")],
    options: StorageOptions = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="print all rows, as CSV")] = False,
) -> None:
    """Run one SQL statement on the newest snapshot of the tables.

    Views: transcripts, languages, emotions, events, recordings, and segments, which joins them.
    """
    with refusing():
        if not sql.strip(" ;\n"):
            raise ConfigError('no statement given; try "SELECT * FROM segments LIMIT 5"')
        answer = connect(root, load_options(options or [])).execute(sql)
        names = [column[0] for column in answer.description]
        if as_csv:
            _print_csv(answer, names)
            return
        rows = answer.fetchmany(_SHOWN + 1)
    with _quiet_pipe():
        _show(names, rows[:_SHOWN])
    if len(rows) > _SHOWN:
        messages().print(f"the first {_SHOWN:,} rows; add a LIMIT, or --csv for all of them")


def _print_csv(answer: "duckdb.DuckDBPyConnection", names: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout)
    with _quiet_pipe():
        writer.writerow(names)
    while rows := answer.fetchmany(_FETCH):
        with _quiet_pipe():
            writer.writerows(rows)


@contextmanager
def _quiet_pipe() -> Iterator[None]:
    """Print; if the reader of stdout has closed it, as `| head` does, end without a message.

    Only while it prints: at other times the signal may come from a connection to the store, whose
    loss is an error to report.
    """
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        yield
        sys.stdout.flush()
    finally:
        signal.signal(signal.SIGPIPE, before)


def _show(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table; if it has too many columns for the width of the terminal, a line per value."""
    console = results()
    if len(names) * _COLUMN <= console.width:
        table = Table(*names)
        for row in rows:
            table.add_row(*map(_text, row))
        console.print(table, soft_wrap=False)
        return
    for row in rows:
        block = Table.grid(padding=(0, 2))
        for name, value in zip(names, row, strict=True):
            block.add_row(name, _text(value))
        console.print(block, "", soft_wrap=False)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


app = one_command(main)

if __name__ == "__main__":
    app()
