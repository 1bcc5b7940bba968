"""Write the dataset card of a snapshot: python -m jobs report ROOT [-o FILE]."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import load_options
from pipeline.console.commands import (
    AsJson,
    Fingerprint,
    Root,
    Seq,
    StorageOptions,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.report.card import REPORT, make_report
from pipeline.storage.store import open_store


def main(
    root: Root,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"a local file; default: ROOT/{REPORT}")
    ] = None,
    seq: Seq = None,
    fingerprint: Fingerprint = None,
    options: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Write an HTML page that describes a snapshot: the dataset card.

    The page is one file without scripts. Every label run writes it, too.
    """
    with refusing():
        chosen = load_options(options or [])
        page = make_report(root, chosen, seq, fingerprint).encode()
        if output is None:
            store = open_store(root, chosen)
            store.put(REPORT, page)
        else:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(page)
    written = f"{output or store.uri(REPORT)}"
    if as_json:
        show_json({"report": written})
    else:
        results().print(written)


app = one_command(main)

if __name__ == "__main__":
    app()
