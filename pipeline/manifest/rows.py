"""Turn the rows of any manifest into the columns of MANIFEST, or into error rows. Opens no file.

Input columns: `audio` (path or URI, required), `recording_id`, `offset_s`, `duration_s`,
`channel`, `language`, and, if known from a listing of the store, `audio_version` (for example the
ETag) and `audio_bytes`. All other columns are kept as text in `extra`.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.arrow import Column, Integers, Numbers, pc, replace_columns
from pipeline.config import PROMPT_LANGUAGES
from pipeline.errors import ErrorType
from pipeline.manifest.access import (
    AllowedRoots,
    Fault,
    canonical_uri,
    check_allowed,
    find_disallowed,
)
from pipeline.manifest.columns import KNOWN, holds_bytes
from pipeline.manifest.identity import name_of, names, redacted
from pipeline.manifest.listing import File
from pipeline.manifest.text import ROWS, RawRows, as_text
from pipeline.schema import PLANNED
from pipeline.storage.address import FILE, MEMBER, SCHEME
from pipeline.storage.redaction import public_uri, redact

_Faults = dict[int, Fault]  # by position

COLUMNS = (
    "recording_id",
    "uri",
    "offset_s",
    "length_s",
    "channel",
    "language",
    "version",  # as the manifest gives it; "": the plan looks it up in the store
    "bytes",
    "start",
    "extra",
    "error_stage",
    "error_type",
    "error_message",
)
MANIFEST = pa.schema([PLANNED.field(name) for name in COLUMNS])
NUMBERED = MANIFEST.append(pa.field("row", pa.int64(), nullable=False))

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_NOT_NORMAL = r"//|(^|/)\.{1,2}(/|$)|/$"  # parts of a path that normalising would change
_CONTROL = r"[\x00-\x1f\x7f]"
_PIPE = r"^\s*\||\|\s*$"  # Kaldi would run this as a command
_DATA = r"^\s*[Dd][Aa][Tt][Aa]:"
_LONGEST = 16 << 10  # bytes of an address or an id; S3 keys have 1,024, Linux paths 4,096
_ESCAPED_FILE = r"(?i)^file:.*%"


def normalise(raw: RawRows, source: str, allowed: AllowedRoots) -> Iterator[pa.Table]:
    """Tables with the schema NUMBERED, in file order; broken rows become error rows."""
    broken = sorted(raw.broken)
    first, last = 0, raw.table.num_rows
    for start in range(0, max(1, last), ROWS):
        table = _rows(
            raw.table.slice(start, ROWS), raw.numbers[start : start + ROWS], source, allowed
        )
        if raw.starts is not None:
            table = replace_columns(table, start=pa.array(raw.starts[start : start + ROWS]))
        end = raw.numbers[start + ROWS] if start + ROWS < last else np.inf
        some = [pair for pair in broken[first:] if pair[0] < end]
        first += len(some)
        yield pa.concat_tables([table, _broken(some, source)]).sort_by("row") if some else table


def rows_of_audio(files: Iterable[File], allowed: AllowedRoots) -> Iterator[pa.Table]:
    """Rows for audio files that no manifest describes. Their ids do not depend on other files."""
    files = iter(files)
    n_rows = 0
    while some := list(islice(files, ROWS)):
        uris = pa.array([file.uri for file in some], pa.string())
        numbers = np.arange(len(some)) + n_rows + 1
        faults: _Faults = {
            index: (ErrorType.BAD_URI, f"the name of {file.uri!r} is not UTF-8; rename the file")
            for index, file in enumerate(some)
            if file.raw
        }
        yield _rows(pa.table({"audio": uris}), numbers, "", allowed, faults)
        n_rows += len(some)


def _broken(rows: list[tuple[int, str]], source: str) -> pa.Table:
    numbers = [number for number, _ in rows]
    columns = _empty(len(numbers)) | {
        "recording_id": pa.array([f"{name_of(source)}#row={number}" for number in numbers]),
        "error_stage": pa.repeat("manifest", len(numbers)),
        "error_type": pa.repeat(ErrorType.BAD_MANIFEST_ROW, len(numbers)),
        "error_message": pa.array([redact(text) for _, text in rows]),
        "row": pa.array(numbers, pa.int64()),
    }
    return pa.table(columns, schema=NUMBERED)


def _empty(n_rows: int) -> dict[str, Column]:
    """The columns of MANIFEST with empty values."""
    number, nothing = pa.array(np.zeros(n_rows)), pa.array([], pa.string())
    return {
        **dict.fromkeys(COLUMNS, pa.repeat("", n_rows)),
        **dict.fromkeys(("offset_s", "length_s"), number),
        "channel": number.cast(pa.int32()),
        "bytes": number.cast(pa.int64()),
        "start": number.cast(pa.int64()),
        "extra": pa.MapArray.from_arrays(np.zeros(n_rows + 1, np.int32), nothing, nothing),
    }


def _rows(
    raw: pa.Table,
    numbers: Integers,
    source: str,
    allowed: AllowedRoots,
    known_faults: _Faults | None = None,
) -> pa.Table:
    """Rows of a manifest at `source`; "": of a listing."""
    raw = raw.combine_chunks()
    faults = dict(known_faults or {})
    audio = _limited(raw, "audio", faults)
    given = _limited(raw, "recording_id", faults)
    offset_s = _seconds(raw, "offset_s", faults)
    length_s = _seconds(raw, "duration_s", faults)
    channel = _channels(raw, faults)
    language = pc.utf8_lower(pc.utf8_trim_whitespace(_text(raw, "language")))
    _find_faults(audio, language, faults)
    uri = _canonical(audio, posixpath.dirname(source)) if source else audio
    _check_decoded(audio, uri, faults)
    is_unusable = _flags(faults, raw.num_rows)  # these get an id from their row number
    offset_s[is_unusable] = length_s[is_unusable] = 0.0
    channel[is_unusable] = 0
    part = _fragment(offset_s, length_s, channel)
    ids = _ids(names(given), names(uri), part, numbers, pa.array(is_unusable), source)
    faults = _find_disallowed(uri, allowed) | faults
    bad = pa.array(_flags(faults, raw.num_rows))
    columns = {
        "recording_id": ids,
        "uri": uri,
        "offset_s": pa.array(offset_s),
        "length_s": pa.array(length_s),
        "channel": pa.array(channel, pa.int32()),
        "language": pc.if_else(bad, "", language),
        "version": _text(raw, "audio_version"),
        "bytes": pa.array(_sizes(raw)),
        "start": pa.array(np.zeros(raw.num_rows, np.int64)),
        "extra": _extra(raw),
        "error_stage": pc.if_else(bad, "manifest", ""),
        **_messages(faults, numbers if source else None, bad),
        "row": pa.array(numbers),
    }
    return pa.table(columns, schema=NUMBERED)


def _flags(faults: _Faults, n_rows: int) -> npt.NDArray[np.bool_]:
    flags = np.zeros(n_rows, bool)
    flags[list(faults)] = True
    return flags


def _messages(faults: _Faults, numbers: Integers | None, bad: Column) -> dict[str, Column]:
    """Messages with the number of the row; a listing has none, because its rows have no order."""
    kinds = [faults[index][0] for index in sorted(faults)]
    prefix = "row {}: " if numbers is not None else ""
    texts = [
        redact(prefix.format(0 if numbers is None else numbers[index]) + faults[index][1])
        for index in sorted(faults)
    ]
    none = pa.repeat("", len(bad))
    return {
        "error_type": pc.replace_with_mask(none, bad, pa.array(kinds, pa.string())),
        "error_message": pc.replace_with_mask(none, bad, pa.array(texts, pa.string())),
    }


def _find_faults(audio: Column, language: Column, faults: _Faults) -> None:
    for index in _where(pc.match_substring_regex(audio, f"^$|{_CONTROL}|{_PIPE}|{_DATA}")):
        faults.setdefault(index, _explain_audio(audio[index].as_py()))
    for index in _where(pc.invert(pc.is_in(language, pa.array(["", *PROMPT_LANGUAGES])))):
        known = ", ".join(PROMPT_LANGUAGES)
        message = f"language {language[index].as_py()!r} is not one of {known}"
        faults.setdefault(index, (ErrorType.BAD_LANGUAGE, message))


def _limited(raw: pa.Table, name: str, faults: _Faults) -> Column:
    """A column of texts; one that is too long (embedded audio, for example) is a fault and ""."""
    texts = _text(raw, name)
    is_long = pc.greater(pc.binary_length(texts), _LONGEST)
    for index in _where(is_long):
        message = f"{name} has {len(texts[index].as_py()):,} characters; it is no "
        message += "path or URI" if name == "audio" else "name"
        faults[index] = ErrorType.BAD_MANIFEST_ROW, message
    return pc.if_else(is_long, "", texts) if faults else texts


def _check_decoded(audio: Column, uri: Column, faults: _Faults) -> None:
    """Faults of file: URIs whose %.. are decoded to what no path may contain."""
    is_file = pc.match_substring_regex(audio, _ESCAPED_FILE)
    for index in _where(pc.and_(is_file, pc.match_substring_regex(uri, f"\ufffd|{_CONTROL}"))):
        message = f"audio {audio[index].as_py()!r} is no UTF-8, or has a control character, "
        faults.setdefault(index, (ErrorType.BAD_URI, message + "after its %.. are decoded"))


def _find_disallowed(uri: Column, allowed: AllowedRoots) -> _Faults:
    """`find_disallowed` of a column in which an address may stand many times."""
    encoded = objects(uri).dictionary_encode()
    faults = _check_each(encoded.dictionary, allowed)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    rows: Integers = np.flatnonzero(np.isin(codes, list(faults)))
    return {
        row: faults[int(codes[row])]
        for row in rows.tolist()
        if "::" not in uri[row].as_py() or check_allowed(uri[row].as_py(), allowed)
    }


def objects(uris: Column) -> Column:
    """The objects that the addresses name: the archives of members, else the addresses."""
    if not pc.any(pc.match_substring(uris, "::")).as_py():
        return uris
    return pc.replace_substring_regex(uris, MEMBER, "")


def _check_each(uri: Column, allowed: AllowedRoots) -> _Faults:
    """`find_disallowed`; an address that cannot be checked is an error of its row alone."""
    try:
        return find_disallowed(uri, allowed)
    except Exception as error:  # the operating system refuses NUL, long names, loops of links
        if len(uri) == 1:
            reason = f"{public_uri(uri[0].as_py())!r} cannot be checked: {error}"
            return {0: (ErrorType.BAD_URI, reason)}
    half = len(uri) // 2
    second = _check_each(uri[half:], allowed)
    return _check_each(uri[:half], allowed) | {half + i: fault for i, fault in second.items()}


def _explain_audio(audio: str) -> Fault:
    if not audio:
        return ErrorType.BAD_MANIFEST_ROW, "audio is empty"
    if re.search(_CONTROL, audio):
        message = f"audio {public_uri(audio)!r} contains a control character"
        return ErrorType.BAD_MANIFEST_ROW, message
    if re.search(_PIPE, audio):
        return ErrorType.BAD_URI, f"audio {public_uri(audio)!r} is a pipe; commands are never run"
    return ErrorType.BAD_URI, "audio is a data: URI; only files and objects are read"


def _where(mask: Column) -> list[int]:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()


def _text(raw: pa.Table, name: str) -> Column:
    """A column as strings without nulls; all "" if there is no such column."""
    column = _strings(_column(raw, name)) if name in raw.column_names else None
    return pa.repeat("", raw.num_rows) if column is None else column.fill_null("")


def _column(raw: pa.Table, name: str) -> Column:
    chunks = raw[name].chunks  # one; none if the table has no rows
    return chunks[0] if chunks else pa.array([], raw.schema.field(name).type)


def _strings(column: Column) -> Column | None:
    """Any column as strings, nested values as JSON; None for nulls and for binary columns."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _strings(column.dictionary_decode())
    if pa.types.is_null(kind) or holds_bytes(kind):
        return None
    if pa.types.is_nested(kind):
        return pa.array([as_text(value) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def _seconds(raw: pa.Table, name: str, faults: _Faults) -> Numbers:
    """A column of seconds; 0 where it is absent. An offset may be 0, a duration may not."""
    if name not in raw.column_names:
        return np.zeros(raw.num_rows)
    column = _column(raw, name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        text = pc.utf8_trim_whitespace(_text(raw, name))
        column = pc.if_else(pc.equal(text, ""), None, text)
        is_number = pc.match_substring_regex(text, _NUMBER)
        for index in _where(pc.and_(column.is_valid(), pc.invert(is_number))):
            message = f"{name} {text[index].as_py()!r} is not a number"
            faults[index] = ErrorType.BAD_MANIFEST_ROW, message
        column = pc.if_else(is_number, column, None)
    values = column.cast(pa.float64(), safe=False)
    seconds: Numbers = values.fill_null(0.0).to_numpy(zero_copy_only=False).copy()
    given = values.is_valid().to_numpy(zero_copy_only=False)
    in_range = seconds >= 0 if name == "offset_s" else seconds > 0
    for index in np.flatnonzero(given & ~(in_range & np.isfinite(seconds))).tolist():
        wanted = "at least 0" if name == "offset_s" else "more than 0"
        message = f"{name} is {seconds[index]}; it must be {wanted}"
        faults.setdefault(index, (ErrorType.BAD_RANGE, message))
    return seconds


def _sizes(raw: pa.Table) -> Integers:
    """Sizes of objects as the manifest gives them, for the sum in the plan; 0 if not a number."""
    if "audio_bytes" not in raw.column_names:
        return np.zeros(raw.num_rows, np.int64)
    sizes = _seconds(raw, "audio_bytes", faults={})
    return np.nan_to_num(sizes, nan=0, posinf=0, neginf=0).clip(0).astype(np.int64)


def _canonical(audio: Column, base: str) -> Column:
    """`canonical_uri` of a column; Python handles only the texts that Arrow cannot."""
    named = objects(audio)
    is_file = pc.match_substring_regex(named, FILE)
    is_uri = pc.match_substring_regex(named, SCHEME)
    if pc.all(pc.and_(is_uri, pc.invert(is_file))).as_py():
        return audio
    is_path = pc.and_(pc.invert(is_uri), pc.match_substring_regex(named, _NOT_NORMAL))
    is_member = pc.not_equal(named, audio)
    is_relative = pc.invert(pc.or_(is_uri, pc.starts_with(named, "/")))
    is_special = pc.or_(pc.or_(is_file, is_path), pc.and_(is_member, is_relative))
    is_absolute = pc.or_(pc.or_(is_uri, is_member), pc.starts_with(audio, "/"))
    joined = pc.if_else(is_absolute, audio, pc.binary_join_element_wise(base, audio, "/"))
    uri = pc.if_else(pc.equal(audio, ""), "", joined)
    special = [canonical_uri(text, base) for text in audio.filter(is_special).to_pylist()]
    return pc.replace_with_mask(uri, is_special, pa.array(special, pa.string()))


def _channels(raw: pa.Table, faults: _Faults) -> Integers:
    """The column `channel`; 0 where it is absent. It counts from 1."""
    if "channel" not in raw.column_names:
        return np.zeros(raw.num_rows, np.int64)
    text = pc.utf8_trim_whitespace(_text(raw, "channel"))
    text = pc.replace_substring_regex(text, r"\.0$", "")  # pandas writes whole numbers so
    is_number = pc.match_substring_regex(text, r"^[1-9]\d{0,4}$")
    for index in _where(pc.invert(pc.or_(is_number, pc.equal(text, "")))):
        message = f"channel {text[index].as_py()!r} is not a channel; they count from 1"
        faults[index] = ErrorType.BAD_MANIFEST_ROW, message
    numbers = pc.if_else(is_number, text, "0").cast(pa.int64())
    channels: Integers = numbers.to_numpy(zero_copy_only=False).copy()
    return channels


def _fragment(offset_s: Numbers, length_s: Numbers, channel: Integers) -> Column:
    """What the id of a part of a file ends with: "#t=1.5,2", "#channel=2", both joined by "&"."""
    start = pc.round(pa.array(offset_s), 6).cast(pa.string())
    end = pc.round(pa.array(offset_s + length_s), 6).cast(pa.string())
    end = pc.if_else(pa.array(length_s > 0), pc.binary_join_element_wise(",", end, ""), "")
    time = pc.binary_join_element_wise("#t=", start, end, "")
    time = pc.if_else(pa.array((offset_s > 0) | (length_s > 0)), time, "")
    if not channel.any():
        return time
    mark = pc.if_else(pc.equal(time, ""), "#", "&")
    number = pa.array(channel).cast(pa.string())
    named = pc.binary_join_element_wise(time, mark, "channel=", number, "")
    return pc.if_else(pa.array(channel > 0), named, time)


def _ids(
    given: Column,
    uri: Column,
    part: Column,
    numbers: Integers,
    is_unusable: Column,
    source: str,
) -> Column:
    """The id that a row gives, else its URI and part; the row number if these are unusable."""
    row = pc.binary_join_element_wise("#row=", pa.array(numbers).cast(pa.string()), "")
    row = row if source else ""  # the numbers of a listing move when files come and go
    default = pc.binary_join_element_wise(
        pc.if_else(pc.equal(uri, ""), name_of(source), uri),
        pc.if_else(is_unusable, row, part),
        "",
    )
    return pc.if_else(pc.equal(given, ""), default, given)


def _extra(raw: pa.Table) -> Column:
    """All other columns, as one map per row without the nulls."""
    named = [(name, _strings(_column(raw, name))) for name in raw.column_names]
    kept = [(name, text) for name, text in named if name not in KNOWN and text is not None]
    if not kept:
        return _empty(raw.num_rows)["extra"]
    valid = np.stack([text.is_valid().to_numpy(zero_copy_only=False) for _, text in kept], axis=1)
    row, column = np.nonzero(valid)  # ordered by row, as the entries of a map must be
    offsets: Column = pa.array(np.concatenate([[0], valid.sum(axis=1).cumsum()]), pa.int32())
    keys: Column = pa.array([name for name, _ in kept]).take(column)
    texts = pa.concat_arrays([redacted(text) for _, text in kept])
    values = texts.take(column * raw.num_rows + row)
    return pa.MapArray.from_arrays(offsets, keys, values)
