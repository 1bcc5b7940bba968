"""Show what an output holds: python -m jobs status ROOT."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Root,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.errors import advice_for
from pipeline.maintenance.status import Labels, Status, read_status
from pipeline.runs.other_labels import Differences, compare_settings, explain_differences
from pipeline.storage.store import open_store


def main(root: Root, options: ConfigKeysOrStorageOptions = None, as_json: AsJson = False) -> None:
    """Show the commits, the fingerprints, what waits and what failed.

    For each fingerprint: the settings that differ from those of the default, and how many
    recordings are labelled or failed. For each kind of error: what to do. The exit code is 0
    whatever failed.
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        status = read_status(open_store(found.root, found.options))
    if as_json:
        show_json(_facts(status))
    else:
        _show(results(), status)


def _show(console: Console, status: Status) -> None:
    if not status.seq:
        console.print("no commits yet")
    for record in status.newest:
        n_rows = sum(file.rows for file in record.added.get("recordings", ()))
        console.print(
            f"commit {record.seq}  {record.committed_at[:19]}  {record.run_id}  {n_rows:,} rows"
        )
    for labels, differing in _with_differences(status):
        console.print()
        console.print(
            f"{labels.fingerprint}{'  (the default of readers)' if labels.is_default else ''}"
        )
        for name, text in _lines(labels, differing).items():
            console.print(f"  {name:<12}{text}")
    console.print()
    console.print(
        f"{status.n_waiting:,} bundles wait for the next run; {status.n_files:,} files, "
        f"{status.n_bytes / 1e6:,.1f} MB"
    )


def _lines(labels: Labels, differing: Differences | None) -> dict[str, str]:
    lines = {
        "recordings": f"{labels.n_ok:,} ok, {labels.n_failed:,} failed, "
        f"{labels.audio_s / 3600:,.3f} h",
        "model": f"{labels.model} ({labels.model_hash[:12]})",
    }
    if not labels.is_default:
        lines["settings"] = _settings(differing)
    if labels.newest_run:
        lines["newest run"] = labels.newest_run.run_id
    for kind, count in labels.errors.items():
        lines[kind] = f"{count:,}: {advice_for(kind)}"
    return lines


def _settings(differing: Differences | None) -> str:
    if differing is None:
        return "not recorded"
    return explain_differences(differing) or "as the default; other code version"


def _with_differences(status: Status) -> Iterator[tuple[Labels, Differences | None]]:
    """Each fingerprint, with the settings of the default that it changes; None: not recorded."""
    default = next((labels for labels in status.labels if labels.is_default), None)
    for labels in status.labels:
        if default is None or default.newest_run is None or labels.newest_run is None:
            yield labels, None
        else:
            yield (
                labels,
                compare_settings(
                    (default.newest_run.settings, default.model_hash),
                    (labels.newest_run.settings, labels.model_hash),
                ),
            )


def _pairs(differing: Differences | None) -> dict[str, dict[str, Any]] | None:
    if differing is None:
        return None
    return {key: {"default": old, "this": new} for key, (old, new) in differing.items()}


def _facts(status: Status) -> dict[str, Any]:
    """The status for --json."""
    return {
        "seq": status.seq,
        "commits": [
            {
                "seq": record.seq,
                "committed_at": record.committed_at,
                "run_id": record.run_id,
                "rows": sum(file.rows for file in record.added.get("recordings", ())),
            }
            for record in status.newest
        ],
        "fingerprints": [
            asdict(labels)
            | {
                "newest_run": labels.newest_run and labels.newest_run.run_id,
                "differing": _pairs(differing),
                "errors": [
                    {"error_type": kind, "n": count, "advice": advice_for(kind)}
                    for kind, count in labels.errors.items()
                ],
            }
            for labels, differing in _with_differences(status)
        ],
        "n_waiting": status.n_waiting,
        "n_files": status.n_files,
        "n_bytes": status.n_bytes,
    }


app = one_command(main)

if __name__ == "__main__":
    app()
