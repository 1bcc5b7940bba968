"""Labelled segments of one snapshot to a directory for other tools. It is complete or absent.

The rows are read one after the other by SQL; a corpus never has to fit into memory.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline.errors import ExportError
from pipeline.export import captions, lhotse, shards
from pipeline.export import formats as export_formats
from pipeline.export.clips import cut_clips
from pipeline.export.hub_card import HUB_FORMATS, hub_card
from pipeline.export.label_studio import write_label_studio
from pipeline.export.reviewed import Reviewed, needs_reviews
from pipeline.export.rows import ExportRow, ExportTarget, Order, read_rows, select_rows
from pipeline.storage.address import MEMBER, is_uri
from pipeline.storage.leftovers import finish_directory, make_unfinished_directory
from pipeline.storage.store import open_store
from pipeline.tables import Snapshot, connect, open_snapshot
from pipeline.tables.locked_sql import connect_locked
from pipeline.tables.parquet import N_READERS
from pipeline.tables.review_table import create_review_views, current_reviews

if TYPE_CHECKING:
    import duckdb

Format = Literal[
    "sensevoice",
    "nemo",
    "lhotse",
    "audiofolder",
    "parquet",
    "webdataset",
    "shar",
    "kaldi",
    "srt",
    "vtt",
    "rttm",
    "label-studio",
]
Audio = Literal["reference", "clips"]
FORMATS: tuple[Format, ...] = get_args(Format)

_WRITERS: Mapping[Format, Callable[[Iterable[ExportRow], ExportTarget], None]] = {
    "sensevoice": export_formats.write_sensevoice,
    "nemo": export_formats.write_nemo,
    "lhotse": lhotse.write_lhotse,
    "audiofolder": export_formats.write_audiofolder,
    "parquet": export_formats.write_parquet,
    "webdataset": shards.write_webdataset,
    "shar": shards.write_shar,
    "kaldi": export_formats.write_kaldi,
    "srt": captions.write_srt,
    "vtt": captions.write_vtt,
    "rttm": captions.write_rttm,
    "label-studio": write_label_studio,
}
_IN_FILES = {"parquet", "webdataset", "shar"}  # the clips are inside other files
_NEED_CLIPS = {"sensevoice", "audiofolder", *_IN_FILES}  # no field for a start inside a file
_LAST = "export.json"  # what was exported
# Their times are relative to the whole recording.
_NO_CLIPS = {"srt", "vtt", "rttm", "label-studio"}
_NAMES_FILES = {"nemo", "lhotse", "kaldi", "label-studio"}  # without clips, files of recordings


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported. It is also written to `export.json` in the directory."""

    format: str
    audio: str
    root: str
    seq: int
    fingerprint: str
    where: str
    n_recordings: int
    n_segments: int
    hours: float
    n_test: int  # of the segments: those of the split `test`
    reviewed: Reviewed = "ignore"
    skipped: Mapping[str, str] = field(default_factory=dict)  # recording_id -> reason


def export(
    root: str,
    target: Path | str,
    format: Format,
    where: str = "",
    audio: Audio | None = None,
    options: Mapping[str, Any] | None = None,
    seq: int | None = None,
    fingerprint: str | None = None,
    *,
    unsafe: bool = False,
    reviewed: Reviewed = "ignore",
    test_share: float = 0.0,
    draw: int | None = None,
    dry_run: bool = False,
    shard_bytes: int = 256 << 20,
) -> Exported:
    """Write the segments for which `where` is true to `target`: a directory or s3://bucket/prefix.

    With `dry_run` nothing is written and no audio is read: the counts are those of the tables.

    `seq` and `fingerprint` choose the snapshot, as tables.open_snapshot does.
    `where` is an SQL condition on the view `segments`; "" selects all. `audio` defaults to
    "reference" if the format can refer to a part of a file. A recording whose audio is missing, or
    shorter than before, is left out and listed in `skipped`. `where` can read the tables and
    nothing else, unless `unsafe`. `reviewed` says what becomes of people's corrections (see
    reviewed.py), `test_share` how much of the corpus is kept for tests, `draw` how many
    segments are drawn by chance from those that fit. Formats that put clips into files (parquet,
    webdataset, shar) put about `shard_bytes` of audio into each. Raises ExportError, StoreError.
    """
    audio = _check(format, audio)
    snapshot = open_snapshot(root, options, seq, fingerprint)
    with ExitStack() as stack:
        place = _Place(str(target), options or {})
        staging = None if dry_run else stack.enter_context(place.staging())
        connected = (
            connect(root, options, snapshot.seq, snapshot.fingerprint)
            if unsafe
            else connect_locked(snapshot, staging)
        )
        connection = stack.enter_context(connected)
        _select(connection, snapshot, where, reviewed, test_share, draw)
        if audio == "reference" and format in _NAMES_FILES:
            _check_files(connection, format)
        skipped: dict[str, str] = {}
        if staging is not None:
            files = ExportTarget(
                staging,
                place.final,
                clips=audio == "clips",
                shard_bytes=shard_bytes,
                fingerprint=snapshot.fingerprint,
                seq=snapshot.seq,
                # A condition, or what people said, would choose among what was drawn.
                sample="random" if draw and not where and reviewed == "ignore" else "",
            )
            skipped = _write(connection, format, files, options or {})
        counts = _count(connection, skipped)
        if not counts[1]:
            raise ExportError(f"{root}: nothing to export: {_why_empty(where, skipped)}")
        exported = Exported(
            *(format, audio, root, snapshot.seq, snapshot.fingerprint, where, *counts),
            *(reviewed, skipped),
        )
        if staging is not None:
            if format in HUB_FORMATS:
                (staging / "README.md").write_text(hub_card(asdict(exported)), encoding="utf-8")
            text = json.dumps(asdict(exported), ensure_ascii=False, indent=1)
            (staging / _LAST).write_text(text, encoding="utf-8")
            place.finish(staging)
    return exported


