"""Read the rows of parquet, JSON lines and CSV files. Knows nothing of what the columns mean.

The format is detected from the bytes of a file, not from its name; CSV and JSON lines may be
compressed. A row that cannot be read is kept as its number and the reason. A file that is not a
manifest raises an error that names the file.
"""

import csv
import difflib
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipeline.arrow import Integers
from pipeline.errors import ManifestError
from pipeline.manifest.access import canonical_uri

AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".mp4", ".m4v", ".mov"),
    *(".webm", ".mkv", ".mka", ".wma", ".amr", ".awb", ".3gp", ".aif", ".aiff", ".aifc", ".au"),
    *(".caf", ".w64", ".rf64", ".sph", ".avi", ".flv", ".ts", ".mpg", ".mpeg", ".ac3", ".wv"),
)

ROWS = 1 << 16  # rows handled at a time: 15 MiB, and the next ones reuse this memory
_MAX_TEXT = 16 << 30  # bytes of a decompressed manifest; a limit for decompression bombs
_BLOCK = 16 << 20  # bytes read at a time
_MAX_LINE = 1 << 20  # bytes of one line of JSON
_FIRST_ROWS = 1000  # if most of these are broken, the file is not a manifest


@dataclass(frozen=True, slots=True)
class RawRows:
    """Rows of a manifest file as they were read."""

    table: pa.Table
    numbers: Integers  # (table.num_rows,): the number of each row in the file, from 1
    broken: Sequence[tuple[int, str]] = ()  # numbers of the rows not in `table`, and the reason


def find_files(fs: Any, path: str, uri: str) -> tuple[list[str], bool]:
    """Canonical URIs of the files that `uri` stands for, and whether they are audio."""
    if isinstance(fs, LocalFileSystem):
        path = os.path.abspath(path)  # removes "..", which _is_visible would take for hidden
    if fs.isdir(path):
        files = [file for file in sorted(fs.find(path)) if _is_visible(file, path)]
        audio = [file for file in files if file.lower().endswith(AUDIO_SUFFIXES)]
        if not audio:
            found = ", ".join(posixpath.basename(file) for file in files[:5]) or "nothing"
            hint = "; to use a manifest in it, name that file" if files else ""
            raise ManifestError(f"{uri}: a directory without audio; it contains {found}{hint}")
        return [_uri_of(fs, file) for file in audio], True
    if fs.isfile(path):
        files = [path]
    elif not any(wildcard in path for wildcard in "*?["):
        raise ManifestError(f"{uri}: no such file or directory")
    else:
        files = sorted(file for file in fs.glob(path) if not file.endswith("/"))
    if not files:
        raise ManifestError(f"{uri}: matches no file")
    is_audio = {file.lower().endswith(AUDIO_SUFFIXES) for file in files}
    if len(is_audio) > 1:
        raise ManifestError(f"{uri}: matches audio and other files; name only one kind")
    return [_uri_of(fs, file) for file in files], is_audio.pop()


def _is_visible(path: str, root: str) -> bool:
    inside = path[len(posixpath.commonpath([path, root])) :] if path.startswith(root) else path
    return not path.endswith("/") and not re.search(r"(^|/)\.", inside)


def _uri_of(fs: Any, path: str) -> str:
    return canonical_uri(fs.unstrip_protocol(path))


def read_raw(fs: Any, uri: str) -> Iterator[RawRows]:
    """The rows of one file, in order, in one or more pieces. Raises ManifestError with `uri`."""
    try:
        for raw in _read(fs, uri):
            _check_columns(raw.table.column_names)
            yield raw
    except ManifestError as error:
        raise ManifestError(f"{uri}: {error}") from error
    except Exception as error:  # stores and pyarrow raise many types for damaged files
        reason = f"{type(error).__name__}: {error}"
        raise ManifestError(
            f"{uri}: cannot be read, or is damaged or cut short: {reason}"
        ) from error


