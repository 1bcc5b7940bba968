"""Choose the labels that readers get by default: python -m jobs promote ROOT FINGERPRINT."""

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Quiet,
    Root,
    SingleWriter,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.maintenance.promote import Promoted, promote
from pipeline.storage.probe import writable
from pipeline.tables import open_snapshot


def main(
    root: Root,
    fingerprint: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT", help="its first letters are enough; `status` lists them"
        ),
    ],
    single_writer: SingleWriter = False,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make the labels of one fingerprint those that readers get.

    A run does this itself when its labels cover every recording of the present default. This
    command does it in any case. Nothing is deleted: to undo it, promote the former fingerprint.
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        snapshot = open_snapshot(found.root, found.options, fingerprint=fingerprint)
        single_writer = single_writer or found.single_writer
        with writable(snapshot.store, single_writer=single_writer) as store:
            done = promote(store, snapshot.fingerprint)
    if as_json:
        show_json(asdict(done))
    elif not quiet:
        _show(done)


def _show(done: Promoted) -> None:
    console = results()
    if done.before == done.fingerprint:
        console.print(f"{done.fingerprint} is the default already (commit {done.seq})")
        return
    console.print(
        f"readers now get the {done.n_recordings:,} recordings under {done.fingerprint} (commit "
        f"{done.seq}); before, the {done.n_recordings_before:,} under {done.before}"
    )
    if done.n_hidden:
        console.print(
            f"{done.n_hidden:,} recordings are only under {done.before}: readers see them with "
            f"--fingerprint {done.before[:12]}",
            style="yellow",
        )


app = one_command(main)

if __name__ == "__main__":
    app()
