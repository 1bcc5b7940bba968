"""Files to rows as they stand there: parquet, JSON lines, CSV, packed or not. Knows no meaning.

What a file is called does not matter, only its bytes do. A row that cannot be read is kept as its
number and the reason; a file that is no manifest at all is refused by name.
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

ROWS = 1 << 16  # rows handled at a time: 15 MiB, whose memory the next ones find again
_MAX_TEXT = 16 << 30  # bytes of an unpacked manifest; a bomb stops here
_BLOCK = 16 << 20  # bytes read at a time
_MAX_LINE = 1 << 20  # bytes of one line of JSON
_BROKEN_HEAD = 1000  # more broken rows than not among the first ones: this is not a manifest


@dataclass(frozen=True, slots=True)
class Raw:
    """Rows of a manifest file as they were read."""

    table: pa.Table
    numbers: Integers  # (table.num_rows,): which row of the file each one is, from 1
    broken: Sequence[tuple[int, str]] = ()  # the rows that are not in the table, and why


def find_parts(fs: Any, path: str, uri: str) -> tuple[list[str], bool]:
    """Canonical addresses of the files that `uri` stands for, and whether they are audio."""
    if isinstance(fs, LocalFileSystem):
        path = os.path.abspath(path)  # without "..", which looks like a hidden name below
    if fs.isdir(path):
        parts = [part for part in sorted(fs.find(path)) if _is_visible(part, path)]
        audio = [part for part in parts if part.lower().endswith(AUDIO_SUFFIXES)]
        if not audio:
            found = ", ".join(posixpath.basename(part) for part in parts[:5]) or "nothing"
            hint = "; to use a manifest in it, name that file" if parts else ""
            raise ManifestError(f"{uri}: a directory without audio; it holds {found}{hint}")
        return [_address(fs, part) for part in audio], True
    if fs.isfile(path):
        parts = [path]
    elif not any(sign in path for sign in "*?["):
        raise ManifestError(f"{uri}: no such file or directory")
    else:
        parts = sorted(part for part in fs.glob(path) if not part.endswith("/"))
    if not parts:
        raise ManifestError(f"{uri}: matches no file")
    is_audio = {part.lower().endswith(AUDIO_SUFFIXES) for part in parts}
    if len(is_audio) > 1:
        raise ManifestError(f"{uri}: matches audio and other files; name one kind")
    return [_address(fs, part) for part in parts], is_audio.pop()


def _is_visible(part: str, root: str) -> bool:
    inside = part[len(posixpath.commonpath([part, root])) :] if part.startswith(root) else part
    return not part.endswith("/") and not re.search(r"(^|/)\.", inside)


def _address(fs: Any, part: str) -> str:
    return canonical_uri(fs.unstrip_protocol(part))


def read_raw(fs: Any, address: str) -> Iterator[Raw]:
    """The rows of one file, in order, in one or more pieces. Raises ManifestError, naming it."""
    try:
        for raw in _read(fs, address):
            _check_columns(raw.table.column_names)
            yield raw
    except ManifestError as error:
        raise ManifestError(f"{address}: {error}") from error
    except Exception as error:  # stores and pyarrow fail in as many ways as files are damaged
        reason = f"{type(error).__name__}: {error}"
        raise ManifestError(
            f"{address}: cannot be read, or is damaged or cut short: {reason}"
        ) from error


def as_text(value: Any) -> str | None:
    """Strings as they are, null as None, all else as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):  # as json would, in a third of the time
        return repr(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _read(fs: Any, address: str) -> Iterator[Raw]:
    path = fs._strip_protocol(address)
    with fs.open(path, "rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic == b"PAR1":
            yield from _read_parquet(path if isinstance(fs, LocalFileSystem) else file)
            return
        data = _unpack(file, magic)
    if data.startswith(b"PAR1"):
        yield from _read_parquet(pa.BufferReader(data))
    else:
        yield _read_text(data)


def _check_columns(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(f"two columns are called {twice[0]!r}; rename one")
    if "audio" not in names:
        found = ", ".join(repr(name) for name in names[:20])
        near = difflib.get_close_matches("audio", names, n=1, cutoff=0.3)
        near = near or [name for name in names if re.search("path|uri|url|file|wav", name, re.I)]
        hint = f"; rename {near[0]!r} (nearest) to 'audio'" if near else ""
        raise ManifestError(f"no column 'audio'; found {found or 'none'}{hint}")


def _unpack(file: Any, magic: bytes) -> bytes:
    if magic[:2] == b"\x1f\x8b":
        file = pa.CompressedInputStream(file, "gzip")
    elif magic[:2] == b"\x28\xb5":
        file = pa.CompressedInputStream(file, "zstd")
    # Block by block: pyarrow sets aside as much memory as it is asked for, 16 GiB at once.
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
        raise ManifestError("compressed twice; unpack it once")
    return data


def _read_parquet(source: Any) -> Iterator[Raw]:
    """A few row groups at a time. A Python file is read without threads: see tables.read_files."""
    file = pq.ParquetFile(source, pre_buffer=False)
    n_rows = 0
    yield Raw(file.schema_arrow.empty_table(), np.arange(0))  # of a file without rows, this is all
    for batch in file.iter_batches(ROWS, use_threads=isinstance(source, str)):
        table = pa.Table.from_batches([batch])
        table.validate(full=True)  # parquet may carry text that is not UTF-8
        yield Raw(table, np.arange(n_rows, n_rows + table.num_rows) + 1)
        n_rows += table.num_rows


def _read_text(data: bytes) -> Raw:
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError("this is UTF-16; save it as UTF-8")
    if b"\0" in data[:4096]:
        raise ManifestError(f"neither parquet, JSON lines nor CSV; starts with {data[:8]!r}")
    start = data[:4096].lstrip()
    if not start:
        raise ManifestError("empty; expected parquet, JSON lines or CSV with a column 'audio'")
    if start.startswith(b"["):
        raise ManifestError("a JSON array; write one object per line instead (JSON lines)")
    raw = _read_json_lines(data) if start.startswith(b"{") else _read_csv(data)
    n_broken = sum(number <= _BROKEN_HEAD for number, _ in raw.broken)
    if 2 * n_broken > min(_BROKEN_HEAD, raw.table.num_rows + len(raw.broken)):
        raise ManifestError(f"most rows are broken: {raw.broken[0][1]}")
    return raw


def _read_json_lines(data: bytes) -> Raw:
    """Python's json, a line at a time: some 15 us a row, and exact.

    pyarrow.json would turn date-like strings into timestamps, integers beyond 64 bits into floats
    (two ids become one), and refuse the whole file for one broken line.
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
    return Raw(table, np.asarray(numbers, np.int64), broken)


def _parse_line(line: bytes) -> Mapping[str, str | None]:
    if len(line) > _MAX_LINE:
        raise ValueError(f"{len(line)} bytes in one line; at most {_MAX_LINE} are read")
    value = json.loads(line, object_pairs_hook=_unique)
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    row = {key: as_text(item) for key, item in value.items()}
    if b"\\ud" in line.lower():  # a lone surrogate is valid JSON and no text
        json.dumps(row, ensure_ascii=False).encode()
    return row


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object's keys and values. Two values for one key are legal JSON and no answer."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two values for {twice!r}")
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
        raise ManifestError("not UTF-8; save it as UTF-8") from error


def _read_csv(data: bytes) -> Raw:
    """All columns as text; the delimiter is the most frequent of , ; and tab in the header."""
    _check_utf8(data)  # pyarrow would lose a broken row that is not UTF-8
    data = data if b"\n" in data else data + b"\n"  # pyarrow calls a bare header an empty file
    header = data[: data.index(b"\n")]
    delimiter = max((",", ";", "\t"), key=lambda sign: header.count(sign.encode()))
    broken: list[tuple[int, str]] = []

    def skip(row: Any) -> Literal["skip"]:
        number = row.number - 1  # pyarrow counts the header too
        wanted = f"{row.actual_columns} fields instead of {row.expected_columns}"
        broken.append((number, f"row {number} has {wanted}"))
        return "skip"

    try:
        names = next(csv.reader(TextIOWrapper(BytesIO(data), "utf-8"), delimiter=delimiter))
        table = pyarrow.csv.read_csv(
            BytesIO(data),
            # One thread: only then does pyarrow tell the number of a broken row.
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
    return Raw(table, np.setdiff1d(all_numbers, [number for number, _ in broken]), broken)
