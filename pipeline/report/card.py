"""The dataset card: one self-contained HTML page about a snapshot. Knows figures, asks no model.

No script, no font or image from elsewhere; every text that comes from the corpus is escaped, and a
content security policy forbids what an oversight would let in.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline.report.figures import Figures, measure
from pipeline.report.page import STYLE
from pipeline.report.sections import (
    Source,
    contents,
    errors,
    header,
    ledger,
    provenance,
    quality,
    tiles,
    to_review,
)
from pipeline.storage.store import open_store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.run_records import RunRecord, load_run, save_run

REPORT = "report.html"


def write_report(
    root: str, options: Mapping[str, Any] | None = None, record: RunRecord | None = None
) -> str:
    """Put the report of the newest snapshot beside its tables, and `record` with it; its URI."""
    store = open_store(root, options)
    if record is not None:
        save_run(store, record)
    store.put(REPORT, make_report(root, options).encode())
    return store.uri(REPORT)


def make_report(
    root: str,
    options: Mapping[str, Any] | None = None,
    seq: int | None = None,
    fingerprint: str | None = None,
) -> str:
    """The page about a snapshot (see tables.open_snapshot)."""
    snapshot = open_snapshot(root, options, seq, fingerprint)
    with connect(root, options, snapshot.seq, snapshot.fingerprint) as connection:
        figures = measure(connection)
    store = open_store(root, options)
    records = [load_run(store, run.run_id) for run in figures.runs]
    runs = [record for record in records if record is not None]
    return render(figures, Source(root, snapshot.seq, snapshot.fingerprint, runs))


def render(figures: Figures, source: Source) -> str:
    """The page, from figures alone."""
    name = source.root.rstrip("/").rpartition("/")[2] or source.root
    body = "".join(
        (
            header(figures, source, name),
            tiles(figures),
            ledger(figures),
            contents(figures),
            quality(figures),
            to_review(figures),
            errors(figures),
            provenance(figures, source),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: dataset card</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
