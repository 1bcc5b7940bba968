"""Read the rows of parquet, JSON lines and CSV files. Knows nothing of what the columns mean.

The format is detected from the bytes of a file, not from its name; CSV and JSON lines may be
compressed. A row that cannot be read is kept as its number and the reason. A file that is not a
manifest raises an error that names the file.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipeline.config import ManifestFormat
from pipeline.errors import ManifestError, one_line
from pipeline.manifest import kaldi
from pipeline.manifest.columns import check_audio, check_types, holds_bytes, left_out
from pipeline.manifest.formats import choose, describe, with_prompts
from pipeline.manifest.json_lines import read_json_lines
from pipeline.manifest.text import RawRows, read_csv

ROWS = 1 << 16  # rows of parquet handled at a time: 15 MiB, and the next ones reuse this memory
_MAX_TEXT = 16 << 30  # bytes of a decompressed manifest; a limit for decompression bombs
_BLOCK = 4 << 20  # bytes read at a time
_FIRST_ROWS = 1000  # if most of these are broken, the file is not a manifest


def read_raw(fs: Any, uri: str, wanted: ManifestFormat = "auto") -> Iterator[RawRows]:
    """The rows of one file, in order, in one or more pieces. Raises ManifestError with `uri`."""
    try:
        if uri.rpartition("/")[2] == kaldi.SCP and wanted in ("auto", "kaldi"):
            for raw in kaldi.read_directory(fs, uri):
                yield replace(raw, table=with_prompts("kaldi", raw.table))
        else:
            yield from _read(fs, uri, wanted)
    except ManifestError as error:
        raise ManifestError(f"{uri}: {error}") from error
    except Exception as error:  # stores and pyarrow raise many types for damaged files
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ManifestError(
            f"{uri}: cannot be read, or is damaged or cut short: {reason}"
        ) from error


def _read(fs: Any, uri: str, wanted: ManifestFormat) -> Iterator[RawRows]:
    path = fs._strip_protocol(uri)
    with fs.open(path, "rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic == b"PAR1":
            yield from _read_parquet(path if isinstance(fs, LocalFileSystem) else file, wanted)
            return
        blocks = _blocks(_decompressed(file, magic))
        first = next(blocks, b"")
        if first.startswith(b"PAR1"):
            yield from _read_packed_parquet(first, blocks, wanted)
        else:
            yield from _refusing_broken(_read_text(first, blocks, wanted))


def _decompressed(file: Any, magic: bytes) -> Any:
    if magic[:2] == b"\x1f\x8b":
        return pa.CompressedInputStream(file, "gzip")
    if magic[:2] == b"\x28\xb5":
        return pa.CompressedInputStream(file, "zstd")
    return file


def _blocks(file: Any) -> Iterator[bytes]:
    """The bytes of a file, _BLOCK at a time: pyarrow reserves as much as a read asks for."""
    n_bytes = 0
    while block := _read_fully(file):
        n_bytes += len(block)
        if n_bytes > _MAX_TEXT:
            limit = f"{_MAX_TEXT >> 30} GiB"
            raise ManifestError(f"more than {limit} of text; split it, or use parquet")
        if n_bytes == len(block) and block[:2] in (b"\x1f\x8b", b"\x28\xb5"):
            raise ManifestError("compressed twice; decompress it once")
        yield block


def _read_fully(file: Any) -> bytes:
    """_BLOCK bytes, fewer only at the end of the file; a stream may give fewer at a time."""
    block = bytes(file.read(_BLOCK))
    while 0 < len(block) < _BLOCK and (more := file.read(_BLOCK - len(block))):
        block += more
    return block


def _read_packed_parquet(
    first: bytes, blocks: Iterator[bytes], wanted: ManifestFormat
) -> Iterator[RawRows]:
    """Compressed parquet, from a temporary file, because parquet is read from its end."""
    with tempfile.NamedTemporaryFile(prefix="manifest-") as unpacked:
        unpacked.write(first)
        for block in blocks:
            unpacked.write(block)
        unpacked.flush()
        yield from _read_parquet(unpacked.name, wanted)


def _read_parquet(source: Any, wanted: ManifestFormat) -> Iterator[RawRows]:
    """Read a few row groups at a time; a Python file without threads, see tables.parquet."""
    file = pq.ParquetFile(source, pre_buffer=False)
    schema = file.schema_arrow
    form = choose(schema.names, wanted)
    names = form.names(schema.names)
    check_audio(list(names.values()))
    check_types(schema)
    kept = [field.name for field in schema if not holds_bytes(field.type)]
    empty = schema.empty_table().select(kept).rename_columns([names[name] for name in kept])
    notes = [*describe(form, names), *left_out(schema)]
    yield RawRows(empty, np.arange(0), notes=notes)  # for files without rows
    n_rows = 0
    for batch in file.iter_batches(ROWS, columns=kept, use_threads=isinstance(source, str)):
        table = pa.Table.from_batches([batch])
        table.validate(full=True)  # parquet may contain text that is not UTF-8
        table = table.rename_columns([names[name] for name in table.column_names])
        numbers = np.arange(n_rows, n_rows + table.num_rows) + 1
        yield RawRows(with_prompts(form.name, table), numbers)
        n_rows += table.num_rows


def _read_text(first: bytes, blocks: Iterator[bytes], wanted: ManifestFormat) -> Iterator[RawRows]:
    first = first.removeprefix(b"\xef\xbb\xbf")
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError("the text is UTF-16; save it as UTF-8")
    if b"\0" in first[:4096]:
        raise ManifestError(f"neither parquet, JSON lines nor CSV; starts with {first[:8]!r}")
    start = first[:4096].lstrip()
    if not start:
        raise ManifestError("it is empty; expected parquet, JSON lines or CSV, column 'audio'")
    if start.startswith(b"["):
        raise ManifestError("it is a JSON array; write one object per line (JSON lines)")
    read = read_json_lines if start.startswith(b"{") else read_csv
    return read(_with_first(first, blocks), wanted)


def _with_first(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from blocks


def _refusing_broken(pieces: Iterator[RawRows]) -> Iterator[RawRows]:
    """The same pieces. Raises ManifestError if most of the first rows are broken."""
    waiting: list[RawRows] = []
    n_rows = 0
    is_checked = False
    for raw in pieces:
        waiting.append(raw)
        n_rows += raw.table.num_rows + len(raw.broken)
        if n_rows >= _FIRST_ROWS:
            if not is_checked:
                _check_broken(waiting, n_rows)
                is_checked = True
            yield from waiting
            waiting = []
    if not is_checked:
        _check_broken(waiting, n_rows)
    yield from waiting


def _check_broken(pieces: list[RawRows], n_rows: int) -> None:
    broken = [pair for raw in pieces for pair in raw.broken]
    n_broken = sum(number <= _FIRST_ROWS for number, _ in broken)
    if 2 * n_broken > min(_FIRST_ROWS, n_rows):
        raise ManifestError(f"most rows are broken: {broken[0][1]}")
