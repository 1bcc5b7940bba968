"""Read JSON lines from blocks of bytes, a block at a time. Knows no column's meaning.

The memory does not grow with the file: a block is a few megabytes, and so is the longest row.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import ManifestFormat
from pipeline.errors import ManifestError
from pipeline.manifest.columns import check_audio
from pipeline.manifest.formats import Format, choose, describe, with_prompts
from pipeline.manifest.text import ROWS, RawRows, as_text

_PIECE = 16 << 20  # bytes of JSON handled at a time, where rows are long
_MAX_LINE = 1 << 20  # bytes of one line of JSON
_MAX_SHAPES = 10_000  # different sets of keys in a JSON file whose names are kept in memory


class _Piece:
    """Rows of a JSON file until they are given away."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, str | None]] = []
        self.numbers: list[int] = []
        self.broken: list[tuple[int, str]] = []
        self.n_bytes = 0

    def is_full(self) -> bool:
        return len(self.rows) + len(self.broken) >= ROWS or self.n_bytes >= _PIECE

    def raw(self, rows: "_Rows", *, is_first: bool) -> RawRows:
        """The rows. One of the first must have `audio`; later, a row without it is an error."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        if is_first and self.rows:
            check_audio(names)
        table = _text_table(self.rows, names)
        if rows.form:
            table = with_prompts(rows.form.name, table)
        numbers = np.asarray(self.numbers, np.int64)
        return RawRows(table, numbers, self.broken, rows.notes if is_first else ())


def read_json_lines(blocks: Iterator[bytes], wanted: ManifestFormat = "auto") -> Iterator[RawRows]:
    """Parse each line with Python's json: about 15 us per row, and exact.

    The first object tells the format. pyarrow.json would turn date-like strings into timestamps,
    integers beyond 64 bits into floats (two ids could become equal), and would fail for the whole
    file if one line is broken.
    """
    piece, is_first = _Piece(), True
    rows = _Rows(wanted)
    for number, line in enumerate(_lines(blocks), start=1):
        if not line.strip():
            continue
        piece.n_bytes += len(line)
        try:
            row = rows.parse(line, number)
        except ManifestError:  # a ValueError, too
            raise
        except (ValueError, RecursionError) as error:
            piece.broken.append((number, f"row {number} {error}"))
        else:
            piece.rows.append(row)
            piece.numbers.append(number)
        if piece.is_full():
            yield piece.raw(rows, is_first=is_first)
            piece, is_first = _Piece(), False
    if is_first or piece.rows or piece.broken:
        yield piece.raw(rows, is_first=is_first)


class _Rows:
    """Lines to rows under our own names. The first object chooses the format."""

    def __init__(self, wanted: ManifestFormat) -> None:
        self.form: Format | None = None
        self.notes: list[str] = []
        self._wanted = wanted
        self._shapes: dict[tuple[str, ...], dict[str, str]] = {}  # what is known of a set of keys

    def parse(self, line: bytes, number: int) -> Mapping[str, str | None]:
        """The row of a line. Raises ValueError, and ManifestError for the whole file."""
        try:
            value = _parse_line(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not a JSON object: {error}") from error
        if self.form is None:
            self.form = choose(tuple(value), self._wanted)
        if self.form.flatten:
            value = self._flattened(self.form, value)
        row = {key: as_text(item) for key, item in value.items()}
        if b"\\ud" in line.lower():  # a single surrogate is valid JSON, but not valid text
            try:
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"is not a JSON object: {error}") from error
        names = self._names(self.form, tuple(row), number)
        return {names[key]: value for key, value in row.items()}

    def _flattened(self, form: Format, value: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return form.flatten(value) if form.flatten else value
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"of {form.title} cannot be read: {error}") from error

    def _names(self, form: Format, keys: tuple[str, ...], number: int) -> dict[str, str]:
        names = self._shapes.get(keys)
        if names is None:
            try:
                names = form.names(keys)
            except ManifestError as error:
                raise ManifestError(f"row {number}: {error}") from error
            if not self._shapes:
                self.notes = describe(form, names)
            if len(self._shapes) < _MAX_SHAPES:
                self._shapes[keys] = names
        return names


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines without their ends; one that is too long is cut behind its first _MAX_LINE bytes."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        rest = rest[: _MAX_LINE + 1]
        yield from whole
    yield rest


def _parse_line(line: bytes) -> Mapping[str, Any]:
    if len(line) > _MAX_LINE:
        raise ValueError(f"more than {_MAX_LINE} bytes in one line")
    value = json.loads(line, object_pairs_hook=_reject_repeated_keys)
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    if isinstance(value.get("audio"), dict | list):
        raise ValueError("audio is not a path; audio inside a manifest is not read")
    return value


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