def _select(
    connection: "duckdb.DuckDBPyConnection",
    snapshot: Snapshot,
    where: str,
    reviewed: Reviewed,
    test_share: float,
    draw: int | None,
) -> None:
    import duckdb

    try:
        if needs_reviews(reviewed, test_share):
            current = current_reviews(snapshot.store, snapshot.state)
            create_review_views(connection, current)
        select_rows(connection, where, reviewed, test_share, draw)
    except duckdb.Error as error:
        raise ExportError(
            f"{where!r} is not an SQL condition on the view segments: {error}"
        ) from error


class _Place:
    """Where an export goes: a directory that appears whole, or a prefix of an object store.

    Objects appear one by one, `export.json` as the last: a prefix without it is not complete.
    """

    def __init__(self, target: str, options: Mapping[str, Any]) -> None:
        """Raises ExportError if there is something already, StoreError for an unknown store."""
        self._store = open_store(target, options) if is_uri(target) else None
        self._path = Path(target).absolute()
        self.final = self._store.root if self._store else str(self._path)
        if self._store is None and ":/" in target:
            raise ExportError(f"{target}: is no local directory; s3://bucket/prefix is one, too")
        if self._store is not None:
            is_taken = bool(self._store.list(""))
        else:
            exists = self._path.exists()
            is_taken = exists and (not self._path.is_dir() or any(self._path.iterdir()))
        if is_taken:
            hint = "; without export.json it is an incomplete export, which you may delete"
            raise ExportError(
                f"{self.final}: exists and is not empty; choose another directory"
                + (hint if self._store is not None else "")
            )

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A directory to write in; deleted at the end, unless it has become the export."""
        if self._store is not None:
            with tempfile.TemporaryDirectory(prefix="export-") as folder:
                yield Path(folder)
            return
        staging = make_unfinished_directory(self._path)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def finish(self, staging: Path) -> None:
        """Make the complete directory the export."""
        if self._store is None:
            finish_directory(staging, self._path)
            return
        names = sorted(
            str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()
        )
        put = self._store.put
        with ThreadPoolExecutor(N_READERS) as pool:  # a small PUT is mostly waiting
            others = (name for name in names if name != _LAST)
            list(pool.map(lambda name: put(name, (staging / name).read_bytes()), others))
        put(_LAST, (staging / _LAST).read_bytes())


def _why_empty(where: str, skipped: Mapping[str, str]) -> str:
    if skipped:
        recording_id, reason = next(iter(skipped.items()))
        return f"no recording can be read, e.g. {recording_id}: {reason}"
    return f"no segment fits {where!r}" if where else "the tables have no segments"


def _check(format: Format, audio: Audio | None) -> Audio:
    if format in _NEED_CLIPS and audio == "reference":
        raise ExportError(f"{format} cannot refer to a part of a file; use --audio clips")
    if format in _NO_CLIPS and audio == "clips":
        raise ExportError(f"{format} describes whole recordings and has no clips; omit --audio")
    return audio or ("clips" if format in _NEED_CLIPS else "reference")


def _check_files(connection: "duckdb.DuckDBPyConnection", format: Format) -> None:
    """Raise ExportError if a recording is a member of an archive, which other tools cannot open."""
    sql = f"SELECT uri FROM exported WHERE regexp_matches(uri, '{MEMBER}') LIMIT 1"
    if found := connection.execute(sql).fetchone():
        remedy = "take it out of its archive" if format in _NO_CLIPS else "use --audio clips"
        raise ExportError(f"{format} cannot name {found[0]}, which lies in an archive; {remedy}")


def _write(
    connection: "duckdb.DuckDBPyConnection",
    format: Format,
    target: ExportTarget,
    options: Mapping[str, Any],
) -> dict[str, str]:
    skipped = {}
    if target.clips:
        recordings = _recordings(read_rows(connection))
        skipped = cut_clips(recordings, target.staging, options, os.cpu_count() or 1)
    order: Order = "utterance" if format == "kaldi" else "time"
    rows = (row for row in read_rows(connection, order) if row.recording_id not in skipped)
    try:
        _WRITERS[format](rows, target)
    except ValueError as error:
        raise ExportError(f"{format}: {error}") from error
    if format in _IN_FILES:
        shutil.rmtree(target.staging / "audio", ignore_errors=True)
    return skipped


def _recordings(rows: Iterator[ExportRow]) -> Iterator[Sequence[ExportRow]]:
    for _, group in groupby(rows, attrgetter("recording_id")):
        yield list(group)


def _count(
    connection: "duckdb.DuckDBPyConnection", skipped: Mapping[str, str]
) -> tuple[int, int, float, int]:
    answer = connection.execute(
        "SELECT count(DISTINCT recording_id), count(*), coalesce(sum(end_s - start_s), 0) / 3600, "
        "count_if(split = 'test') "
        "FROM exported WHERE NOT list_contains(?::VARCHAR[], recording_id)",
        [list(skipped)],
    ).fetchone()
    assert answer is not None
    return answer[0], answer[1], answer[2], answer[3]
