"""The texts before and after a run: plan, closing summary. Decides nothing.

The console is that of commands.results: it prints text as it is, and does not wrap lines.
"""

import shlex

from rich.console import Console

from pipeline.config import RunConfig
from pipeline.console.plain_text import amount, counts_text
from pipeline.planning.plan import Plan
from pipeline.report.figures import Counts, count_labels
from pipeline.runs.bottleneck import find_bottleneck
from pipeline.runs.progress import Outcome, explain_default, speed
from pipeline.tables import Snapshot


def show_plan(console: Console, plan: Plan) -> None:
    """Print what a run would do."""
    console.print(
        f"{plan.n_manifest:,} recordings in the manifest"
        + (f" ({plan.n_duplicates:,} exact duplicates ignored)" if plan.n_duplicates else "")
    )
    kept = f" ({plan.n_errors_kept:,} failed and are not retried)" if plan.n_errors_kept else ""
    why = [
        f"{count:,} {name}"
        for name, count in (("changed", plan.n_changed), ("retried", plan.n_retried))
        if count
    ]
    again = f" ({', '.join(why)})" if why else ""
    done = f"{plan.n_done:,} already in the tables{kept}, {plan.n_todo:,} to do{again}"
    console.print(done)
    console.print(f"{plan.bytes / 1e6:,.1f} MB to read, {_hours_known(plan)}")
    for note in plan.notes:
        console.print(f"warning: {note}", style="yellow")


def _hours_known(plan: Plan) -> str:
    if plan.known_s:
        return f"{amount(plan.known_s)} where the manifest gives a duration"
    return "duration unknown (the manifest gives none)"


def show_outcome(console: Console, config: RunConfig, outcome: Outcome, snapshot: Snapshot) -> None:
    """Print the closing summary: this run, then all that the tables hold."""
    progress = outcome.progress
    if outcome.n_adopted:
        console.print(
            f"Committed {outcome.n_adopted:,} recordings that an interrupted run had finished.",
        )
    if not outcome.plan.n_todo:
        console.print("Nothing left to do: every recording of the manifest is in the tables.")
    else:
        console.print(
            f"Labelled {progress.n_recordings - progress.n_errors:,} recordings "
            f"({progress.n_errors:,} failed), {progress.audio_s / 3600:.3f} h of audio in "
            f"{outcome.label_wall_s:.0f} s: {speed(outcome):.1f}x real time after a start-up of "
            f"{outcome.start_up_s:.0f} s.",
        )
        since_first_s = outcome.label_wall_s - outcome.first_label_s
        if bottleneck := find_bottleneck(progress.busy_s, since_first_s, config):
            console.print(bottleneck)
    if outcome.n_unfinished:
        console.print(
            f"{outcome.n_unfinished:,} recordings have no row yet (their worker crashed, or "
            "another run is labelling them). Run the same command again.",
            style="yellow",
        )
    if outcome.default:
        text = explain_default(outcome.default, config.output, outcome.run.fingerprint)
        console.print(text, style="yellow")
    _show_counts(console, count_labels(snapshot))
    console.print(f"\nTables: {config.output} (commit {snapshot.seq})")
    console.print(
        f"Query:  uv run python -m jobs query {shlex.quote(config.output)} "
        '"SELECT language, emotion, text FROM segments LIMIT 20"',
    )


def _show_counts(console: Console, counts: Counts) -> None:
    totals = counts.totals
    n_ok = totals.n_recordings - totals.n_errors
    hours, labelled_hours = totals.audio_s / 3600, totals.labelled_s / 3600
    rows = {
        "recordings": f"{n_ok:,} ok, {totals.n_errors:,} failed",
        "audio": f"{hours:.3f} h, {labelled_hours:.3f} h of it in segments",
        "segments": f"{totals.n_segments:,}",
        "languages": counts_text(counts.languages),
        "emotions": counts_text(counts.emotions),
        "events": counts_text(counts.events),
        "errors": counts_text(counts.errors),
    }
    console.print()
    for name, text in rows.items():
        console.print(f"{name:<12}{text}")
