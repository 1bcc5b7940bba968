"""Check a store before the first run: python -m jobs doctor ROOT|CONFIG."""

import sys
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Quiet,
    Root,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.storage.probe import Check, examine
from pipeline.storage.store import Store, open_store

_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def main(
    root: Root,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check that a store can hold tables, and say how to fix it.

    Tests each operation that the commit log needs. With a CONFIG, its keys `output`,
    `storage_options` and `single_writer` are used. Exit codes: 0 the store can be used, 1 it
    cannot, 2 refused.
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        store = open_store(found.root, found.options)
        checks = examine(store)
    is_usable = not any(_stops_a_run(check, single_writer=found.single_writer) for check in checks)
    if as_json:
        facts = [asdict(check) for check in checks]
        show_json({"root": store.root, "ok": is_usable, "checks": facts})
    elif not (is_usable and quiet):
        _show(store, checks)
    sys.exit(0 if is_usable else 1)


def _stops_a_run(check: Check, *, single_writer: bool) -> bool:
    return check.state == "failed" and not (single_writer and check.is_conditional_write)


def _show(store: Store, checks: list[Check]) -> None:
    console = results()
    console.print(store.root)
    table = Table.grid(padding=(0, 2))
    for check in checks:
        advice = f"\n-> {check.advice}" if check.advice else ""
        state = Text(check.state, style=_STYLES[check.state])
        table.add_row(state, check.name, check.text + advice)
    console.print(table, soft_wrap=False)


app = one_command(main)

if __name__ == "__main__":
    app()
