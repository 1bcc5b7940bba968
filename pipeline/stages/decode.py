"""Planned rows to windows of waveform: the first stage. Knows files; nothing of speech."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.archives.opened import Place
from pipeline.archives.read import read_members
from pipeline.arrow import Row
from pipeline.audio.checks import Stretch
from pipeline.audio.ranges import decode_together
from pipeline.audio.sources import Source, member_source, open_source
from pipeline.audio.windows import Window, decode_source
from pipeline.config import AudioConfig
from pipeline.errors import ErrorType, RecordingError, StoreError
from pipeline.schema import PLANNED_FIELDS, SAMPLE_RATE, WINDOW
from pipeline.stages.collect import collect
from pipeline.stages.error_rows import describe_error
from pipeline.storage.address import split_member
from pipeline.storage.read_ahead import map_ahead
from pipeline.storage.redaction import public_uri
from pipeline.storage.versions import look_up_version

_AHEAD = 8  # files that a decode task opens in advance; each takes up to 32 MB


def decode_recordings(
    batch: pa.Table,
    *,
    config: AudioConfig,
    options: Mapping[str, Any],
    run_id: str,
    measure: bool = False,
) -> Iterator[pa.Table]:
    """Planned rows to window rows: a long window alone, short ones together (see `collect`).

    The next files are opened meanwhile, because opening an object of a store is mostly waiting.
    Neighbouring rows that are parts of one file are decoded in one pass. With `measure`, the rows
    have `measures` and `levels`.
    """
    rows = batch.to_pylist(maps_as_pydicts="strict")
    windows = _decode_rows(rows, config, options, run_id, measure)
    for together in collect((row["duration_s"], row) for row in windows):
        yield pa.Table.from_pylist(together, schema=WINDOW)


def _decode_rows(
    rows: Sequence[Row],
    config: AudioConfig,
    options: Mapping[str, Any],
    run_id: str,
    measure: bool,
) -> Iterator[Row]:
    for group, recording in _open_ahead(_by_file(_by_archive(rows)), config, options):
        with recording.closing:
            yield from _decode_group(group, recording, config, options, run_id, measure)


def _by_archive(rows: Sequence[Row]) -> list[Row]:
    """The rows with the members of each archive together, from its front to its back."""
    firsts: dict[str, int] = {}
    keys = []
    for index, row in enumerate(rows):
        archive = _archive_of(row)
        keys.append((firsts.setdefault(archive, index) if archive else index, row["start"]))
    return [rows[index] for index in sorted(range(len(rows)), key=lambda index: keys[index])]


def _archive_of(row: Row) -> str:
    """The archive of a member whose place is planned; "" for every other row."""
    member = split_member(row["uri"]) if row["start"] and not row["error_stage"] else None
    return member.archive if member else ""


def _open_ahead(
    groups: Sequence[Sequence[Row]], config: AudioConfig, options: Mapping[str, Any]
) -> Iterator[tuple[Sequence[Row], "_Opened"]]:
    """Each group with its recording: loose files side by side, an archive by one reader."""
    for archive, run in itertools.groupby(groups, key=lambda group: _archive_of(group[0])):
        some = list(run)
        together = [group[0] for group in some]
        with ThreadPoolExecutor(1 if archive else _AHEAD) as pool:
            open_row = partial(_open, config=config, options=options)
            if archive:
                members = _members(archive, together, config, options)
                open_row = partial(_next_of, members)
            opened = map_ahead(pool, open_row, together, _AHEAD)
            yield from zip(some, opened, strict=True)


def _next_of(members: Iterator["_Opened"], row: Row) -> "_Opened":
    return next(members)


def _members(
    archive: str, rows: Sequence[Row], config: AudioConfig, options: Mapping[str, Any]
) -> Iterator["_Opened"]:
    """The recordings of an archive, which is read once. They cannot change while they are read."""
    places = [_place_of(row) for row in rows]
    read = read_members(archive, places, options, config.max_bytes)
    for row, item in zip(rows, read, strict=True):
        if isinstance(item, RecordingError):
            yield _Opened(row["version"], row["bytes"], error=item)
            continue
        item.closing.enter_context(item.file)
        yield _Opened(item.version, item.size, item.closing, member_source(item))


def _place_of(row: Row) -> Place:
    member = split_member(row["uri"])
    return Place(member.name if member else "", row["start"], row["bytes"])


def _by_file(rows: Sequence[Row]) -> list[list[Row]]:
    """Neighbouring rows that are parts of one file in one list; every other row in its own."""

    def file_of(place: int) -> object:
        row = rows[place]
        is_part = row["length_s"] > 0 and not row["error_stage"]
        return (row["uri"], row["version"], row["channel"]) if is_part else place

    grouped = itertools.groupby(range(len(rows)), key=file_of)
    return [[rows[place] for place in places] for _, places in grouped]


@dataclass(slots=True)
class _Opened:
    """An opened recording, or the reason why it could not be opened."""

    version: str  # of the object, as the store reports it
    n_bytes: int
    closing: ExitStack = field(default_factory=ExitStack)
    source: Source | None = None
    error: BaseException | None = None


def _open(row: Row, config: AudioConfig, options: Mapping[str, Any]) -> _Opened:
    opened = _Opened(row["version"], row["bytes"])
    if row["error_stage"]:
        return opened
    try:
        opened.source = opened.closing.enter_context(open_source(row["uri"], config, options))
        opened.version, opened.n_bytes = opened.source.version, opened.source.size
        if opened.source.is_in_memory and split_member(row["uri"]) is None:
            _check_unchanged(row, opened, options)
    except (Exception, SystemExit) as error:
        opened.error = error
        _note_version(row, opened, options)
    return opened


def _note_version(row: Row, opened: _Opened, options: Mapping[str, Any]) -> None:
    """The version of an object that cannot be opened, so that it is not tried again as it is."""
    if opened.source is None:
        try:
            opened.version, opened.n_bytes = _version_of(row["uri"], options)
        except RecordingError as error:
            opened.error = error


def _check_unchanged(row: Row, opened: _Opened, options: Mapping[str, Any]) -> None:
    """Raise RecordingError if the object was rewritten: the bytes may mix two versions."""
    if _version_of(row["uri"], options)[0] != opened.version:
        raise RecordingError(ErrorType.CHANGED_WHILE_READ, "rewritten while it was read; run again")


def _decode_group(
    rows: Sequence[Row],
    opened: _Opened,
    config: AudioConfig,
    options: Mapping[str, Any],
    run_id: str,
    measure: bool,
) -> Iterator[Row]:
    """The windows of rows of one file and channel: what one pass gives, then the rest alone."""
    alone = dict(enumerate(rows))
    if len(rows) > 1 and opened.source is not None and not opened.error:
        stretches = [_stretch_of(row) for row in rows]
        possible = [place for place, one in enumerate(stretches) if one is not None]
        wanted = [one for one in stretches if one is not None]
        together = decode_together(opened.source, config, wanted, measure=measure)
        for index, windows in together:
            row = alone.pop(possible[index])
            yield from _decode_one(row, opened, options, run_id, iter(windows))
    while alone:
        row = alone.pop(next(iter(alone)))
        of_row = _decode_alone(row, opened, config, measure, is_last=not alone)
        yield from _decode_one(row, opened, options, run_id, of_row)


def _decode_alone(
    row: Row, opened: _Opened, config: AudioConfig, measure: bool, *, is_last: bool
) -> Iterator[Window]:
    # Closed before an error becomes a row: the file may be what filled the memory.
    with opened.closing if is_last else nullcontext():
        if opened.source is None or opened.error:
            raise opened.error or RuntimeError("not opened")
        wanted = (row["offset_s"], row["length_s"], row["channel"])
        yield from decode_source(opened.source, config, *wanted, measure=measure)


def _stretch_of(row: Row) -> Stretch | None:
    try:
        return Stretch(row["offset_s"], row["length_s"], row["channel"])
    except RecordingError:  # a bad range; decoded alone, it tells its error
        return None


def _decode_one(
    row: Row,
    opened: _Opened,
    options: Mapping[str, Any],
    run_id: str,
    windows: Iterator[Window],
) -> Iterator[Row]:
    base = {
        **{name: row[name] for name, _ in PLANNED_FIELDS},
        "uri": public_uri(row["uri"]),  # without credentials
        "version": opened.version,
        "bytes": opened.n_bytes,
        "attempt_id": _attempt_id(run_id, row["work_key"], opened.version),
        "window_index": 0,
        "n_windows": 1,
        "window_start_s": row["offset_s"],
        "duration_s": 0.0,
        "sample_rate_hz": 0,
        "channels": 0,
        "codec": "",
        "warning": "",
        "gap_s": 0.0,
        "start_offset_s": 0.0,
        "audio_streams": 0,
        "audio_stream": 0,
        "is_only": False,
        "measures": [],
        "levels": b"",
        "waveform": b"",
    }
    if row["error_stage"]:
        yield base
        return
    try:
        for window in windows:
            is_read_now = opened.source is not None and not opened.source.is_in_memory
            if window.is_last and is_read_now and split_member(row["uri"]) is None:
                _check_unchanged(row, opened, options)
            base |= {
                "window_index": window.index,
                "n_windows": window.index + 1 if window.is_last else 0,
                "window_start_s": window.start_s,
                "duration_s": len(window.waveform) / SAMPLE_RATE,
                "sample_rate_hz": window.sample_rate_hz,
                "channels": window.channels,
                "codec": window.codec,
                "warning": window.warning,
                "gap_s": window.gap_s,
                "start_offset_s": window.start_offset_s,
                "audio_streams": window.n_audio_streams,
                "audio_stream": window.audio_stream,
                "channel": window.channel,
                "is_only": window.is_only,
                "measures": [asdict(window.measures)] if window.measures else [],
                "levels": window.levels.tobytes(),
                "waveform": window.waveform.tobytes(),
            }
            yield dict(base)
            base |= {"window_index": window.index + 1, "n_windows": window.index + 2}
    except (Exception, SystemExit) as error:
        # Earlier windows stay valid; this row is the recording's last window and has the reason.
        found = error.found if isinstance(error, RecordingError) else {}
        nothing = {"duration_s": 0.0, "levels": b"", "waveform": b""}
        of_error = nothing | {"channel": row["channel"], **found}
        yield base | of_error | describe_error("decode", error)


def _attempt_id(run_id: str, work_key: str, version: str) -> str:
    """One id for all decodings that give the same windows.

    If a worker dies, Ray runs its generator again and drops the windows that it already has. So the
    windows of both runs must have one id: a hash of what was read, not of when.
    """
    text = f"{run_id}\x1f{work_key}\x1f{version}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _version_of(uri: str, options: Mapping[str, Any]) -> tuple[str, int]:
    """The version and size that the store reports now; the plan may be hours old."""
    try:
        return look_up_version(uri, options)
    except StoreError as error:
        raise RecordingError(ErrorType.STORE_UNAVAILABLE, str(error)) from error
