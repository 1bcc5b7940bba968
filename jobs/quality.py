"""Measure what was labelled without it: python -m jobs quality ROOT."""

from dataclasses import asdict

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
from pipeline.maintenance.measure import Added, add_measures
from pipeline.storage.probe import writable
from pipeline.tables import open_snapshot


def main(
    root: Root,
    single_writer: SingleWriter = False,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure the audio of recordings that were labelled without it.

    Adds rows to the tables measures and quality, and labels nothing. Recordings whose audio has
    changed or cannot be read are counted and left out. A second run does nothing.
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        snapshot = open_snapshot(found.root, found.options)
        with writable(snapshot.store, single_writer=single_writer or found.single_writer) as store:
            done = add_measures(store, snapshot.fingerprint, found.options)
    if as_json:
        show_json(asdict(done))
    elif not quiet:
        results().print(_line(done))


def _line(done: Added) -> str:
    return (
        f"{done.n_measured:,} recordings measured, {done.n_there:,} were before; left out: "
        f"{done.n_changed:,} whose audio has changed, {done.n_unreadable:,} that cannot be read; "
        f"newest commit: {done.seq:,}"
    )


app = one_command(main)

if __name__ == "__main__":
    app()
