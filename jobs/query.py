"""Query the tables: python -m jobs query ROOT "SELECT ..." [--csv|--json]."""

import csv
import json
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Fingerprint,
    Output,
    Root,
    Seq,
    Unsafe,
    find_output,
    messages,
    one_command,
    refusing,
    results,
)
from pipeline.console.plain_text import visible, visible_json
from pipeline.console.values import to_cell, to_json, to_line
from pipeline.errors import ConfigError
from pipeline.tables import connect, open_snapshot
from pipeline.tables.locked_sql import check_select, connect_locked

if TYPE_CHECKING:
    import duckdb

_SHOWN = 1000  # rows on a terminal; --csv prints all
_FETCH = 10_000  # rows in memory at a time
_COLUMN = 9  # characters that a column needs to be readable
_VIEWS = ("segments", "transcripts", "languages", "emotions", "events", "recordings")
_EXAMPLES = (
    "SELECT recording_id, language, emotion, text FROM segments LIMIT 20",
    "SELECT language, count(*), sum(end_s - start_s) / 3600 AS hours FROM segments GROUP BY 1",
    "SELECT recording_id, error_type, error_message FROM recordings WHERE status = 'error'",
    "SELECT segment_id, confidence, text FROM segments WHERE text <> '' ORDER BY 2 LIMIT 9",
)


def main(
    root: Root,
    sql: Annotated[
        str | None,
        typer.Argument(metavar="[SQL]", help="one statement, in DuckDB's SQL; -: read it on stdin"),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="read the statement from this file")
    ] = None,
    seq: Seq = None,
    fingerprint: Fingerprint = None,
    options: ConfigKeysOrStorageOptions = None,
    unsafe: Unsafe = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print all rows, as CSV")] = False,
    as_json: AsJson = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="print all rows, each as one JSON object")
    ] = False,
) -> None:
    """Run one SQL statement on a snapshot of the tables.

    Views: transcripts, languages, emotions, events, recordings, and segments, which joins them.
    Without SQL, their columns and some examples are printed. A terminal gets a table of at most
    1,000 rows; a pipe gets all rows with whole values between tabs. The statement can read the
    views and nothing else, unless --unsafe is given. Control characters in values are printed as
    escapes; --csv prints them as they are, but not on a terminal.
    """
    with refusing(as_json=as_json):
        if as_csv + as_json + as_jsonl > 1:
            raise ConfigError("choose one of --csv, --json and --jsonl")
        statement = _statement(sql, file)
        found = find_output(root, options)
        with _connected(found, seq, fingerprint, unsafe) as connection:
            if statement is None:
                _show_help(connection, root)
                return
            answer = _answer(connection, statement, unsafe)
            names = [column[0] for column in answer.description]
            if as_csv:
                _print_csv(answer, names)
            elif as_json:
                _print_json(answer, names)
            elif as_jsonl:
                _print_lines(_objects(answer, names))
            elif is_terminal():
                _show(names, answer.fetchmany(_SHOWN + 1))
            else:
                _print_lines(map(to_line, chain([names], _rows(answer))))


def is_terminal() -> bool:
    """Whether the result is read by a person, not by a program."""
    return sys.stdout.isatty()


def _statement(sql: str | None, file: Path | None) -> str | None:
    """The statement of the command line, of a file or of stdin; None if there is none."""
    if sql is not None and file is not None:
        raise ConfigError("give the statement as SQL or with --file, not both")
    if file is not None:
        sql = file.read_text(encoding="utf-8")
    elif sql == "-":
        sql = sys.stdin.read()
    if sql is not None and not sql.strip(" ;\n"):
        raise ConfigError('no statement given; try "SELECT * FROM segments LIMIT 5"')
    # The command line of a terminal without UTF-8: the bytes that Python could not decode.
    return sql and sql.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _answer(
    connection: "duckdb.DuckDBPyConnection", sql: str, unsafe: bool
) -> "duckdb.DuckDBPyConnection":
    """Run the statement. Raises ConfigError with DuckDB's own message."""
    import duckdb

    try:
        if not unsafe:
            check_select(connection, sql)
        return connection.execute(sql)
    except (duckdb.IOException, duckdb.HTTPException):  # of the store, not of the statement
        raise
    except duckdb.Error as error:
        raise ConfigError(f"the SQL cannot be run: {error}") from error


