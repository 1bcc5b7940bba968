"""Write the dataset card of a snapshot: python -m jobs report ROOT [-o FILE] [--audio-mb N]."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Fingerprint,
    Output,
    Quiet,
    Root,
    Seq,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.report.card import REPORT, make_report
from pipeline.storage.address import is_uri
from pipeline.storage.store import open_store, write_file


def main(
    root: Root,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help=f"a file or an s3:// URI; default: ROOT/{REPORT}"),
    ] = None,
    audio_mb: Annotated[
        float,
        typer.Option(
            "--audio-mb",
            min=0,
            help="size of the clips in the page, in MB: players for the segments that it lists",
        ),
    ] = 0,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="COLUMN|prefix:N",
            help="break down by a manifest column, or by the first N folders of the recordings; "
            "default: the columns with few values (repeatable)",
        ),
    ] = None,
    seq: Seq = None,
    fingerprint: Fingerprint = None,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write an HTML page that describes a snapshot: the dataset card.

    The page is one file without scripts. Every label run writes it, too.
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        page = make_report(
            found.root, found.options, seq, fingerprint, by or None, round(audio_mb * 1_000_000)
        ).encode()
        written = _write(output, page, found)
    if as_json:
        show_json({"report": written})
    elif not quiet:
        results().print(written)


def _write(output: str | None, page: bytes, found: Output) -> str:
    """Write the page beside the tables, or where the user wants it; returns the place."""
    if output and not is_uri(output):
        write_file(Path(output), page)
        return output
    folder, _, name = (output or f"{found.root.rstrip('/')}/{REPORT}").rpartition("/")
    store = open_store(folder, found.options)
    store.put(name, page)
    return store.uri(name)


app = one_command(main)

if __name__ == "__main__":
    app()
