"""Label a corpus: python -m jobs.label CONFIG [--set key=value ...] [--dry-run].

Exit codes: 0 done, 3 done with failed recordings (`error_exit_code`), 1 stopped or not finished,
2 refused, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM). After each of them what was finished
is committed, and the same command goes on.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import duckdb
import typer
from rich.console import Console

from pipeline.config import RunConfig, describe_fields, load_config
from pipeline.console.progress import ProgressLines
from pipeline.console.summary import show_outcome, show_plan
from pipeline.errors import ConfigError, ManifestError, ModelError, RunStopped, StoreError
from pipeline.report.card import write_report
from pipeline.runs import execute as run
from pipeline.runs.progress import Outcome
from pipeline.storage.redaction import public_uri
from pipeline.tables import open_snapshot
from pipeline.tables.run_records import RunRecord

REFUSALS = (ConfigError, ManifestError, ModelError, StoreError)
_RAY_LOGS = "/tmp/ray/session_latest/logs"  # where Ray writes unless told otherwise
_KEYS = "\n\n".join(f"{key} [{default}]: {text}" for key, default, text in describe_fields())


def main(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override one key")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be done, and do nothing")
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="print one JSON object a line, for log collectors")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="show the whole traceback of what goes wrong")
    ] = False,
) -> None:
    """Label every recording of a manifest that the tables do not have yet."""
    signal.signal(signal.SIGTERM, _terminate)
    console = Console()
    lines = ProgressLines(console, log_json=log_json)
    try:
        config = load_config(config_path, overrides or [])
        if dry_run:
            show_plan(console, run.plan_run(config, run.prepare(config)[1]))
            return
        with lines:
            outcome = run.execute(config, lines.update)
    except KeyboardInterrupt as interrupt:
        exit_code = 143 if isinstance(interrupt, Terminated) else 130
        if not log_json:
            console.print("stopped; what was finished is committed. Run the same command to go on.")
        lines.end("stopped", exit_code)
        sys.exit(exit_code)
    except Exception as error:
        if verbose:
            raise
        refused, known = isinstance(error, REFUSALS), isinstance(error, RunStopped)
        name = "" if refused or known else f"{type(error).__name__}: "
        hint = "" if refused else f" (--verbose shows more; Ray's logs: {_RAY_LOGS})"
        text = f"{'refused' if refused else 'stopped'}: {name}{error}{hint}"
        Console(stderr=True).print(text, style="red", soft_wrap=True, markup=False)
        exit_code = 2 if refused else 1
        lines.end("refused" if refused else "failed", exit_code)
        sys.exit(exit_code)
    if not log_json:
        snapshot = open_snapshot(config.output, config.storage_options)
        show_outcome(console, config, outcome, snapshot)
    _leave_report(config, outcome, None if log_json else console)
    exit_code = _exit_code(config, outcome)
    lines.finish(outcome, exit_code)
    sys.exit(exit_code)


def _leave_report(config: RunConfig, outcome: Outcome, console: Console | None) -> None:
    """The dataset card beside the tables. Labels are safe by now: without it the run is no less."""
    try:
        uri = write_report(config.output, config.storage_options, _record_of(config, outcome))
    except (StoreError, OSError, duckdb.Error) as error:
        Console(stderr=True).print(f"no report: {error}", soft_wrap=True, markup=False)
        return
    if console is not None:
        console.print(f"Report: {uri}", soft_wrap=True, markup=False, highlight=False)


def _record_of(config: RunConfig, outcome: Outcome) -> RunRecord | None:
    """What the report says of this run; None if there was nothing to do."""
    progress = outcome.progress
    if not progress.n_recordings:
        return None
    settings = config.model_dump(mode="json", exclude={"storage_options"})
    addresses = {name: public_uri(settings[name]) for name in ("manifest", "output", "model")}
    return RunRecord(
        run_id=outcome.run.run_id,
        fingerprint=outcome.run.fingerprint,
        vad=outcome.run.vad,
        n_recordings=progress.n_recordings,
        n_errors=progress.n_errors,
        audio_s=progress.audio_s,
        wall_s=outcome.label_wall_s,
        stage_s={name: stage.busy_s for name, stage in progress.stages.items()},
        settings=settings | addresses,
    )


class Terminated(KeyboardInterrupt):
    """SIGTERM: somebody wants the machine; stop as on Ctrl-C."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one is meant
    raise Terminated


def _exit_code(config: RunConfig, outcome: Outcome) -> int:
    if outcome.n_unfinished:
        return 1
    return config.error_exit_code if outcome.progress.n_errors else 0


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(epilog=f"Keys of CONFIG, for --set too:\n\n{_KEYS}")(main)
    app()
