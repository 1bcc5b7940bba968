"""Read JSON lines and CSV from blocks of bytes, a block at a time. Knows no column's meaning.

The memory does not grow with the file: a block is a few megabytes, and so is the longest row.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipeline.arrow import Integers
from pipeline.errors import ManifestError
from pipeline.manifest.columns import check_audio, own_names

ROWS = 1 << 16  # rows handled at a time: 15 MiB, and the next ones reuse this memory
_PIECE = 16 << 20  # bytes of JSON handled at a time, where rows are long
_MAX_LINE = 1 << 20  # bytes of one line of JSON
_MAX_RECORD = 8 << 20  # bytes of one row of CSV
_MAX_SHAPES = 10_000  # different sets of keys in a JSON file whose names are kept in memory


@dataclass(frozen=True, slots=True)
class RawRows:
    """Rows of a manifest file as they were read."""

    table: pa.Table
    numbers: Integers  # (table.num_rows,): the number of each row in the file, from 1
    broken: Sequence[tuple[int, str]] = ()  # numbers of the rows not in `table`, and the reason
    notes: Sequence[str] = ()  # what a user should know of the file


def as_text(value: Any) -> str | None:
    """A string unchanged, None for null and NaN, anything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):  # the same text as from json, in a third of the time
        return None if math.isnan(value) else repr(value)
    return json.dumps(value, ensure_ascii=False, default=str)


# ------------------------------------------------------------------------ JSON lines


class _Piece:
    """Rows of a JSON file until they are given away."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, str | None]] = []
        self.numbers: list[int] = []
        self.broken: list[tuple[int, str]] = []
        self.n_bytes = 0

    def is_full(self) -> bool:
        return len(self.rows) + len(self.broken) >= ROWS or self.n_bytes >= _PIECE

    def raw(self, *, is_first: bool) -> RawRows:
        """The rows. One of the first must have `audio`; later, a row without it is an error."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        if is_first and self.rows:
            check_audio(names)
        table = _text_table(self.rows, names)
        return RawRows(table, np.asarray(self.numbers, np.int64), self.broken)


def read_json_lines(blocks: Iterator[bytes]) -> Iterator[RawRows]:
    """Parse each line with Python's json: about 15 us per row, and exact.

    pyarrow.json would turn date-like strings into timestamps, integers beyond 64 bits into floats
    (two ids could become equal), and would fail for the whole file if one line is broken.
    """
    piece, is_first = _Piece(), True
    shapes: dict[tuple[str, ...], dict[str, str]] = {}
    for number, line in enumerate(_lines(blocks), start=1):
        if not line.strip():
            continue
        piece.n_bytes += len(line)
        try:
            row = _parse_line(line)
        except (ValueError, RecursionError) as error:
            piece.broken.append((number, f"row {number} is not a JSON object: {error}"))
        else:
            piece.rows.append(_renamed(row, number, shapes))
            piece.numbers.append(number)
        if piece.is_full():
            yield piece.raw(is_first=is_first)
            piece, is_first = _Piece(), False
    if is_first or piece.rows or piece.broken:
        yield piece.raw(is_first=is_first)


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines without their ends; one that is too long is cut behind its first _MAX_LINE bytes."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        rest = rest[: _MAX_LINE + 1]
        yield from whole
    yield rest


def _renamed(
    row: Mapping[str, str | None], number: int, shapes: dict[tuple[str, ...], dict[str, str]]
) -> Mapping[str, str | None]:
    """The row under our own names; `shapes` keeps what is known of its set of keys."""
    keys = tuple(row)
    names = shapes.get(keys)
    if names is None:
        try:
            names = own_names(keys)
        except ManifestError as error:
            raise ManifestError(f"row {number}: {error}") from error
        if len(shapes) < _MAX_SHAPES:
            shapes[keys] = names
    return {names[key]: value for key, value in row.items()}


def _parse_line(line: bytes) -> Mapping[str, str | None]:
    if len(line) > _MAX_LINE:
        raise ValueError(f"more than {_MAX_LINE} bytes in one line")
    value = json.loads(line, object_pairs_hook=_reject_repeated_keys)
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    if isinstance(value.get("audio"), dict | list):
        raise ValueError("audio is not a path; audio inside a manifest is not read")
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


