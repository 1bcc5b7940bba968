"""Can tables be kept there? python -m jobs.doctor ROOT|CONFIG [--set key=value ...].

Asks the store for every promise that the commit log needs, and says what to do about a broken one.
Exit codes: 0 all kept, 1 not, 2 refused. With a CONFIG, its output and storage options are used.
"""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.config import load_config, load_options
from pipeline.errors import ConfigError, StoreError
from pipeline.storage.probe import Check, examine
from pipeline.storage.store import Store, open_store

_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def main(
    place: Annotated[
        str, typer.Argument(metavar="ROOT|CONFIG", help="path, s3:// URI or YAML file of a run")
    ],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="storage option, or a key of CONFIG"),
    ] = None,
) -> None:
    """Probe a store: each promise with what was seen and what to do."""
    try:
        store, single_writer = _open(place, options or [])
    except (ConfigError, StoreError) as error:
        Console(stderr=True).print(f"refused: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(2)
    checks = examine(store)
    _show(Console(), store, checks)
    failed = [check for check in checks if check.state == "failed"]
    if single_writer:
        failed = [check for check in failed if not check.is_conditional_write]
    sys.exit(1 if failed else 0)


def _open(place: str, overrides: list[str]) -> tuple[Store, bool]:
    if place.endswith((".yaml", ".yml")):
        config = load_config(place, overrides)
        return open_store(config.output, config.storage_options), config.single_writer
    return open_store(place, load_options(overrides)), False


def _show(console: Console, store: Store, checks: list[Check]) -> None:
    console.print(store.root, soft_wrap=True, highlight=False, markup=False)
    table = Table.grid(padding=(0, 2))
    for check in checks:
        advice = f"\n-> {check.advice}" if check.advice else ""
        state = f"[{_STYLES[check.state]}]{check.state}[/]"
        table.add_row(state, check.name, check.text.replace("[", r"\[") + advice)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
