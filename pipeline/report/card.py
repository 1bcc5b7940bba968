"""The dataset card: one self-contained HTML page about a snapshot. Knows figures and no model.

`card.html` is its Jinja2 template, `card.css` its style sheet; both are edited by hand. The page
has no script, font or image from elsewhere. Every value is escaped, and a content security policy
blocks what an unescaped one could load.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.attention import find_problems
from pipeline.report.cross_tables import tabulate_emotions, tabulate_scripts
from pipeline.report.figures import Figures, measure_snapshot
from pipeline.report.page import render_page
from pipeline.report.players import Players, cut_players
from pipeline.report.sections import CardSubject, draw_plots
from pipeline.report.segment_lists import SegmentList, SegmentRow
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
    by: Sequence[str] | None = None,
    max_audio_bytes: int = 0,
) -> str:
    """The page about a snapshot (see tables.open_snapshot).

    `by`: what to break the figures down by (see breakdown.break_down). `max_audio_bytes` of the
    page are clips of the segments that it lists.
    """
    snapshot = open_snapshot(root, options, seq, fingerprint)
    with connect(root, options, snapshot.seq, snapshot.fingerprint) as connection:
        figures = measure_snapshot(connection, by)
    store = open_store(root, options)
    records = [load_run(store, run.run_id) for run in figures.runs]
    runs = [record for record in records if record is not None]
    rows = [row for each in (figures.sample, *figures.reviews) for row in each.rows]
    players = cut_players(rows, max_audio_bytes, options or {}) if max_audio_bytes else Players()
    return render(figures, CardSubject(root, snapshot.seq, snapshot.fingerprint, runs), players)


def render(figures: Figures, subject: CardSubject, players: Players | None = None) -> str:
    """The page, from figures and clips alone."""
    players = players or Players()
    (_, sample), *reviews = _with_clips([figures.sample, *figures.reviews], players)
    return render_page(
        "card.html",
        figures=figures,
        totals=figures.totals,
        subject=subject,
        plots=draw_plots(figures, subject),
        problems=find_problems(figures),
        sample=sample,
        reviews=reviews,
        players=players,
        script_table=tabulate_scripts(figures),
        emotion_table=tabulate_emotions(figures),
        records={record.run_id: record for record in subject.runs},
    )


def _with_clips(
    lists: Sequence[SegmentList], players: Players
) -> list[tuple[SegmentList, list[tuple[SegmentRow, str]]]]:
    """Each list with (row, clip); a clip stands only where its segment is listed first."""
    left = dict(players.clips)
    return [(each, [(row, left.pop(row.segment_id, "")) for row in each.rows]) for each in lists]
