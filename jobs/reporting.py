"""What a person sees of a run: the plan, progress lines, the closing summary. Decides nothing."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.config import RunConfig
from pipeline.metrics import Totals, count_totals
from pipeline.planning import Plan
from pipeline.run import Outcome, Progress
from pipeline.tables import Snapshot

_STAGE_NAMES = {
    "decode_recordings": "decoded",
    "FindSegments": "segmented",
    "LabelSegments": "labelled",
}
_LOG_EVERY_S = 10.0


class ProgressLines:
    """A live table on a terminal; one line every ten seconds in a log file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._started = time.monotonic()
        self._logged = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        if self._console.is_terminal:
            self._live.update(self._table(progress))
        elif time.monotonic() - self._logged > _LOG_EVERY_S:
            self._logged = time.monotonic()
            self._console.print(self._line(progress), soft_wrap=True, highlight=False)

    def _table(self, progress: Progress) -> Table:
        table = Table.grid(padding=(0, 2))
        for stage, name in _STAGE_NAMES.items():
            done = progress.stage_rows.get(stage, 0)
            share = min(1.0, done / max(1, progress.n_planned))
            bar = "━" * round(30 * share) + "╌" * (30 - round(30 * share))
            table.add_row(name, bar, f"{done:,}/{progress.n_planned:,}")
        table.add_row("", self._line(progress))
        return table

    def _line(self, progress: Progress) -> str:
        elapsed_s = max(time.monotonic() - self._started, 1e-9)
        if progress.phase != "labelling":
            return f"{elapsed_s:5.0f} s  {progress.phase}, {progress.n_planned:,} recordings to do"
        stages = ", ".join(
            f"{name} {progress.stage_rows.get(stage, 0):,}" for stage, name in _STAGE_NAMES.items()
        )
        return (
            f"{elapsed_s:5.0f} s  {stages}, written {progress.n_recordings:,} of "
            f"{progress.n_planned:,} recordings ({progress.n_errors:,} failed), "
            f"{progress.audio_s / 3600:.2f} h, {progress.audio_s / elapsed_s:.1f}x real time"
        )


def show_plan(console: Console, plan: Plan) -> None:
    """What a run would do."""
    console.print(
        f"{plan.n_manifest:,} recordings in the manifest"
        + (f" ({plan.n_duplicates:,} exact duplicates dropped)" if plan.n_duplicates else "")
    )
    console.print(f"{plan.n_done:,} already in the tables, {plan.todo.num_rows:,} to do")
    console.print(f"{plan.bytes / 1e6:,.1f} MB to read, {_hours_known(plan)}")


def _hours_known(plan: Plan) -> str:
    if plan.known_s:
        return f"{plan.known_s / 3600:,.2f} h where the manifest gives a duration"
    return "duration unknown until decoded (the manifest gives none)"


def show_outcome(console: Console, config: RunConfig, outcome: Outcome, snapshot: Snapshot) -> None:
    """The closing summary: this run, then everything the tables hold."""
    progress = outcome.progress
    if outcome.n_adopted:
        console.print(
            f"{outcome.n_adopted:,} recordings of an interrupted run were committed first"
        )
    if not outcome.plan.todo.num_rows:
        console.print("Nothing left to do: every recording of the manifest is in the tables.")
    else:
        rtfx = progress.audio_s / max(outcome.label_wall_s, 1e-9)
        console.print(
            f"Labelled {progress.n_recordings - progress.n_errors:,} recordings "
            f"({progress.n_errors:,} failed), {progress.audio_s / 3600:.3f} h of audio in "
            f"{outcome.label_wall_s:.0f} s: {rtfx:.1f}x real time, start-up included."
        )
    if outcome.n_unfinished:
        console.print(
            f"{outcome.n_unfinished:,} recordings have no row yet (a worker died with them, or "
            "another run has them); run the same command again.",
            style="yellow",
        )
    _show_totals(console, count_totals(snapshot))
    console.print(f"\nTables: {config.output} (commit {snapshot.seq})", soft_wrap=True)
    console.print(
        f"Query:  python -m jobs.query {config.output} "
        '"SELECT language, emotion, text FROM segments LIMIT 20"',
        soft_wrap=True,
        highlight=False,
    )


def _show_totals(console: Console, totals: Totals) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_row("recordings", f"{totals.n_ok:,} ok, {totals.n_errors:,} failed")
    table.add_row("audio", f"{totals.hours:.3f} h, {totals.labelled_hours:.3f} h of it in segments")
    table.add_row("segments", f"{totals.n_segments:,}")
    table.add_row("languages", _counts(totals.languages))
    table.add_row("emotions", _counts(totals.emotions))
    table.add_row("events", _counts(totals.events))
    if totals.errors:
        table.add_row("errors", _counts(totals.errors))
    console.print()
    console.print(table)


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in values.items()) or "none"
