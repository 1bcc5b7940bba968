"""Label a corpus: python -m jobs label CONFIG [--set key=value ...] [--dry-run]."""

import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from pipeline.config import RunConfig, describe_fields, load_config
from pipeline.console.commands import (
    ConfigKeys,
    expected_errors,
    messages,
    one_command,
    results,
    show_error,
)
from pipeline.console.progress import ProgressLines
from pipeline.console.summary import show_outcome, show_plan
from pipeline.errors import Refused, RunStopped
from pipeline.report.card import write_report
from pipeline.runs import execute as run
from pipeline.runs.progress import Outcome
from pipeline.storage.redaction import public_uri
from pipeline.tables import open_snapshot
from pipeline.tables.run_records import RunRecord

_RAY_LOGS = "/tmp/ray/session_latest/logs"  # Ray's default


def main(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run")],
    overrides: ConfigKeys = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be done, and do nothing")
    ] = False,
    log_json: Annotated[
        bool,
        typer.Option("--log-json", help="print one JSON object per line, for log collectors"),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="print the whole traceback of an error")
    ] = False,
) -> None:
    """Label the recordings of a manifest that have no labels yet.

    Exit codes: 0 done, 3 done, but some recordings failed (error_exit_code), 1 stopped or not
    finished, 2 refused, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM). In every case the
    finished recordings are committed, and the same command continues with the others.
    """
    signal.signal(signal.SIGTERM, _terminate)
    lines = ProgressLines(Console(), log_json=log_json)
    with _exit_codes(lines, log_json=log_json, verbose=verbose):
        config = load_config(config_path, overrides or [])
        if dry_run:
            show_plan(results(), run.plan_run(config, run.prepare(config)[1]))
            return
        with lines:
            outcome = run.execute(config, lines.update)
        if not log_json:
            snapshot = open_snapshot(config.output, config.storage_options)
            show_outcome(results(), config, outcome, snapshot)
        _write_report(config, outcome, log_json=log_json)
    exit_code = _exit_code(config, outcome)
    lines.finish(outcome, exit_code)
    sys.exit(exit_code)


@contextmanager
def _exit_codes(lines: ProgressLines, *, log_json: bool, verbose: bool) -> Iterator[None]:
    """Exit with a code and one line of reason for everything that ends a run early."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        exit_code = 143 if isinstance(interrupt, Terminated) else 130
        if not log_json:
            text = "stopped; what was finished is committed. Run the same command to continue."
            messages().print(text)
        lines.end("stopped", exit_code)
        sys.exit(exit_code)
    except Exception as error:
        if verbose:
            raise
        refused = isinstance(error, Refused)
        show_error(f"refused: {error}" if refused else _stopped(error))
        exit_code = 2 if refused else 1
        lines.end("refused" if refused else "failed", exit_code)
        sys.exit(exit_code)


def _stopped(error: Exception) -> str:
    name = "" if isinstance(error, RunStopped) else f"{type(error).__name__}: "
    return f"stopped: {name}{error} (--verbose shows more; Ray's logs: {_RAY_LOGS})"


def _write_report(config: RunConfig, outcome: Outcome, *, log_json: bool) -> None:
    """Write the dataset card next to the tables. If that fails, the run is still a success."""
    try:
        uri = write_report(config.output, config.storage_options, _record_of(config, outcome))
    except expected_errors() as error:
        messages().print(f"no report: {error}")
        return
    if not log_json:
        results().print(f"Report: {uri}")


def _record_of(config: RunConfig, outcome: Outcome) -> RunRecord | None:
    """What the report says about this run; None if nothing was labelled."""
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
    """SIGTERM: the machine is needed for something else. The run stops as on Ctrl-C."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second SIGTERM ends the process at once
    raise Terminated


def _exit_code(config: RunConfig, outcome: Outcome) -> int:
    if outcome.n_unfinished:
        return 1
    return config.error_exit_code if outcome.progress.n_errors else 0


def _keys() -> str:
    """Every key of CONFIG for --help, with its default and its description."""
    texts = (f"{key} [{default}]: {text}" for key, default, text in describe_fields())
    lines = (textwrap.fill(text, 76, subsequent_indent="    ") for text in texts)
    not_wrapped_again = "\b\n"  # the sign of click for such a paragraph
    return "Keys of CONFIG, with their defaults:\n\n" + not_wrapped_again + "\n".join(lines)


app = one_command(main, epilog=_keys())

if __name__ == "__main__":
    app()
