"""Planned rows to windows of waveform: the first stage. Knows files; nothing of speech."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.arrow import Row
from pipeline.audio.read_ahead import map_ahead
from pipeline.audio.sources import Source, open_source
from pipeline.audio.windows import Window, decode_source
from pipeline.config import AudioConfig
from pipeline.errors import ErrorType, RecordingError, StoreError
from pipeline.schema import PLANNED_FIELDS, SAMPLE_RATE, WINDOW
from pipeline.stages.error_rows import describe_error
from pipeline.storage.redaction import public_uri
from pipeline.storage.versions import look_up_versions

_AHEAD = 8  # files that a decode task opens in advance; each takes up to 32 MB


def decode_recordings(
    batch: pa.Table, *, config: AudioConfig, options: Mapping[str, Any], run_id: str
) -> Iterator[pa.Table]:
    """Planned rows to window rows, one at a time, so that only one window is in memory.

    The next files are opened meanwhile, because opening an object of a store is mostly waiting.
    """
    rows = batch.to_pylist(maps_as_pydicts="strict")
    with ThreadPoolExecutor(_AHEAD) as pool:
        opened = map_ahead(pool, lambda row: _open(row, config, options), rows, _AHEAD)
        for row, recording in zip(rows, opened, strict=True):
            for window in _decode_one(row, recording, config, options, run_id):
                yield pa.Table.from_pylist([window], schema=WINDOW)


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
        opened.version, opened.n_bytes = _version_of(row["uri"], options)
        opened.source = opened.closing.enter_context(open_source(row["uri"], config, options))
        opened.n_bytes = opened.n_bytes or opened.source.size  # a web server may not announce it
        if opened.source.is_in_memory:
            _check_unchanged(row, opened, options)
    except (Exception, SystemExit) as error:
        opened.error = error
    return opened


def _check_unchanged(row: Row, opened: _Opened, options: Mapping[str, Any]) -> None:
    """Raise RecordingError if the object was rewritten: the bytes may mix two versions."""
    if _version_of(row["uri"], options)[0] != opened.version:
        raise RecordingError(ErrorType.CHANGED_WHILE_READ, "rewritten while it was read; run again")


def _decode_one(
    row: Row, opened: _Opened, config: AudioConfig, options: Mapping[str, Any], run_id: str
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
        "waveform": b"",
    }
    if row["error_stage"]:
        yield base
        return
    try:
        for window in _windows(row, opened, config, options):
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
                "waveform": window.waveform.tobytes(),
            }
            yield dict(base)
            base |= {"window_index": window.index + 1, "n_windows": window.index + 2}
    except (Exception, SystemExit) as error:
        # Earlier windows stay valid; this row is the recording's last window and has the reason.
        yield {**base, "duration_s": 0.0, "waveform": b"", **describe_error("decode", error)}


def _windows(
    row: Row, opened: _Opened, config: AudioConfig, options: Mapping[str, Any]
) -> Iterator[Window]:
    with opened.closing:
        if opened.source is None or opened.error:
            raise opened.error or RuntimeError("not opened")
        for window in decode_source(opened.source, config, row["offset_s"], row["length_s"]):
            if window.is_last and not opened.source.is_in_memory:
                _check_unchanged(row, opened, options)
            yield window


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
        return look_up_versions([uri], options)[0]
    except StoreError as error:
        raise RecordingError(ErrorType.STORE_UNAVAILABLE, str(error)) from error
