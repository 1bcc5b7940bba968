"""What all commands share: options, output and refusals. Knows no command.

Results go to stdout, messages to stderr. A refusal is one line on stderr and exit code 2.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from pipeline.errors import Refused

_KEY = "override one key of CONFIG, e.g. label.language=yue"
_STORAGE_OPTION = "storage option, e.g. endpoint_url=..."
_REPEATABLE = "(repeatable)"

Root = Annotated[
    str, typer.Argument(metavar="ROOT", help="where the tables are: a path or an s3:// URI")
]
ConfigKeys = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=f"{_KEY} {_REPEATABLE}")
]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help=f"{_STORAGE_OPTION} {_REPEATABLE}"),
]
ConfigKeysOrStorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help=f"{_KEY}; without one: {_STORAGE_OPTION} {_REPEATABLE}"
    ),
]
Seq = Annotated[
    int | None, typer.Option("--seq", help="number of the commit to read; default: the newest")
]
Fingerprint = Annotated[
    str | None,
    typer.Option(
        "--fingerprint",
        help="model and settings to read, by the first letters of their fingerprint; "
        "default: the current ones",
    ),
]
SingleWriter = Annotated[
    bool,
    typer.Option(
        "--single-writer",
        help="commit under a lease, for a store without conditional writes; nothing else may "
        "write at the same time",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="print the result as one JSON object, for scripts")
]


def new_app(cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """A typer application with the settings of this project.

    Help and tracebacks are plain text, so that they look the same on a terminal and in a log.
    """
    return typer.Typer(
        cls=cls, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )


def one_command(main: Callable[..., None], epilog: str | None = None) -> typer.Typer:
    """An application with one command: the options of `main`, and its docstring as --help."""
    app = new_app()
    app.command(epilog=epilog)(main)
    return app


def results() -> Console:
    """The console for results: stdout. Text is printed as it is, and lines are not wrapped."""
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def messages() -> Console:
    """The console for messages: stderr. Text is printed as it is, and lines are not wrapped."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def show_json(facts: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of stdout. Raises ValueError for nan and inf."""
    typer.echo(json.dumps(facts, ensure_ascii=False, allow_nan=False))


def expected_errors() -> tuple[type[Exception], ...]:
    """Exceptions that come from the input or the surroundings of a command, not from a bug."""
    import duckdb  # 0.1 s: only once something has failed, never for a list of commands

    return (Refused, OSError, duckdb.Error)


def show_error(text: str) -> None:
    """Print why a command did not do its work, in red on stderr."""
    messages().print(text, style="red")


@contextmanager
def refusing() -> Iterator[None]:
    """Print `refused: <reason>` and exit with 2 for the errors of `expected_errors`.

    Any other exception is a bug and keeps its traceback.
    """
    try:
        yield
    except expected_errors() as error:
        show_error(f"refused: {error}")
        sys.exit(2)
