"""Estimate a run before it starts: python -m jobs plan CONFIG|MANIFEST [--price P]."""

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config import RunConfig, load_config, load_options
from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    GpuPrice,
    Price,
    Sample,
    is_config,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.console.costs import BUILT_IN_SPEEDS, budget_of, show_costs
from pipeline.console.summary import show_plan
from pipeline.manifest.read import read_manifest
from pipeline.planning.costs import (
    MachineHours,
    Prices,
    Speeds,
    estimate_cost,
    load_speeds,
)
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.survey import N_SAMPLED, Survey, survey_todo
from pipeline.runs import execute as run
from pipeline.runs.other_labels import OtherLabels, explain_other_labels, find_other_labels
from pipeline.schema import TABLES


def main(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|MANIFEST", help="the YAML file of a run, or a manifest without one"
        ),
    ],
    overrides: ConfigKeysOrStorageOptions = None,
    n_sampled: Sample = N_SAMPLED,
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
    price: Price = None,
    gpu_price: GpuPrice = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the size and the cost of a run before it starts.

    Counts the recordings and those that are done. Reads the first bytes of a random sample, and
    estimates from it codecs, hours, the share of unreadable files, core-hours and GPU-hours. With
    CONFIG, also the time on the clock with its workers. Writes nothing. Exit codes: 0 planned, 1
    planned, but most recordings of the sample cannot be read, 2 refused.
    """
    with refusing(as_json=as_json):
        config, plan, others, notice = _plan(source, overrides or [])
        speeds = load_speeds(benchmark) if benchmark else Speeds()
        survey = survey_todo(
            plan.legs, config.audio, config.storage_options, n_sampled=n_sampled, seed=seed
        )
    on_gpu = config.ray.num_gpus > 0 if gpu is None else gpu
    cost = estimate_cost(survey.seconds.value, speeds, on_gpu=on_gpu, n_recordings=plan.legs.n_rows)
    budget = budget_of(cost, config, Prices(price, gpu_price), has_workers=is_config(source))
    if as_json:
        facts = _facts(plan, survey, cost) | budget.facts()
        show_json(facts | {"other_labels": [asdict(one) for one in others]})
    else:
        console = results()
        show_plan(console, plan)
        if notice:
            console.print(notice, style="yellow")
        show_costs(console, survey, cost, budget, config, f"{benchmark or BUILT_IN_SPEEDS}")
    sys.exit(1 if survey.mostly_fails else 0)


def _plan(source: str, overrides: list[str]) -> tuple[RunConfig, Plan, list[OtherLabels], str]:
    """The configuration, the plan, and the labels of other settings in the output, as text too."""
    if is_config(source):
        config = load_config(source, overrides)
        store, info = run.prepare(config)
        others = find_other_labels(store, config, info)
        return config, run.plan_run(config, info), others, explain_other_labels(others, info)
    options = load_options(overrides)
    config = RunConfig(manifest=source, output="", storage_options=options)
    nothing = TABLES["recordings"].empty_table()
    return config, make_plan(read_manifest(source, options), nothing, "", options), [], ""


def _facts(plan: Plan, survey: Survey, cost: MachineHours) -> dict[str, Any]:
    counts = {field.name: getattr(plan, field.name) for field in fields(plan)}
    counts["n_todo"] = counts.pop("legs").n_rows
    counts["notes"] = list(plan.notes)
    return counts | asdict(survey) | asdict(cost)


app = one_command(main)

if __name__ == "__main__":
    app()
