"""Check that the tables are as they were committed: python -m jobs verify ROOT."""

import sys
from dataclasses import asdict

from pipeline.config import load_options
from pipeline.console.commands import (
    AsJson,
    Root,
    StorageOptions,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.maintenance.verify import Verdict, verify
from pipeline.tables import open_snapshot

_SHOWN = 100  # problems


def main(root: Root, options: StorageOptions = None, as_json: AsJson = False) -> None:
    """Check every commit, every file and every row of the tables.

    Reads all of them. Exit codes: 0 no problems (one line is printed), 1 problems (they are
    listed), 2 refused.
    """
    with refusing():
        verdict = verify(open_snapshot(root, load_options(options or [])).store)
    if as_json:
        show_json({"ok": not verdict.problems, **asdict(verdict)})
    else:
        _show(root, verdict)
    sys.exit(1 if verdict.problems else 0)


def _show(root: str, verdict: Verdict) -> None:
    console = results()
    if not verdict.problems:
        console.print(_line(verdict))
        return
    for problem in verdict.problems[:_SHOWN]:
        console.print(problem, style="red")
    hidden = len(verdict.problems) - _SHOWN
    more = f" ({hidden:,} more are not shown; --json prints all)" if hidden > 0 else ""
    console.print(f"{root}: {len(verdict.problems):,} problems{more}")


def _line(verdict: Verdict) -> str:
    waiting = f"; {verdict.n_waiting:,} bundles wait for the next run" if verdict.n_waiting else ""
    return (
        f"verified: {verdict.n_recordings:,} recordings ({verdict.n_errors:,} failed), "
        f"{verdict.n_segments:,} segments, {verdict.audio_s / 3600:,.3f} h, "
        f"{verdict.n_fingerprints} fingerprints, {verdict.n_files:,} files "
        f"({verdict.n_bytes / 1e6:,.1f} MB), {verdict.seq:,} commits{waiting}"
    )


app = one_command(main)

if __name__ == "__main__":
    app()
