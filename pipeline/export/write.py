"""Labelled segments to a directory that training or editing tools read. Complete or absent.

The tables are read by SQL at one commit, row by row; nothing here holds a corpus in memory.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline.errors import ExportError
from pipeline.export import captions
from pipeline.export import formats as export_formats
from pipeline.export.clips import cut_clips
from pipeline.export.rows import ExportTarget, Order, Row, choose, read_rows
from pipeline.tables import connect, open_snapshot

if TYPE_CHECKING:
    import duckdb

Format = Literal[
    "sensevoice", "nemo", "lhotse", "audiofolder", "parquet", "kaldi", "srt", "vtt", "rttm"
]
Audio = Literal["reference", "clips"]
FORMATS: tuple[Format, ...] = get_args(Format)

_WRITERS: Mapping[Format, Callable[[Iterable[Row], ExportTarget], None]] = {
    "sensevoice": export_formats.write_sensevoice,
    "nemo": export_formats.write_nemo,
    "lhotse": export_formats.write_lhotse,
    "audiofolder": export_formats.write_audiofolder,
    "parquet": export_formats.write_parquet,
    "kaldi": export_formats.write_kaldi,
    "srt": captions.write_srt,
    "vtt": captions.write_vtt,
    "rttm": captions.write_rttm,
}
_NEED_CLIPS = {"sensevoice", "audiofolder", "parquet"}  # no field for a place inside a file
_NO_CLIPS = {"srt", "vtt", "rttm"}  # their times are those of whole recordings


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export holds. It lies beside the data as `export.json`."""

    format: str
    audio: str
    root: str
    seq: int
    fingerprint: str
    where: str
    n_recordings: int
    n_segments: int
    hours: float
    skipped: Mapping[str, str] = field(default_factory=dict)  # recording_id -> why it is not in it


def export(
    root: str,
    target: Path,
    format: Format,
    where: str = "",
    audio: Audio | None = None,
    options: Mapping[str, Any] | None = None,
) -> Exported:
    """Write the segments that fit `where`, an SQL condition on the view `segments`, to `target`.

    `audio` defaults to references where the format has them. A recording whose audio is gone or
    shorter than it was is left out and listed. Raises ExportError, StoreError.
    """
    import duckdb

    audio = _check(format, audio, target)
    snapshot = open_snapshot(root, options)
    with connect(root, options, snapshot.seq) as connection:
        try:
            choose(connection, where)
        except duckdb.Error as error:
            raise ExportError(f"{where!r} is no condition on the segments: {error}") from error
        home = target.absolute()
        folder = home.with_name(f".{home.name}.{uuid.uuid4().hex}.tmp")
        place = ExportTarget(folder, home, clips=audio == "clips")
        place.folder.mkdir(parents=True)
        try:
            skipped = _write(connection, format, place, options or {})
            counts = _count(connection, skipped)
            if not counts[1]:
                raise ExportError(f"{root}: nothing to export: no segment fits {where or 'yet'!r}")
            exported = Exported(
                *(format, audio, root, snapshot.seq, snapshot.fingerprint, where, *counts, skipped)
            )
            text = json.dumps(asdict(exported), ensure_ascii=False, indent=1)
            (place.folder / "export.json").write_text(text, encoding="utf-8")
            place.folder.replace(home)  # takes the place of an empty directory, of nothing else
        finally:
            shutil.rmtree(place.folder, ignore_errors=True)
    return exported


def _check(format: Format, audio: Audio | None, target: Path) -> Audio:
    if ":/" in str(target):
        raise ExportError(f"{target}: exports are written to a local directory; copy it from there")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target}: is there already and not empty; choose another directory")
    if format in _NEED_CLIPS and audio == "reference":
        raise ExportError(f"{format} cannot refer to a stretch of a file; use clips")
    if format in _NO_CLIPS and audio == "clips":
        raise ExportError(f"{format} is about whole recordings; it has no clips")
    return audio or ("clips" if format in _NEED_CLIPS else "reference")


def _write(
    connection: "duckdb.DuckDBPyConnection",
    format: Format,
    place: ExportTarget,
    options: Mapping[str, Any],
) -> dict[str, str]:
    skipped = {}
    if place.clips:
        recordings = _recordings(read_rows(connection))
        skipped = cut_clips(recordings, place.folder, options, os.cpu_count() or 1)
    order: Order = "key" if format == "kaldi" else "recording_id, segment_id"
    rows = (row for row in read_rows(connection, order) if row.recording_id not in skipped)
    try:
        _WRITERS[format](rows, place)
    except ValueError as error:
        raise ExportError(f"{format}: {error}") from error
    if format == "parquet":
        shutil.rmtree(place.folder / "audio", ignore_errors=True)  # the clips are inside
    return skipped


def _recordings(rows: Iterator[Row]) -> Iterator[Sequence[Row]]:
    for _, group in groupby(rows, attrgetter("recording_id")):
        yield list(group)


def _count(
    connection: "duckdb.DuckDBPyConnection", skipped: Mapping[str, str]
) -> tuple[int, int, float]:
    answer = connection.execute(
        "SELECT count(DISTINCT recording_id), count(*), coalesce(sum(end_s - start_s), 0) / 3600 "
        "FROM exported WHERE NOT list_contains(?::VARCHAR[], recording_id)",
        [list(skipped)],
    ).fetchone()
    assert answer is not None
    return answer[0], answer[1], answer[2]