def _text_table(rows: Sequence[Mapping[str, str | None]], names: Sequence[str]) -> pa.Table:
    names = names or ["audio"]  # only rows {}: a table needs a column to have rows
    return pa.table(
        {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    )


# ------------------------------------------------------------------------------- CSV


def read_csv(blocks: Iterator[bytes]) -> Iterator[RawRows]:
    """All columns as text. The delimiter is the most frequent of , ; and tab in the header."""
    first = next(blocks).lstrip(b"\r\n")
    while b"\n" not in first and len(first) < _MAX_RECORD and (more := next(blocks, b"")):
        first += more  # the header is whole
    end = b"\n" if b"\n" in first else b"\r"
    header = first.partition(end)[0]
    delimiter = max((",", ";", "\t"), key=lambda character: header.count(character.encode()))
    names: list[str] = []
    n_rows = 0
    for records in _records(_chain(first, blocks), delimiter.encode(), end):
        _check_utf8(records)  # pyarrow would drop a broken row that is not UTF-8
        if not names:
            names, records = _header(records, delimiter)
            yield RawRows(pa.table({name: pa.array([], pa.string()) for name in names}), _NONE)
        raw = _parse_csv(records, names, delimiter, n_rows)
        n_rows += raw.table.num_rows + len(raw.broken)
        yield raw


_NONE: Integers = np.arange(0)


def _chain(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from blocks


def _header(records: bytes, delimiter: str) -> tuple[list[str], bytes]:
    """The columns under our own names, and the rows behind the header."""
    text = StringIO(records.decode(), newline="")
    try:
        given = next(csv.reader(iter(text.readline, ""), delimiter=delimiter), [])
    except csv.Error as error:
        raise ManifestError(f"cannot be read as CSV: {error}") from error
    if repeated := sorted({name for name in given if given.count(name) > 1}):
        raise ManifestError(f"two columns have the name {repeated[0]!r}; rename one")
    names = list(own_names(given).values())
    check_audio(names)
    return names, records[len(text.getvalue()[: text.tell()].encode()) :]


def _parse_csv(records: bytes, names: Sequence[str], delimiter: str, n_before: int) -> RawRows:
    """Whole rows of CSV, of which `n_before` precede in the file."""
    broken: list[tuple[int, str]] = []

    def skip(row: Any) -> Literal["skip"]:
        number = n_before + row.number
        fields = f"{row.actual_columns} fields instead of {row.expected_columns}"
        broken.append((number, f"row {number} has {fields}"))
        return "skip"

    if not records.strip(b"\r\n"):
        return RawRows(pa.table({name: pa.array([], pa.string()) for name in names}), _NONE)
    try:
        table = pyarrow.csv.read_csv(
            BytesIO(records),
            # One thread: with more, pyarrow does not give the number of a broken row.
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=len(records) + 1, column_names=list(names)
            ),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except pa.ArrowInvalid as error:
        raise ManifestError(f"cannot be read as CSV: {error}") from error
    numbers = np.arange(1, table.num_rows + len(broken) + 1) + n_before
    return RawRows(table, np.setdiff1d(numbers, [number for number, _ in broken]), broken)


def _check_utf8(data: bytes) -> None:
    try:
        pa.array([data], pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid as error:
        raise ManifestError("the text is not UTF-8; save it as UTF-8") from error


def _records(blocks: Iterator[bytes], delimiter: bytes, end: bytes) -> Iterator[bytes]:
    """The text in pieces that end where a row ends; the first one holds the header.

    A quote that is never closed, or is closed by the next quote of another row, hides the rows
    between them. Raises ManifestError with its line.
    """
    quotes = _Quotes(delimiter, end)
    rest, n_lines = b"", 0
    for block in blocks:
        data = rest + block
        cut = quotes.last_end(data, n_lines, is_last=False)
        if len(data) - cut > _MAX_RECORD:
            line = n_lines + data.count(end, 0, cut) + 1
            size = f"{_MAX_RECORD >> 20} MiB"
            raise ManifestError(
                f"line {line}: a row of more than {size}; a quote may be missing there"
            )
        if cut:
            yield data[:cut]
        n_lines += data.count(end, 0, cut)
        rest = data[cut:]
    quotes.last_end(rest, n_lines, is_last=True)
    if rest:
        yield rest + end


class _Quotes:
    """Finds quoted fields: a quote opens only at the start of a field (RFC 4180, as pyarrow)."""

    def __init__(self, delimiter: bytes, end: bytes) -> None:
        self._end = end
        self._opening = re.compile(rb"(?:^|[\r\n" + re.escape(delimiter) + rb'])"')
        self._closing = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
        self._behind = {b"", delimiter, b"\r", b"\n"}

    def last_end(self, data: bytes, n_lines: int, *, is_last: bool) -> int:
        """The position behind the last row that is whole."""
        cut = position = 0
        while opened := self._opening.search(data, position):
            start = opened.end()
            cut = max(cut, data.rfind(self._end, position, start) + 1)
            closed = self._closing.match(data, start)
            if closed is None and is_last:
                raise self._fault(data, start, n_lines, "never closed")
            if closed is None or (closed.end() == len(data) and not is_last):
                return cut
            position = closed.end()
            is_torn = data[position : position + 1] not in self._behind
            if is_torn and data.find(self._end, start, position) >= 0:
                raise self._fault(data, start, n_lines, "closed in the middle of a later row")
        return max(cut, data.rfind(self._end, position) + 1)

    def _fault(self, data: bytes, start: int, n_lines: int, what: str) -> ManifestError:
        line = n_lines + data.count(self._end, 0, start) + 1
        return ManifestError(
            f"line {line}: a quote opens a field and is {what}; "
            'close it, or write "" for a quote inside a quoted field'
        )
