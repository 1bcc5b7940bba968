"""Estimate a run before it starts: python -m jobs plan CONFIG|MANIFEST."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config import RunConfig, load_config, load_options
from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.console.summary import show_plan, show_survey
from pipeline.manifest.read import read_manifest
from pipeline.planning.costs import MachineHours, Speeds, estimate_cost, load_speeds
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.survey import N_SAMPLED, Survey, survey_todo
from pipeline.runs import execute as run
from pipeline.schema import TABLES

_BUILT_IN_SPEEDS = "one core of an AMD EPYC; for yours: python -m jobs benchmark speed --json FILE"


def main(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|MANIFEST", help="the YAML file of a run, or a manifest without one"
        ),
    ],
    overrides: ConfigKeysOrStorageOptions = None,
    n_sampled: Annotated[
        int, typer.Option("--sample", min=1, help="number of recordings to examine")
    ] = N_SAMPLED,
    seed: Annotated[int, typer.Option(help="another number examines another sample")] = 0,
    benchmark: Annotated[
        Path | None,
        typer.Option(
            help="speeds to calculate with: a file that `benchmark speed --json FILE` wrote; "
            "default: built-in figures"
        ),
    ] = None,
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--cpu", help="where the model will run; default: as CONFIG says"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the size and the cost of a run before it starts.

    Counts the recordings and those that are done. Reads the first bytes of a random sample, and
    estimates from it codecs, hours, the share of unreadable files, core-hours and GPU-hours. The
    built-in speed of a GPU is a calculation, not a measurement. Writes nothing.
    """
    with refusing():
        config, plan = _plan(source, overrides or [])
        speeds = load_speeds(benchmark) if benchmark else Speeds()
        survey = survey_todo(
            plan.todo, config.audio, config.storage_options, n_sampled=n_sampled, seed=seed
        )
    on_gpu = config.ray.num_gpus > 0 if gpu is None else gpu
    cost = estimate_cost(survey.seconds.value, speeds, on_gpu=on_gpu)
    if as_json:
        show_json(_facts(plan, survey, cost))
        return
    console = results()
    show_plan(console, plan)
    show_survey(console, survey, cost, f"{benchmark or _BUILT_IN_SPEEDS}")


def _plan(source: str, overrides: list[str]) -> tuple[RunConfig, Plan]:
    if Path(source).suffix in {".yaml", ".yml"}:
        config = load_config(source, overrides)
        return config, run.plan_run(config, run.prepare(config)[1])
    options = load_options(overrides)
    config = RunConfig(manifest=source, output="", storage_options=options)
    nothing = TABLES["recordings"].empty_table()
    return config, make_plan(read_manifest(source, options), nothing, "", options)


def _facts(plan: Plan, survey: Survey, cost: MachineHours) -> dict[str, Any]:
    counts = {field.name: getattr(plan, field.name) for field in fields(plan)}
    counts["n_todo"] = counts.pop("todo").num_rows
    return counts | asdict(survey) | asdict(cost)


app = one_command(main)

if __name__ == "__main__":
    app()
