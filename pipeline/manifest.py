"""Lists of recordings, in any common format, to one table. Knows rows and names; opens no audio.

A manifest is parquet, JSON lines or CSV (plain, gzip or zstd; told by its bytes, not its name), one
file or a glob of them, or a directory of audio. Columns: `audio` (path or URI, needed),
`recording_id`, `offset_s`, `duration_s`, `language`; all others travel along as text in `extra`.
"""

import csv
import difflib
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO, TextIOWrapper
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.config import PROMPT_LANGUAGES
from pipeline.schema import PLANNED
from pipeline.storage import filesystem_for

pc: Any = pyarrow.compute  # its stubs know no plain str or bool beside an array
Column = Any  # pyarrow Array
Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

COLUMNS = (
    "recording_id",
    "uri",
    "offset_s",
    "length_s",
    "language",
    "extra",
    "error_stage",
    "error_type",
    "error_message",
)
MANIFEST = pa.schema([PLANNED.field(name) for name in COLUMNS])
_NUMBERED = MANIFEST.append(pa.field("row", pa.int64(), nullable=False))

AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".mp4", ".m4v", ".mov"),
    *(".webm", ".mkv", ".mka", ".wma", ".amr", ".awb", ".3gp", ".aif", ".aiff", ".aifc", ".au"),
    *(".caf", ".w64", ".rf64", ".sph", ".avi", ".flv", ".ts", ".mpg", ".mpeg", ".ac3", ".wv"),
)

_KNOWN = ("audio", "recording_id", "offset_s", "duration_s", "language")
_ROWS = 1 << 20  # rows handled at a time: text of that many stays well below 2 GiB
_MAX_TEXT = 16 << 30  # bytes of an unpacked manifest; a bomb stops here
_BROKEN_HEAD = 1000  # more broken rows than not among the first ones: this is not a manifest
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_SCHEME = r"^[A-Za-z][A-Za-z0-9+.-]*://"
_ODD = r"//|(^|/)\.{1,2}(/|$)|/$"  # what normalising a path would change
_CONTROL = r"[\x00-\x1f\x7f]"


class ManifestError(ValueError):
    """The manifest cannot be used at all; the message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The recordings that somebody wants labelled. `table` has the schema MANIFEST."""

    table: pa.Table
    n_duplicates: int  # rows that repeated an earlier one exactly, left out
    source: str


def read_manifest(uri: str, options: Mapping[str, Any]) -> Manifest:
    """Every row of the manifest, in its order; ids are unique and never empty.

    A row that cannot be used keeps its place, with `error_stage` "manifest" and a message that
    names the row. Relative paths start at the manifest's own directory. The default id of a row is
    its canonical URI, with "#t=from,to" (media fragments, W3C) when it names a range. Raises
    ManifestError.
    """
    try:
        fs, path = filesystem_for(uri, options)
        parts, is_listing = _find_parts(fs, path, uri)
    except ManifestError:
        raise
    except Exception as error:  # an unknown scheme, no permission, a store that does not answer
        raise ManifestError(f"{uri}: cannot be read: {type(error).__name__}: {error}") from error
    tables = [_listing(parts)] if is_listing else [_read_part(fs, part) for part in parts]
    table, n_duplicates = _make_unique(pa.concat_tables(tables))
    return Manifest(table, n_duplicates, uri)


def canonical_uri(uri: str, base: str = "") -> str:
    """The one spelling of an address: no file://, no relative path, otherwise bytes as given."""
    if uri.startswith("file://"):
        uri = "/" + uri.removeprefix("file://").removeprefix("localhost").lstrip("/")
    elif re.match(_SCHEME, uri):
        return uri
    if not uri.startswith("/"):
        uri = f"{base}/{uri}"
    scheme, separator, rest = uri.rpartition("://")
    return scheme + separator + posixpath.normpath(rest)


# ------------------------------------------------------------------------------ files


def _find_parts(fs: Any, path: str, uri: str) -> tuple[list[str], bool]:
    """Canonical addresses of the files that `uri` stands for, and whether they are audio."""
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


def _listing(addresses: Sequence[str]) -> pa.Table:
    columns = _empty(len(addresses)) | dict.fromkeys(("recording_id", "uri"), pa.array(addresses))
    return pa.table({**columns, "row": pa.array(range(1, len(addresses) + 1))}, schema=_NUMBERED)


@dataclass(frozen=True, slots=True)
class _Raw:
    """A manifest file as it was read."""

    table: pa.Table
    numbers: Integers  # (table.num_rows,): which row of the file each one is, from 1
    broken: Sequence[tuple[int, str]] = ()  # the rows that are not in the table, and why


