"""What all commands share: options, output and refusals. Knows no command.

Results go to stdout, messages to stderr. A refusal is one line on stderr and exit code 2.
"""

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from pipeline.console.interrupts import EXIT_CODE, STOPPED, raise_interrupts
from pipeline.console.plain_text import visible, visible_json
from pipeline.errors import Refused
from pipeline.storage.redaction import redact

_KEY = "override one key of CONFIG, e.g. label.language=yue"
_STORAGE_OPTION = "storage option, e.g. endpoint_url=..."
_REPEATABLE = "(repeatable)"
_RAISING = ("strict", "surrogateescape")  # the second is Python's choice for LC_ALL=C
_CONFIG_SUFFIXES = (".yaml", ".yml")

Root = Annotated[
    str,
    typer.Argument(
        metavar="ROOT|CONFIG",
        help="where the tables are: a path or an s3:// URI, or the YAML file of a run, whose "
        "output and storage_options are used",
    ),
]
ConfigKeys = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=f"{_KEY} {_REPEATABLE}")
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
Unsafe = Annotated[
    bool,
    typer.Option(
        "--unsafe",
        help="run any SQL with the rights of your account: it may read and write files; "
        "default: SQL can only read the tables",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="print the result, or why it was refused, as one JSON object, for scripts"
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="print only warnings and errors; see the exit code")
]
Price = Annotated[
    float | None, typer.Option("--price", min=0, help="price of a core-hour, in any currency")
]
GpuPrice = Annotated[
    float | None, typer.Option("--gpu-price", min=0, help="price of a GPU-hour, in any currency")
]
Sample = Annotated[int, typer.Option("--sample", min=1, help="number of recordings to examine")]


class Command(TyperCommand):
    """A command that ends with one line and exit code 130 on Ctrl-C; typer's own has code 1."""

    def invoke(self, ctx: Any) -> Any:
        raise_interrupts()
        with _ending_on_interrupt():
            return super().invoke(ctx)


class Group(TyperGroup):
    """A list of commands that ends in the same way on Ctrl-C, also while it imports a command."""

    def invoke(self, ctx: Any) -> Any:
        with _ending_on_interrupt():
            return super().invoke(ctx)


@contextmanager
def _ending_on_interrupt() -> Iterator[None]:
    make_printable(sys.stdout, sys.stderr)
    try:
        yield
    except KeyboardInterrupt:
        messages().print(STOPPED)
        sys.exit(EXIT_CODE)


def make_printable(*streams: Any) -> None:
    """Print characters that a terminal or a file cannot encode as escapes, not as an exception."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors in _RAISING:
            stream.reconfigure(errors="backslashreplace")


def new_app(cls: type[TyperGroup] = Group, *, add_completion: bool = False) -> typer.Typer:
    """A typer application with the settings of this project.

    Help and tracebacks are plain text, so that they look the same on a terminal and in a log.
    `add_completion` adds --install-completion, for the shell.
    """
    return typer.Typer(
        cls=cls,
        add_completion=add_completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


@dataclass(frozen=True, slots=True)
class Output:
    """The tables that a command is to read, and how to open their store."""

    root: str
    options: Mapping[str, Any]
    single_writer: bool = False


def is_config(place: str) -> bool:
    """Whether an argument names the YAML file of a run."""
    return place.endswith(_CONFIG_SUFFIXES)


def find_output(place: str, overrides: list[str] | None) -> Output:
    """What ROOT|CONFIG and `--set` stand for. Raises ConfigError."""
    from pipeline.config import load_config, load_options  # pydantic: not for a list of commands
    from pipeline.storage.address import is_uri

    if is_config(place):
        config = load_config(place, overrides or [])
        return Output(config.output, config.storage_options, config.single_writer)
    options = load_options(overrides or [])
    if options and not is_uri(place):
        names = ", ".join(sorted(options))
        messages().print(f"warning: {place} is a local path; {names} is not used", style="yellow")
    return Output(place, options)


def one_command(main: Callable[..., None], epilog: str | None = None) -> typer.Typer:
    """An application with one command: the options of `main`, and its docstring as --help."""
    app = new_app()
    app.command(cls=Command, epilog=epilog)(main)
    return app


class _PlainConsole(Console):
    r"""A console that prints control characters of the text as escapes, e.g. \x1b."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


def results() -> Console:
    """The console for results: stdout. Text has no markup, and lines are not wrapped."""
    return _PlainConsole(soft_wrap=True, highlight=False, markup=False, emoji=False)


def messages() -> Console:
    """The console for messages: stderr. Text has no markup, and lines are not wrapped."""
    return _PlainConsole(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def show_json(facts: Mapping[str, Any]) -> None:
    """Print one JSON object on one line of stdout. Raises ValueError for nan and inf."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(facts, ensure_ascii=not is_unicode, allow_nan=False)
    typer.echo(visible_json(text))


def expected_errors() -> tuple[type[Exception], ...]:
    """Exceptions that come from the input or the surroundings of a command, not from a bug."""
    import duckdb  # 0.1 s: only once something has failed, never for a list of commands

    return (Refused, OSError, duckdb.Error)


def show_error(text: str) -> None:
    """Print why a command did not do its work, in red on stderr, without credentials."""
    messages().print(redact(text), style="red")


@contextmanager
def refusing(*, as_json: bool = False) -> Iterator[None]:
    """Print `refused: <reason>` and exit with 2 for the errors of `expected_errors`.

    With `as_json`, stdout gets the reason, too. Any other exception is a bug and keeps its
    traceback.
    """
    try:
        yield
    except expected_errors() as error:
        show_error(f"refused: {error}")
        if as_json:
            show_json({"outcome": "refused", "error": redact(str(error)), "exit_code": 2})
        sys.exit(2)
