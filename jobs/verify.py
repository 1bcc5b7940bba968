"""Check that the tables are as they were committed: python -m jobs verify ROOT."""

import sys
from dataclasses import asdict

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Quiet,
    Root,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.console.plain_text import counted
from pipeline.maintenance.verify import Verdict, verify
from pipeline.tables import open_snapshot

_SHOWN = 100  # problems


def main(
    root: Root,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check every commit, every file and every row of the tables.

    Reads all of them. Exit codes: 0 no problems (one line is printed), 1 problems (they are
    listed), 2 refused.
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        verdict = verify(open_snapshot(found.root, found.options).store)
    if as_json:
        show_json({"ok": not verdict.problems, **asdict(verdict)})
    elif verdict.problems or not quiet:
        _show(found.root, verdict)
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
        f"{counted(verdict.n_fingerprints, 'fingerprint')}, {counted(verdict.n_files, 'file')} "
        f"({verdict.n_bytes / 1e6:,.3f} MB), {counted(verdict.seq, 'commit')}{waiting}"
    )


app = one_command(main)

if __name__ == "__main__":
    app()
