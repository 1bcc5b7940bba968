"""Export labelled segments: python -m jobs export ROOT --format FORMAT -o DIR [--where SQL]."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.console.commands import (
    AsJson,
    ConfigKeysOrStorageOptions,
    Fingerprint,
    Quiet,
    Root,
    Seq,
    Unsafe,
    find_output,
    one_command,
    refusing,
    results,
    show_json,
)
from pipeline.export.reviewed import Reviewed
from pipeline.export.write import Audio, Exported, Format, export


def main(
    root: Root,
    format: Annotated[Format, typer.Option(help="format to write")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="directory or s3:// prefix, new or empty")
    ],
    where: Annotated[
        str,
        typer.Option(
            help="SQL condition on the view `segments`; default: export all segments, also those "
            "without words (text <> '' leaves them out)"
        ),
    ] = "",
    reviewed: Annotated[
        Reviewed,
        typer.Option(
            help="corrections by people (see `explore`): ignore them; only what was reviewed; "
            "prefer a correction to the model's label; exclude what was reviewed"
        ),
    ] = "ignore",
    test_share: Annotated[
        float,
        typer.Option(
            "--test-share",
            min=0,
            max=1,
            help="share of the speakers (column `speaker`) or recordings that become the split "
            "`test`, the same each time; what was drawn by chance and reviewed is always in it",
        ),
    ] = 0.0,
    draw: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="only this many segments, drawn by chance from those that fit, the same each "
            "time; without --where and --reviewed, what people say of them tells accuracy",
        ),
    ] = None,
    audio: Annotated[
        Audio | None,
        typer.Option(
            help="reference: name a stretch of the original recording; clips: write each segment "
            "as a 16 kHz mono wav; default: reference where the format allows it"
        ),
    ] = None,
    shard_mb: Annotated[
        int,
        typer.Option(
            "--shard-mb", min=1, help="parquet, webdataset, shar: megabytes of audio in one file"
        ),
    ] = 256,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="count what would be exported, and write nothing")
    ] = False,
    seq: Seq = None,
    fingerprint: Fingerprint = None,
    unsafe: Unsafe = False,
    options: ConfigKeysOrStorageOptions = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write labelled segments in a format that other tools read.

    Exit codes: 0 done, 2 refused, 3 done, but recordings whose audio cannot be read any more are
    left out (export.json in the directory lists them).
    """
    with refusing(as_json=as_json):
        found = find_output(root, options)
        done = export(
            found.root,
            output,
            format,
            where,
            audio,
            found.options,
            seq,
            fingerprint,
            unsafe=unsafe,
            reviewed=reviewed,
            test_share=test_share,
            draw=draw,
            dry_run=dry_run,
            shard_bytes=shard_mb << 20,
        )
    if as_json:
        show_json(asdict(done) | {"output": output, "dry_run": dry_run})
    elif done.skipped or not quiet:
        _show(done, output, dry_run=dry_run)
    sys.exit(3 if done.skipped else 0)


def _show(done: Exported, target: str, *, dry_run: bool) -> None:
    console = results()
    console.print(
        f"{'would export ' if dry_run else ''}{done.n_segments:,} segments of "
        f"{done.n_recordings:,} recordings, {done.hours:.3f} h, as {done.format} in {target} "
        f"(commit {done.seq})"
    )
    if done.skipped:
        recording_id, reason = next(iter(done.skipped.items()))
        console.print(
            f"{len(done.skipped):,} recordings left out, listed in {target}/export.json, "
            f"e.g. {recording_id}: {reason}"
        )


app = one_command(main)

if __name__ == "__main__":
    app()
