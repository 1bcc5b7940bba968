"""Read CSV from blocks of bytes, a block at a time. Knows no column's meaning.

The memory does not grow with the file: a block is a few megabytes, and so is the longest row.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipeline.arrow import Integers
from pipeline.config import ManifestFormat
from pipeline.errors import ManifestError
from pipeline.manifest.columns import check_audio
from pipeline.manifest.formats import Format, choose, describe, with_prompts

ROWS = 1 << 16  # rows handled at a time: 15 MiB, and the next ones reuse this memory
_MAX_RECORD = 8 << 20  # bytes of one row of CSV


@dataclass(frozen=True, slots=True)
class RawRows:
    """Rows of a manifest file as they were read."""

    table: pa.Table
    numbers: Integers  # (table.num_rows,): the number of each row in the file, from 1
    broken: Sequence[tuple[int, str]] = ()  # numbers of the rows not in `table`, and the reason
    notes: Sequence[str] = ()  # what a user should know of the file
    starts: Integers | None = None  # (table.num_rows,): where each recording is in its archive


def as_text(value: Any) -> str | None:
    """A string unchanged, None for null and NaN, anything else as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):  # the same text as from json, in a third of the time
        return None if math.isnan(value) else repr(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def read_csv(blocks: Iterator[bytes], wanted: ManifestFormat = "auto") -> Iterator[RawRows]:
    """All columns as text. The delimiter is the most frequent of , ; and tab in the header."""
    first = next(blocks).lstrip(b"\r\n")
    while b"\n" not in first and len(first) < _MAX_RECORD and (more := next(blocks, b"")):
        first += more  # the header is whole
    end = b"\n" if b"\n" in first else b"\r"
    header = first.partition(end)[0]
    delimiter = max((",", ";", "\t"), key=lambda character: header.count(character.encode()))
    head: _Header | None = None
    n_rows = 0
    for records in _records(_chain(first, blocks), delimiter.encode(), end):
        _check_utf8(records)  # pyarrow would drop a broken row that is not UTF-8
        if head is None:
            head, records = _header(records, delimiter, wanted)
            none = pa.table({name: pa.array([], pa.string()) for name in head.names})
            yield RawRows(none, _NONE, notes=head.notes)
        raw = _parse_csv(records, head.names, delimiter, n_rows)
        n_rows += raw.table.num_rows + len(raw.broken)
        yield replace(raw, table=with_prompts(head.form.name, raw.table))


_NONE: Integers = np.arange(0)


def _chain(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from blocks


@dataclass(frozen=True, slots=True)
class _Header:
    """The columns of a CSV under our own names."""

    form: Format
    names: Sequence[str]
    notes: Sequence[str]


def _header(records: bytes, delimiter: str, wanted: ManifestFormat) -> tuple[_Header, bytes]:
    """The header, and the rows behind it."""
    text = StringIO(records.decode(), newline="")
    try:
        given = next(csv.reader(iter(text.readline, ""), delimiter=delimiter), [])
    except csv.Error as error:
        raise ManifestError(f"cannot be read as CSV: {error}") from error
    if repeated := sorted({name for name in given if given.count(name) > 1}):
        raise ManifestError(f"two columns have the name {repeated[0]!r}; rename one")
    form = choose(given, wanted)
    names = form.names(given)
    check_audio(list(names.values()))
    head = _Header(form, list(names.values()), describe(form, names))
    return head, records[len(text.getvalue()[: text.tell()].encode()) :]


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