def _read_part(fs: Any, address: str) -> pa.Table:
    try:
        raw = _read_raw(fs, address)
        _check_columns(raw.table.column_names)
    except ManifestError as error:
        raise ManifestError(f"{address}: {error}") from error
    return _normalise(raw, address)


def _read_raw(fs: Any, address: str) -> _Raw:
    try:
        with fs.open(fs._strip_protocol(address), "rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic == b"PAR1":
                return _read_parquet(file)
            data = _unpack(file, magic)
        if data.startswith(b"PAR1"):
            return _read_parquet(pa.BufferReader(data))
    except ManifestError:
        raise
    except Exception as error:  # stores and pyarrow fail in as many ways as files are damaged
        reason = f"{type(error).__name__}: {error}"
        raise ManifestError(f"cannot be read, or is damaged or cut short: {reason}") from error
    return _read_text(data)


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
    data: bytes = file.read(_MAX_TEXT + 1)
    if len(data) > _MAX_TEXT:
        raise ManifestError(f"more than {_MAX_TEXT >> 30} GiB of text; split it, or use parquet")
    if data[:2] in (b"\x1f\x8b", b"\x28\xb5"):
        raise ManifestError("compressed twice; unpack it once")
    return data


# ------------------------------------------------------------------------------- text


def _read_parquet(file: Any) -> _Raw:
    table = pq.read_table(file)
    table.validate(full=True)  # parquet may carry text that is not UTF-8
    return _Raw(table, np.arange(1, table.num_rows + 1))


def _read_text(data: bytes) -> _Raw:
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


def _read_json_lines(data: bytes) -> _Raw:
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
        if len(rows) == _ROWS // 8:
            tables.append(_text_table(rows))
            rows = []
    tables.append(_text_table(rows))
    table = pa.concat_tables(tables, promote_options="default")
    return _Raw(table, np.asarray(numbers, np.int64), broken)


def _parse_line(line: bytes) -> Mapping[str, str | None]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")
    row = {key: _as_text(item) for key, item in value.items()}
    if b"\\ud" in line.lower():  # a lone surrogate is valid JSON and no text
        json.dumps(row, ensure_ascii=False).encode()
    return row


def _as_text(value: Any) -> str | None:
    """Strings as they are, null as None, all else as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):  # as json would, in a third of the time
        return repr(value)
    return json.dumps(value, ensure_ascii=False, default=str)


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


def _read_csv(data: bytes) -> _Raw:
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
    return _Raw(table, np.setdiff1d(all_numbers, [number for number, _ in broken]), broken)


# ------------------------------------------------------------------------------- rows


def _normalise(raw: _Raw, address: str) -> pa.Table:
    """The columns of MANIFEST and "row", broken rows among the others in the order of the file."""
    tables = [
        _rows(raw.table.slice(start, _ROWS), raw.numbers[start : start + _ROWS], address)
        for start in range(0, max(1, raw.table.num_rows), _ROWS)
    ]
    if not raw.broken:
        return pa.concat_tables(tables)
    numbers = [number for number, _ in raw.broken]
    ids = [f"{address}#row={number}" for number in numbers]
    columns = _empty(len(numbers)) | {
        "recording_id": pa.array(ids),
        "error_stage": pa.array(["manifest"] * len(numbers)),
        "error_type": pa.array(["BadManifestRow"] * len(numbers)),
        "error_message": pa.array([text for _, text in raw.broken]),
        "row": pa.array(numbers, pa.int64()),
    }
    return pa.concat_tables([*tables, pa.table(columns, schema=_NUMBERED)]).sort_by("row")


def _empty(n_rows: int) -> dict[str, Column]:
    """Columns of MANIFEST with nothing in them."""
    text = pa.repeat("", n_rows)
    number = pa.array(np.zeros(n_rows))
    return {
        **dict.fromkeys(COLUMNS, text),
        **dict.fromkeys(("offset_s", "length_s"), number),
        "extra": pa.array([[]] * n_rows, MANIFEST.field("extra").type),
    }


def _rows(raw: pa.Table, numbers: Integers, address: str) -> pa.Table:
    raw = raw.combine_chunks()
    faults: dict[int, str] = {}
    audio = _text(raw, "audio")
    offset_s = _seconds(raw, "offset_s", faults)
    length_s = _seconds(raw, "duration_s", faults)
    language = pc.utf8_lower(pc.utf8_trim_whitespace(_text(raw, "language")))
    _find_faults(audio, language, faults)
    uri = _canonical(audio, posixpath.dirname(address))
    is_bad = np.zeros(raw.num_rows, bool)
    is_bad[list(faults)] = True
    offset_s[is_bad] = length_s[is_bad] = 0.0
    messages = pa.array(
        [f"row {numbers[index]}: {faults[index]}" for index in sorted(faults)], pa.string()
    )
    bad = pa.array(is_bad)
    columns = {
        "recording_id": _ids(
            _text(raw, "recording_id"), uri, offset_s, length_s, numbers, bad, address
        ),
        "uri": uri,
        "offset_s": pa.array(offset_s),
        "length_s": pa.array(length_s),
        "language": pc.if_else(bad, "", language),
        "extra": _extra(raw),
        "error_stage": pc.if_else(bad, "manifest", ""),
        "error_type": pc.if_else(bad, "BadManifestRow", ""),
        "error_message": pc.replace_with_mask(pa.repeat("", raw.num_rows), bad, messages),
        "row": pa.array(numbers),
    }
    return pa.table(columns, schema=_NUMBERED)


def _find_faults(audio: Column, language: Column, faults: dict[int, str]) -> None:
    for index in _where(pc.equal(audio, "")):
        faults[index] = "audio is empty"
    for index in _where(pc.match_substring_regex(audio, _CONTROL)):
        faults[index] = f"audio {audio[index].as_py()!r} contains a control character"
    for index in _where(pc.invert(pc.is_in(language, pa.array(["", *PROMPT_LANGUAGES])))):
        known = ", ".join(PROMPT_LANGUAGES)
        faults.setdefault(index, f"language {language[index].as_py()!r} is not one of {known}")


def _where(mask: Column) -> list[int]:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()


def _text(raw: pa.Table, name: str) -> Column:
    """A column as strings without nulls; "" where there is no such column."""
    column = _strings(_column(raw, name)) if name in raw.column_names else None
    return pa.repeat("", raw.num_rows) if column is None else column.fill_null("")


def _column(raw: pa.Table, name: str) -> Column:
    chunks = raw[name].chunks  # one, or none in a table without rows
    return chunks[0] if chunks else pa.array([], raw.schema.field(name).type)


def _strings(column: Column) -> Column | None:
    """Any column as strings, nested values as JSON; None where there is nothing to write."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _strings(column.dictionary_decode())
    if pa.types.is_null(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return None
    if pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.array([_as_text(value) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def _seconds(raw: pa.Table, name: str, faults: dict[int, str]) -> Numbers:
    """A column of seconds, 0 where it is absent. An offset may be 0, a duration may not."""
    if name not in raw.column_names:
        return np.zeros(raw.num_rows)
    column = _column(raw, name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        text = pc.utf8_trim_whitespace(_text(raw, name))
        column = pc.if_else(pc.equal(text, ""), None, text)
        is_number = pc.match_substring_regex(text, _NUMBER)
        for index in _where(pc.and_(column.is_valid(), pc.invert(is_number))):
            faults[index] = f"{name} {text[index].as_py()!r} is not a number"
        column = pc.if_else(is_number, column, None)
    values = column.cast(pa.float64(), safe=False)
    seconds: Numbers = values.fill_null(0.0).to_numpy(zero_copy_only=False).copy()
    given = values.is_valid().to_numpy(zero_copy_only=False)
    allowed = seconds >= 0 if name == "offset_s" else seconds > 0
    for index in np.flatnonzero(given & ~(allowed & np.isfinite(seconds))).tolist():
        wanted = "at least 0" if name == "offset_s" else "more than 0"
        faults.setdefault(index, f"{name} is {seconds[index]}; it must be {wanted}")
    return seconds


def _canonical(audio: Column, base: str) -> Column:
    """`canonical_uri` of a column; only the odd ones cost Python."""
    is_file = pc.starts_with(audio, "file://")
    is_uri = pc.match_substring_regex(audio, _SCHEME)
    is_odd = pc.or_(is_file, pc.and_(pc.invert(is_uri), pc.match_substring_regex(audio, _ODD)))
    whole = pc.or_(is_uri, pc.starts_with(audio, "/"))
    joined = pc.if_else(whole, audio, pc.binary_join_element_wise(base, audio, "/"))
    uri = pc.if_else(pc.equal(audio, ""), "", joined)
    odd = [canonical_uri(text, base) for text in audio.filter(is_odd).to_pylist()]
    return pc.replace_with_mask(uri, is_odd, pa.array(odd, pa.string()))


def _ids(
    given: Column,
    uri: Column,
    offset_s: Numbers,
    length_s: Numbers,
    numbers: Integers,
    is_bad: Column,
    address: str,
) -> Column:
    """The id that a row gives, or its URI and range; the row's number where these are bad."""
    start = pc.round(pa.array(offset_s), 6).cast(pa.string())
    end = pc.round(pa.array(offset_s + length_s), 6).cast(pa.string())
    end = pc.if_else(pa.array(length_s > 0), pc.binary_join_element_wise(",", end, ""), "")
    fragment = pc.binary_join_element_wise("#t=", start, end, "")
    fragment = pc.if_else(pa.array((offset_s > 0) | (length_s > 0)), fragment, "")
    row = pc.binary_join_element_wise("#row=", pa.array(numbers).cast(pa.string()), "")
    default = pc.binary_join_element_wise(
        pc.if_else(pc.equal(uri, ""), address, uri), pc.if_else(is_bad, row, fragment), ""
    )
    return pc.if_else(pc.equal(given, ""), default, given)


def _extra(raw: pa.Table) -> Column:
    """The columns we do not know, as one map per row without its nulls."""
    named = [(name, _strings(_column(raw, name))) for name in raw.column_names]
    kept = [(name, text) for name, text in named if name not in _KNOWN and text is not None]
    if not kept:
        return _empty(raw.num_rows)["extra"]
    valid = np.stack([text.is_valid().to_numpy(zero_copy_only=False) for _, text in kept], axis=1)
    row, column = np.nonzero(valid)  # in the order of the rows, as the entries of a map must be
    offsets: Column = pa.array(np.concatenate([[0], valid.sum(axis=1).cumsum()]), pa.int32())
    keys: Column = pa.array([name for name, _ in kept]).take(column)
    values = pa.concat_arrays([text for _, text in kept]).take(column * raw.num_rows + row)
    return pa.MapArray.from_arrays(offsets, keys, values)


# ------------------------------------------------------------------------- uniqueness


def _make_unique(table: pa.Table) -> tuple[pa.Table, int]:
    """Repeated rows dropped and counted; another recording under a used id renamed, as an error."""
    n_dropped = 0
    while True:
        first = _first_with_same(table["recording_id"])
        later = np.flatnonzero(first != np.arange(table.num_rows))
        if not later.size:
            return table.drop_columns("row"), n_dropped
        same = np.ones(later.size, bool)
        for name in ("uri", "offset_s", "length_s"):
            ours, theirs = (table[name].take(index) for index in (later, first[later]))
            same &= pc.equal(ours, theirs).to_numpy()
        table = _rename(table, later[~same], first[later[~same]])
        kept = np.ones(table.num_rows, bool)
        kept[later[same]] = False
        table = table.filter(pa.array(kept))
        n_dropped += int(same.sum())


def _first_with_same(ids: Column) -> Integers:
    """For each row, the first row that has its id."""
    encoded: Column = pc.dictionary_encode(ids.cast(pa.large_string()))
    chunks: list[Integers] = [
        chunk.indices.to_numpy() for chunk in encoded.chunks
    ]  # one dictionary for all
    codes: Integers = np.concatenate([np.empty(0, np.int64), *chunks])
    first: Integers = np.empty(
        codes.size, np.int64
    )  # by code; of several writes the last one stays
    first[codes[::-1]] = np.arange(codes.size)[::-1]
    return np.asarray(first[codes])


def _rename(table: pa.Table, clashes: Integers, originals: Integers) -> pa.Table:
    """Clashing rows as DuplicateId errors, under ids that say what they are of."""
    ours, theirs = (
        table.select(["recording_id", "uri", "offset_s", "length_s", "row"]).take(index).to_pylist()
        for index in (clashes, originals)
    )
    changes = {
        "recording_id": [f"{row['recording_id']}~{_place_hash(row)}" for row in ours],
        "error_stage": ["manifest"] * len(ours),
        "error_type": ["DuplicateId"] * len(ours),
        "error_message": [
            f"row {row['row']}: row {other['row']} ({other['uri']}) has the same recording_id; "
            "give each its own"
            for row, other in zip(ours, theirs, strict=True)
        ],
    }
    place = np.zeros(table.num_rows, np.int64)
    place[clashes] = np.arange(clashes.size)
    is_clash = np.zeros(table.num_rows, bool)
    is_clash[clashes] = True
    for name, values in changes.items() if ours else ():
        changed = pc.if_else(pa.array(is_clash), pa.array(values).take(place), table[name])
        table = table.set_column(table.column_names.index(name), table.field(name), changed)
    return table


def _place_hash(row: Mapping[str, Any]) -> str:
    place = f"{row['uri']}\x1f{row['offset_s']}\x1f{row['length_s']}"
    return blake2b(place.encode(), digest_size=4).hexdigest()
