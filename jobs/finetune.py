"""Fine-tune SenseVoice: python -m jobs finetune CONFIG [--set data.train=rows.jsonl] [--no-ray]."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from pipeline.console.commands import (
    AsJson,
    ConfigKeys,
    Quiet,
    messages,
    one_command,
    refusing,
    results,
    show_error,
    show_json,
)
from pipeline.errors import RunStopped
from pipeline.storage.redaction import redact
from pipeline.training.data import PartReport, report_on
from pipeline.training.event_files import recording
from pipeline.training.finetune import Finished, finetune, scores_of
from pipeline.training.loop import StepReport
from pipeline.training.prepare import Prepared, plan_steps, prepare
from pipeline.training.scores import COUNTED, SetScore
from pipeline.training.session import Listener
from pipeline.training.settings import load_finetune_config

_EPILOG = "The keys of CONFIG are listed in pipeline/training/README.md."


def main(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a fine-tuning")],
    overrides: ConfigKeys = None,
    check: Annotated[
        bool, typer.Option("--check", help="only check the rows and report on them")
    ] = False,
    no_ray: Annotated[
        bool, typer.Option("--no-ray", help="train in this process, with one worker")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a model further on rows with labels, and write a new model directory.

    Resumes from the newest checkpoint if it was stopped. Exit codes: 0 done, 1 stopped, 2 refused,
    3 done, but nothing met the gates and was better than the start, whose weights are written.
    """
    console = Console(quiet=True) if quiet or as_json else messages()
    with refusing(as_json=as_json):
        settings = load_finetune_config(config, overrides or [])
        prepared = prepare(settings, 1 if no_ray else settings.ray.num_workers)
        reports = report_on(prepared.data)
        if check:
            _show_check(reports, as_json=as_json)
            return
        _show_data(console, reports)
        n_steps = len(plan_steps(prepared))
        console.print(f"{n_steps} steps; the model goes to {prepared.output}")
        try:
            folder = Path(settings.event_files) if settings.event_files else None
            with recording(_listener(console), folder) as listener:
                finished = (finetune if no_ray else _on_ray)(prepared, listener)
        except RunStopped as error:
            show_error(str(error))
            if as_json:
                show_json({"outcome": "stopped", "error": redact(str(error)), "exit_code": 1})
            sys.exit(1)
    exit_code = 0 if finished.is_better else 3
    if as_json:
        scores = scores_of(finished.choice) if finished.choice else None
        told = {"output": finished.output, "n_steps": finished.n_steps, "scores": scores}
        show_json({"outcome": "done", **told, "exit_code": exit_code})
    elif not quiet:
        _show_end(finished, prepared.config.gates.max_regression)
    sys.exit(exit_code)


def _on_ray(prepared: Prepared, listener: Listener) -> Finished:
    from pipeline.training.on_ray import finetune_on_ray  # 2 s

    return finetune_on_ray(prepared, listener)


def _show_check(reports: Sequence[PartReport], *, as_json: bool) -> None:
    if as_json:
        show_json({"outcome": "checked", "data": [asdict(one) for one in reports]})
    else:
        _show_data(results(), reports)


def _show_data(console: Console, reports: Sequence[PartReport]) -> None:
    for one in reports:
        languages = ", ".join(f"{name} {h:.3g} h" for name, h in one.hours_by_language.items())
        labels = ", ".join(f"{name} {n}" for name, n in one.n_labels.items())
        console.print(f"{one.name}: {one.n_clips} clips, {one.hours:.3g} h ({languages})")
        console.print(f"  labels: {labels}; with ITN {one.itn_share:.0%}")
        if one.n_dropped:
            dropped = ", ".join(f"{n} {kind}" for kind, n in one.n_dropped.items())
            console.print(f"  dropped: {dropped}; finetune.json lists them", style="yellow")
        for warning in one.warnings:
            console.print(f"  warning: {warning}", style="yellow")


def _show_step(console: Console, told: StepReport) -> None:
    every = max(1, told.n_steps // 50)
    if told.step % every == 0 or told.step in (1, told.n_steps):
        console.print(
            f"step {told.step}/{told.n_steps}  loss {told.loss:.4f}  (text {told.ctc:.4f}, tags "
            f"{told.tags:.4f})  lr {told.lr:.2e}  gradient {told.grad_norm:.3g}"
        )


def _listener(console: Console) -> Listener:
    def show_scores(step: int, scores: Sequence[SetScore]) -> None:
        for one in scores:
            console.print(f"after {step} steps: {_score_line(one)}")

    return Listener(lambda told: _show_step(console, told), show_scores)


def _score_line(score: SetScore) -> str:
    told = ((name, value) for name, value in score.metrics.items() if value is not None)
    errors = ", ".join(f"{name} {value:.2%}" for name, value in told)
    return f"{score.name} ({score.n_clips} clips): {errors}"


def _show_end(finished: Finished, most: float) -> None:
    console = results()
    choice = finished.choice
    if choice is None:
        console.print(f"{finished.output}: the model after {finished.n_steps} steps, not scored")
        return
    kinds = [name.partition("_")[0] for name in COUNTED]  # mixed, language, emotion, event
    table = Table("new", "set", "clips", *kinds, "gates", title="errors", box=SIMPLE)
    for one in choice.candidates:
        for score in one.scores:
            refused = sum(worse.set_name == score.name for worse in one.regressions)
            table.add_row(
                *(f"{one.share:.0%}", score.name, str(score.n_clips)),
                *(_percent(score.metrics[name]) for name in COUNTED),
                f"{refused} not met" if refused else "met",
            )
    console.print(table)
    for score in choice.chosen.scores:
        n_allowed = int(most * score.n_clips + 1e-9)
        console.print(f"gate of {score.name}: {n_allowed} of {score.n_clips} clips may be worse")
    if choice.is_better:
        console.print(f"{finished.output}: {choice.chosen.share:.0%} new weights")
    else:
        console.print(
            f"{finished.output}: the weights of the start; no mix met the gates and was better. "
            "Try replay, a lower lr, fewer weights (train: lora), or other gates"
        )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


app = one_command(main, _EPILOG)

if __name__ == "__main__":
    app()
