"""The texts before and after a run: plan, survey, closing summary. Decides nothing.

The console is that of commands.results: it prints text as it is, and does not wrap lines.
"""

import shlex
from collections.abc import Mapping

from rich.console import Console

from pipeline.config import RunConfig
from pipeline.planning.costs import MachineHours
from pipeline.planning.plan import Plan
from pipeline.planning.survey import Survey
from pipeline.report.figures import Counts, count_labels
from pipeline.runs.bottleneck import find_bottleneck
from pipeline.runs.progress import Outcome
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
    done = f"{plan.n_done:,} already in the tables{kept}, {plan.todo.num_rows:,} to do{again}"
    console.print(done)
    console.print(f"{plan.bytes / 1e6:,.1f} MB to read, {_hours_known(plan)}")


def _hours_known(plan: Plan) -> str:
    if plan.known_s:
        return f"{plan.known_s / 3600:,.2f} h where the manifest gives a duration"
    return "duration unknown (the manifest gives none)"


def show_survey(console: Console, survey: Survey, cost: MachineHours, source: str) -> None:
    """Print the size and the cost of a plan, estimated from a sample. `source`: of the speeds."""
    hours = [value / 3600 for value in (survey.seconds.low, survey.seconds.high)]
    share = survey.unreadable
    machines = {
        "decode": _machine_time(cost.decode_core_h, "core"),
        "segment": _machine_time(cost.segment_core_h, "core"),
        "label": _machine_time(cost.label_gpu_h, "GPU")
        if cost.label_gpu_h
        else _machine_time(cost.label_core_h, "core"),
    }
    rows = {
        "sampled": f"the first bytes of {survey.n_sampled:,} recordings",
        "audio": f"{survey.seconds.value / 3600:,.2f} h ({hours[0]:,.2f} to {hours[1]:,.2f})",
        "durations": f"median {survey.median_s:,.1f} s, longest {survey.longest_s:,.1f} s",
        "codecs": _counts(survey.codecs),
        "unreadable": f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})",
        "errors": _counts(survey.errors),
        **machines,
        "speeds": source,
    }
    console.print()
    for name, text in rows.items():
        console.print(f"{name:<12}{text}")


def _machine_time(hours: float, machine: str) -> str:
    if hours < 0.1:
        return f"{hours * 3600:,.1f} {machine}-seconds"
    return f"{hours:,.2f} {machine}-hours"


def show_outcome(console: Console, config: RunConfig, outcome: Outcome, snapshot: Snapshot) -> None:
    """Print the closing summary: this run, then all that the tables hold."""
    progress = outcome.progress
    if outcome.n_adopted:
        console.print(
            f"Committed {outcome.n_adopted:,} recordings that an interrupted run had finished.",
        )
    if not outcome.plan.todo.num_rows:
        console.print("Nothing left to do: every recording of the manifest is in the tables.")
    else:
        rtfx = progress.audio_s / max(outcome.label_wall_s, 1e-9)
        console.print(
            f"Labelled {progress.n_recordings - progress.n_errors:,} recordings "
            f"({progress.n_errors:,} failed), {progress.audio_s / 3600:.3f} h of audio in "
            f"{outcome.label_wall_s:.0f} s: {rtfx:.1f}x real time, including start-up.",
        )
        busy_s = {name: state.busy_s for name, state in progress.stages.items()}
        if bottleneck := find_bottleneck(busy_s, outcome.label_wall_s, config):
            console.print(bottleneck)
    if outcome.n_unfinished:
        console.print(
            f"{outcome.n_unfinished:,} recordings have no row yet (their worker crashed, or "
            "another run is labelling them). Run the same command again.",
            style="yellow",
        )
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
        "languages": _counts(counts.languages),
        "emotions": _counts(counts.emotions),
        "events": _counts(counts.events),
        "errors": _counts(counts.errors),
    }
    console.print()
    for name, text in rows.items():
        console.print(f"{name:<12}{text}")


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in values.items()) or "none"