def as_text(value: Any) -> str | None:
    """A string unchanged, None for null, anything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):  # the same text as from json, in a third of the time
        return repr(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _read(fs: Any, uri: str) -> Iterator[RawRows]:
    path = fs._strip_protocol(uri)
    with fs.open(path, "rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic == b"PAR1":
            yield from _read_parquet(path if isinstance(fs, LocalFileSystem) else file)
            return
        data = _decompress(file, magic)
    if data.startswith(b"PAR1"):
        yield from _read_parquet(pa.BufferReader(data))
    else:
        yield _read_text(data)


def _check_columns(names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ManifestError(f"two columns have the name {repeated[0]!r}; rename one")
    if "audio" not in names:
        found = ", ".join(repr(name) for name in names[:20])
        near = difflib.get_close_matches("audio", names, n=1, cutoff=0.3)
        near = near or [name for name in names if re.search("path|uri|url|file|wav", name, re.I)]
        hint = f"; rename {near[0]!r} (nearest) to 'audio'" if near else ""
        raise ManifestError(f"no column 'audio'; found {found or 'none'}{hint}")


def _decompress(file: Any, magic: bytes) -> bytes:
    if magic[:2] == b"\x1f\x8b":
        file = pa.CompressedInputStream(file, "gzip")
    elif magic[:2] == b"\x28\xb5":
        file = pa.CompressedInputStream(file, "zstd")
    # In blocks: pyarrow allocates as much memory as the read asks for, here 16 GiB.
    blocks: list[bytes] = []
    n_bytes = 0
    while block := file.read(_BLOCK):
        blocks.append(block)
        n_bytes += len(block)
        if n_bytes > _MAX_TEXT:
            limit = f"{_MAX_TEXT >> 30} GiB"
            raise ManifestError(f"more than {limit} of text; split it, or use parquet")
    data = b"".join(blocks)
    if data[:2] in (b"\x1f\x8b", b"\x28\xb5"):
        raise ManifestError("compressed twice; decompress it once")
    return data


def _read_parquet(source: Any) -> Iterator[RawRows]:
    """Read a few row groups at a time; a Python file without threads, see tables.parquet."""
    file = pq.ParquetFile(source, pre_buffer=False)
    n_rows = 0
    yield RawRows(file.schema_arrow.empty_table(), np.arange(0))  # for files without rows
    for batch in file.iter_batches(ROWS, use_threads=isinstance(source, str)):
        table = pa.Table.from_batches([batch])
        table.validate(full=True)  # parquet may contain text that is not UTF-8
        yield RawRows(table, np.arange(n_rows, n_rows + table.num_rows) + 1)
        n_rows += table.num_rows


def _read_text(data: bytes) -> RawRows:
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError("the text is UTF-16; save it as UTF-8")
    if b"\0" in data[:4096]:
        raise ManifestError(f"neither parquet, JSON lines nor CSV; starts with {data[:8]!r}")
    start = data[:4096].lstrip()
    if not start:
        raise ManifestError("it is empty; expected parquet, JSON lines or CSV, column 'audio'")
    if start.startswith(b"["):
        raise ManifestError("it is a JSON array; write one object per line (JSON lines)")
    raw = _read_json_lines(data) if start.startswith(b"{") else _read_csv(data)
    n_broken = sum(number <= _FIRST_ROWS for number, _ in raw.broken)
    if 2 * n_broken > min(_FIRST_ROWS, raw.table.num_rows + len(raw.broken)):
        raise ManifestError(f"most rows are broken: {raw.broken[0][1]}")
    return raw


def _read_json_lines(data: bytes) -> RawRows:
    """Parse each line with Python's json: about 15 us per row, and exact.

    pyarrow.json would turn date-like strings into timestamps, integers beyond 64 bits into floats
    (two ids could become equal), and would fail for the whole file if one line is broken.
    """
    tables: list[pa.Table] = []
    numbers: list[int] = []
    broken: list[tuple[int, str]] = []
    rows: list[Mapping[str, str | None]] = []
    for number, line in enumerate(BytesIO(data), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_parse_line(line))
            numbers.append(number)
        except (ValueError, RecursionError) as error:
            broken.append((number, f"row {number} is not a JSON object: {error}"))
        if len(rows) == ROWS:
            tables.append(_text_table(rows))
            rows = []
    tables.append(_text_table(rows))
    table = pa.concat_tables(tables, promote_options="default")
    return RawRows(table, np.asarray(numbers, np.int64), broken)


def _parse_line(line: bytes) -> Mapping[str, str | None]:
    if len(line) > _MAX_LINE:
        raise ValueError(f"{len(line)} bytes in one line; at most {_MAX_LINE} are allowed")
    value = json.loads(line, object_pairs_hook=_reject_repeated_keys)
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    row = {key: as_text(item) for key, item in value.items()}
    if b"\\ud" in line.lower():  # a single surrogate is valid JSON, but not valid text
        json.dumps(row, ensure_ascii=False).encode()
    return row


def _reject_repeated_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict. JSON permits two values for one key; here that is an error."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two values for {repeated!r}")
    return value


def _text_table(rows: Sequence[Mapping[str, str | None]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table(
        {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    )


def _check_utf8(data: bytes) -> None:
    try:
        pa.array([data], pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid as error:
        raise ManifestError("the text is not UTF-8; save it as UTF-8") from error


def _read_csv(data: bytes) -> RawRows:
    """All columns as text. The delimiter is the most frequent of , ; and tab in the header."""
    _check_utf8(data)  # pyarrow would drop a broken row that is not UTF-8
    data = data if b"\n" in data else data + b"\n"  # else pyarrow reports a header as an empty file
    header = data[: data.index(b"\n")]
    delimiter = max((",", ";", "\t"), key=lambda character: header.count(character.encode()))
    broken: list[tuple[int, str]] = []

    def skip(row: Any) -> Literal["skip"]:
        number = row.number - 1  # pyarrow counts the header too
        fields = f"{row.actual_columns} fields instead of {row.expected_columns}"
        broken.append((number, f"row {number} has {fields}"))
        return "skip"

    try:
        names = next(csv.reader(TextIOWrapper(BytesIO(data), "utf-8"), delimiter=delimiter))
        table = pyarrow.csv.read_csv(
            BytesIO(data),
            # One thread: with more, pyarrow does not give the number of a broken row.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=16 << 20),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (pa.ArrowInvalid, csv.Error) as error:
        raise ManifestError(f"cannot be read as CSV: {error}") from error
    n_rows = table.num_rows + len(broken)
    all_numbers = np.arange(1, n_rows + 1)
    return RawRows(table, np.setdiff1d(all_numbers, [number for number, _ in broken]), broken)