@contextmanager
def _connected(
    found: Output, seq: int | None, fingerprint: str | None, unsafe: bool
) -> "Iterator[duckdb.DuckDBPyConnection]":
    if unsafe:
        with connect(found.root, found.options, seq, fingerprint) as connection:
            yield connection
    else:
        snapshot = open_snapshot(found.root, found.options, seq, fingerprint)
        with connect_locked(snapshot) as connection:
            yield connection


def _show_help(connection: "duckdb.DuckDBPyConnection", root: str) -> None:
    """The views with their columns, and examples."""
    console = results()
    for view in _VIEWS:
        columns = connection.execute(f"DESCRIBE {view}").fetchall()
        console.print(f"{view}: {', '.join(column[0] for column in columns)}")
    console.print("\nDESCRIBE VIEW shows the types. Examples:")
    for example in _EXAMPLES:
        console.print(f'  python -m jobs query {shlex.quote(root)} "{example}"')


def _rows(answer: "duckdb.DuckDBPyConnection") -> Iterator[Sequence[Any]]:
    while rows := answer.fetchmany(_FETCH):
        yield from rows


def _objects(answer: "duckdb.DuckDBPyConnection", names: Sequence[str]) -> Iterator[str]:
    """Each row as the text of a JSON object."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    for row in _rows(answer):
        facts = dict(zip(names, map(to_json, row), strict=True))
        yield visible_json(json.dumps(facts, ensure_ascii=not is_unicode))


def _print_json(answer: "duckdb.DuckDBPyConnection", names: Sequence[str]) -> None:
    """One JSON object with `columns` and `rows`, without holding all rows."""
    begin = f'{{"columns": {visible_json(json.dumps(names))}, "rows": ['
    rows = (f", {text}" if index else text for index, text in enumerate(_objects(answer, names)))
    _print(chain([begin], rows, ["]}\n"]))


def _print_lines(lines: Iterable[str]) -> None:
    _print(f"{line}\n" for line in lines)


def _print(texts: Iterable[str]) -> None:
    """Print texts, some thousands at a time: the rows between them are read from the store."""
    rest = iter(texts)
    while some := "".join(islice(rest, _FETCH)):
        with _quiet_pipe():
            sys.stdout.write(some)


def _print_csv(answer: "duckdb.DuckDBPyConnection", names: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout)
    shown = visible if sys.stdout.isatty() else str
    with _quiet_pipe():
        writer.writerow([shown(name) for name in names])
    while rows := answer.fetchmany(_FETCH):
        with _quiet_pipe():
            writer.writerows([shown(to_cell(value)) for value in row] for row in rows)


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


def _show(names: Sequence[str], found: Sequence[Sequence[Any]]) -> None:
    """A table; if it has too many columns for the width of the terminal, a line per value."""
    console, rows = results(), found[:_SHOWN]
    with _quiet_pipe():
        if len(names) * _COLUMN <= console.width:
            table = Table(*names)
            for row in rows:
                table.add_row(*map(to_cell, row))
            console.print(table, soft_wrap=False)
        else:
            _show_blocks(console, names, rows)
    if len(found) > _SHOWN:
        messages().print(f"the first {_SHOWN:,} rows; add a LIMIT, or --csv for all of them")


def _show_blocks(console: Console, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    for row in rows:
        block = Table.grid(padding=(0, 2))
        for name, value in zip(names, row, strict=True):
            block.add_row(name, to_cell(value))
        console.print(block, "", soft_wrap=False)


app = one_command(main)

if __name__ == "__main__":
    app()
