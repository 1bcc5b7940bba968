"""What a run would cost, before it is started: python -m jobs.plan CONFIG.yaml|MANIFEST.

Says how many recordings there are, what is done already, and, from the heads of a random sample,
codecs, hours, the share that cannot be read, core-hours and GPU-hours (these are arithmetic until
somebody has measured a GPU). Writes nothing.
"""

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.config import RunConfig, load_config, load_options
from pipeline.console.summary import show_plan, show_survey
from pipeline.errors import ConfigError, ManifestError, ModelError, StoreError
from pipeline.manifest.read import read_manifest
from pipeline.planning.costs import MachineHours, Speeds, estimate_cost, load_speeds
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.survey import N_SAMPLED, Survey, survey_todo
from pipeline.runs import execute as run
from pipeline.schema import TABLES

REFUSALS = (ConfigError, ManifestError, ModelError, StoreError, OSError)


def main(
    source: Annotated[
        str,
        typer.Argument(metavar="CONFIG|MANIFEST", help="a run's YAML file, or a manifest alone"),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="override one key; of a manifest: a storage option"
        ),
    ] = None,
    n_sampled: Annotated[
        int, typer.Option("--sample", min=1, help="how many recordings to look into")
    ] = N_SAMPLED,
    seed: Annotated[int, typer.Option(help="another seed, another sample")] = 0,
    benchmark: Annotated[
        Path | None, typer.Option(help="JSON of `jobs.benchmark speed`; else our figures")
    ] = None,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--cpu", help="label there; else as the config says")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Say what labelling would take."""
    console = Console()
    try:
        config, plan = _plan(source, overrides or [])
        speeds = load_speeds(benchmark) if benchmark else Speeds()
    except REFUSALS as error:
        Console(stderr=True).print(f"refused: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(2)
    survey = survey_todo(
        plan.todo, config.audio, config.storage_options, n_sampled=n_sampled, seed=seed
    )
    on_gpu = config.ray.num_gpus > 0 if gpu is None else gpu
    cost = estimate_cost(survey.seconds.value, speeds, on_gpu=on_gpu)
    if as_json:
        console.print_json(json.dumps(_facts(plan, survey, cost)), indent=None, highlight=False)
        return
    show_plan(console, plan)
    show_survey(
        console,
        survey,
        cost,
        f"{benchmark}"
        if benchmark
        else "one core of an AMD EPYC; measure yours: jobs.benchmark speed",
    )


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


if __name__ == "__main__":
    typer.run(main)
