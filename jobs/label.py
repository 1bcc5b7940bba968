"""Label a corpus: python -m jobs label CONFIG [--set key=value ...] [--dry-run]."""

import ast
import json
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from pipeline.config import RunConfig, describe_fields, load_config
from pipeline.console.commands import (
    ConfigKeys,
    Quiet,
    expected_errors,
    messages,
    one_command,
    results,
    show_error,
)
from pipeline.console.progress import ProgressLines
from pipeline.console.summary import show_outcome, show_plan
from pipeline.errors import Refused, RunStopped
from pipeline.flow.gpus import check_gpus
from pipeline.report.card import write_report
from pipeline.runs import execute as run
from pipeline.runs.other_labels import explain_other_labels, find_other_labels, run_settings
from pipeline.runs.progress import Outcome
from pipeline.storage.redaction import redact
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
    quiet: Quiet = False,
) -> None:
    """Label the recordings of a manifest that have no labels yet.

    Exit codes: 0 done, 3 done, but some recordings failed (error_exit_code), 1 stopped or not
    finished, 2 refused, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM). In every case the
    finished recordings are committed, and the same command continues with the others.
    """
    signal.signal(signal.SIGTERM, _terminate)
    lines = ProgressLines(Console(), log_json=log_json, quiet=quiet)
    with _exit_codes(lines, log_json=log_json, verbose=verbose):
        config = load_config(config_path, overrides or [])
        if dry_run:
            _show_plan(config)
            return
        with lines:
            outcome = run.execute(config, lines.update)
        if not (log_json or quiet):
            snapshot = open_snapshot(config.output, config.storage_options)
            show_outcome(results(), config, outcome, snapshot)
        _write_report(config, outcome, shown=not (log_json or quiet))
    exit_code = _exit_code(config, outcome)
    lines.finish(outcome, exit_code)
    sys.exit(exit_code)


def _show_plan(config: RunConfig) -> None:
    store, info = run.prepare(config)
    show_plan(results(), run.plan_run(config, info))
    if text := explain_other_labels(find_other_labels(store, config, info), info):
        results().print(text, style="yellow")
    check_gpus(config.ray)


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
        why = {"error": redact(str(error))} if log_json else {}
        lines.end("refused" if refused else "failed", exit_code, why)
        sys.exit(exit_code)


def _stopped(error: Exception) -> str:
    name = "" if isinstance(error, RunStopped) else f"{type(error).__name__}: "
    return f"stopped: {name}{error} (--verbose shows more; Ray's logs: {_RAY_LOGS})"


def _write_report(config: RunConfig, outcome: Outcome, *, shown: bool) -> None:
    """Write the dataset card next to the tables. If that fails, the run is still a success."""
    try:
        uri = write_report(config.output, config.storage_options, _record_of(config, outcome))
    except expected_errors() as error:
        messages().print(redact(f"no report: {error}"))
        return
    if shown:
        results().print(f"Report: {uri}")


def _record_of(config: RunConfig, outcome: Outcome) -> RunRecord | None:
    """What the report says about this run; None if nothing was labelled."""
    progress = outcome.progress
    if not progress.n_recordings:
        return None
    return RunRecord(
        run_id=outcome.run.run_id,
        fingerprint=outcome.run.fingerprint,
        vad=outcome.run.vad,
        n_recordings=progress.n_recordings,
        n_errors=progress.n_errors,
        audio_s=progress.audio_s,
        wall_s=outcome.label_wall_s,
        stage_s={name: stage.busy_s for name, stage in progress.stages.items()},
        settings=run_settings(config),
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
    """Every key of CONFIG for --help, by section: its default, and what it does."""
    not_wrapped_again = "\b\n"  # the sign of click for such a paragraph
    sections = groupby(describe_fields(), lambda field: field[0].rpartition(".")[0])
    texts = [not_wrapped_again + "\n".join(_entries(fields)) for _, fields in sections]
    return "\n\n".join(["Keys of CONFIG, as --set takes them, with their defaults:", *texts])


def _entries(fields: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    for key, default, text in fields:
        value = "..." if default == "required" else json.dumps(ast.literal_eval(default))
        yield textwrap.fill(f"{key}={value}  {text}", 76, subsequent_indent="    ")


app = one_command(main, epilog=_keys())

if __name__ == "__main__":
    app()
