"""Write a configuration for a corpus: python -m jobs init MANIFEST_OR_DIR [-o config.yaml]."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import RunConfig, load_config, load_options
from pipeline.console.commands import (
    AsJson,
    GpuPrice,
    Price,
    Sample,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.console.costs import budget_of, show_costs
from pipeline.console.summary import show_plan
from pipeline.errors import ConfigError
from pipeline.flow.gpus import count_gpus
from pipeline.manifest.read import read_manifest
from pipeline.planning.costs import Prices, Speeds, estimate_cost
from pipeline.planning.machine import this_machine
from pipeline.planning.plan import make_plan
from pipeline.planning.suggest import suggest, to_yaml
from pipeline.planning.survey import N_SAMPLED, survey_todo
from pipeline.schema import TABLES
from pipeline.storage.address import is_uri

_TITLE = """Written by `python -m jobs init` for this corpus and this machine.
  uv run python -m jobs label {path}
All keys: configs/README.md, or python -m jobs label --help"""


def main(
    manifest: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST_OR_DIR", help="a manifest, a glob, or a directory of audio"
        ),
    ],
    target: Annotated[
        Path, typer.Option("--output", "-o", help="file to write; it must not exist")
    ] = Path("config.yaml"),
    tables: Annotated[
        str | None,
        typer.Option(
            "--tables",
            help="where the tables will be: a path or an s3:// URI; default: labels/NAME",
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="storage option, written into the file, e.g. endpoint_url=... (repeatable)",
        ),
    ] = None,
    n_sampled: Sample = N_SAMPLED,
    price: Price = None,
    gpu_price: GpuPrice = None,
    as_json: AsJson = False,
) -> None:
    """Write a configuration for a corpus on this machine, and plan its run.

    Reads the first bytes of a random sample of the corpus, and counts cores, memory and GPUs. Then
    prints what `plan` prints; no model is fetched. Exit codes: 0 written, 1 written, but most
    recordings of the sample cannot be read, 2 refused.
    """
    with refusing(as_json=as_json):
        given = load_options(options or [])
        _check_new(target)
        config = RunConfig(manifest=_absolute(manifest), output="", storage_options=given)
        nothing = TABLES["recordings"].empty_table()
        plan = make_plan(read_manifest(config.manifest, given), nothing, "", given)
        survey = survey_todo(plan.legs, config.audio, given, n_sampled=n_sampled)
        machine = this_machine(count_gpus() or 0)
        output = _absolute(tables or f"labels/{_name(manifest)}")
        text = to_yaml(
            suggest(config.manifest, output, machine, survey, given), _TITLE.format(path=target)
        )
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
        config = load_config(target)
    cost = estimate_cost(
        survey.seconds.value, Speeds(), on_gpu=machine.n_gpus > 0, n_recordings=plan.legs.n_rows
    )
    budget = budget_of(cost, config, Prices(price, gpu_price))
    if as_json:
        facts = {"config": str(target), "machine": asdict(machine), "n_todo": plan.n_todo}
        show_json(facts | asdict(survey) | asdict(cost) | budget.facts())
    else:
        console = results()
        console.print(f"wrote {target}\n")
        show_plan(console, plan)
        show_costs(console, survey, cost, budget, config)
        console.print(f"\nLabel:  uv run python -m jobs label {target}")
    sys.exit(1 if survey.mostly_fails else 0)


def _check_new(target: Path) -> None:
    if target.exists():
        raise ConfigError(f"{target} exists; name another file with -o, or remove it")
    if target.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"{target}: the name of a configuration ends in .yaml")


def _absolute(place: str) -> str:
    """A local path from which the file works in every working directory."""
    return place if is_uri(place) else str(Path(place).expanduser().absolute())


def _name(manifest: str) -> str:
    """A short name of the corpus: the last part of its path, without suffix and wildcards."""
    path = Path(manifest.rstrip("/*"))
    name = path.parent.name if "*" in path.name else path.name.partition(".")[0]
    return name or "corpus"


app = one_command(main)

if __name__ == "__main__":
    app()
