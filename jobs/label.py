"""Label a corpus: python -m jobs.label CONFIG [--set key=value ...] [--dry-run].

Exit codes: 0 done, 3 done with failed recordings (`error_exit_code`), 1 stopped, 2 refused.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.reporting import ProgressLines, show_outcome, show_plan
from pipeline import run
from pipeline.config import ConfigError, describe_fields, load_config
from pipeline.manifest import ManifestError
from pipeline.model_files import ModelError
from pipeline.storage import StoreError
from pipeline.tables import open_snapshot

REFUSALS = (ConfigError, ManifestError, ModelError, StoreError)
_KEYS = "\n\n".join(f"{key} [{default}]: {text}" for key, default, text in describe_fields())


def main(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override one key")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be done, and do nothing")
    ] = False,
) -> None:
    """Label every recording of a manifest that the tables do not have yet."""
    console = Console()
    try:
        config = load_config(config_path, overrides or [])
        if dry_run:
            show_plan(console, run.make_plan(config, run.prepare(config)[1]))
            return
        with ProgressLines(console) as lines:
            outcome = run.execute(config, lines.update)
    except REFUSALS as error:
        Console(stderr=True).print(f"refused: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped; what was finished is committed. Run the same command to go on.")
        sys.exit(130)
    snapshot = open_snapshot(config.output, config.storage_options)
    show_outcome(console, config, outcome, snapshot)
    if outcome.n_unfinished:
        sys.exit(1)
    sys.exit(config.error_exit_code if outcome.progress.n_errors else 0)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(epilog=f"Keys of CONFIG, for --set too:\n\n{_KEYS}")(main)
    app()
