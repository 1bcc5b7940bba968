"""The bytes of members, an archive from its front to its back in few large requests.

Never unpacked to disk, with one exception: a member of more than 32 MB of a zip or of a compressed
tar passes through a temporary file, because decoders go back and memory is limited.
"""

import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO, RawIOBase
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archives.embedded import audio_column, place_of
from pipeline.archives.streams import HEADER, OpenArchive, is_plain_tar, open_archive
from pipeline.archives.zips import start_of, version_of
from pipeline.errors import ErrorType, RecordingError, one_line
from pipeline.storage.store import filesystem_for, read_stream
from pipeline.storage.store_errors import explain_store_error

REQUEST_BYTES = 8 << 20  # of an archive at a time
_FAR = 1 << 20  # bytes between two members from which on a second request is quicker
_WHOLE = 32 << 20  # bytes of a member that are held in memory
_ROWS = 8  # of parquet at a time
_NAME_BYTES = 100  # that the plain header of a tar has room for


class Place(NamedTuple):
    """Where a member is, as the listing of its archive gives it."""

    name: str
    start: int
    size: int


@dataclass(slots=True)
class Opened:
    """The bytes of a member; close it after use."""

    file: BinaryIO
    size: int
    version: str  # of the bytes
    closing: ExitStack = field(default_factory=ExitStack)


def read_members(
    uri: str, places: Sequence[Place], options: Mapping[str, Any], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    """The members at these places of the archive at `uri`, in their order; one item for each.

    A member that cannot be read is its RecordingError, and the next one is tried. `places` are in
    the order of their starts: a compressed tar is read forward only.
    """
    left = list(places)
    try:
        for item in _read(uri, places, options, max_bytes):
            left = left[1:]
            yield item
    except Exception as error:
        reason = explain_store_error(error)
        yield from (reason for _ in left)


def _read(
    uri: str, places: Sequence[Place], options: Mapping[str, Any], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    if is_plain_tar(uri, options):
        yield from _read_tar(uri, options, places, max_bytes)
        return
    with open_archive(uri, options, REQUEST_BYTES) as archive:
        if archive is None:
            changed = _changed("is no archive any more")
            yield from (changed for _ in places)
        elif archive.kind == "zip":
            yield from _read_zip(archive, places, max_bytes)
        elif archive.kind == "parquet":
            yield from _read_parquet(archive, places, max_bytes)
        else:
            yield from _read_stream(archive, places, max_bytes)


def version_of_bytes(data: bytes) -> str:
    """The version of a member: a hash of its bytes, and their number."""
    return f"{blake2b(data, digest_size=16).hexdigest()}-{len(data)}"


def _in_memory(data: bytes, version: str = "") -> Opened:
    return Opened(BytesIO(data), len(data), version or version_of_bytes(data))


def _too_large(size: int, max_bytes: int) -> RecordingError:
    return RecordingError(ErrorType.TOO_LARGE, f"{size} bytes; audio.max_bytes allows {max_bytes}")


def _changed(what: str) -> RecordingError:
    return RecordingError(
        ErrorType.CHANGED_WHILE_READ, f"the archive {what}: it was rewritten; run again"
    )


def _damaged(error: Exception) -> RecordingError:
    return RecordingError(ErrorType.UNDECODABLE, f"damaged in its archive: {one_line(error)}")


def _empty() -> RecordingError:
    return RecordingError(ErrorType.EMPTY_FILE, "the file has no bytes")


# ---------------------------------------------------------------------------------- tar


def _read_tar(
    uri: str, options: Mapping[str, Any], places: Sequence[Place], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    """A tar by ranges: neighbours in one request, large members alone."""
    fs, path = filesystem_for(uri, options)
    for group in neighbours(places):
        first, last = group[0], group[-1]
        if first.size > min(_WHOLE, max_bytes):  # such a member is alone
            yield _large(fs, path, first, max_bytes)
            continue
        begin = first.start - HEADER
        try:
            data = fs.cat_file(path, start=begin, end=last.start + last.size)
        except Exception as error:
            reason = explain_store_error(error)
            yield from (reason for _ in group)
            continue
        for place in group:
            at = place.start - begin
            yield _member(data[at - HEADER : at], data[at : at + place.size], place)


def neighbours(places: Sequence[Place]) -> Iterator[list[Place]]:
    """Members that one request gets: near each other, and REQUEST_BYTES in all or a single one."""
    group: list[Place] = []
    for place in places:
        if group:
            end = group[-1].start + group[-1].size
            is_near = 0 <= place.start - end <= _FAR
            if not is_near or place.start + place.size - group[0].start > REQUEST_BYTES:
                yield group
                group = []
        group.append(place)
    if group:
        yield group


def _member(header: bytes, data: bytes, place: Place) -> Opened | RecordingError:
    if error := _moved(header, place):
        return error
    return _whole(data, place)


def _whole(data: bytes, place: Place) -> Opened | RecordingError:
    if len(data) < place.size:
        return _changed("ends within this recording")
    return _in_memory(data) if data else _empty()


def _moved(header: bytes, place: Place) -> RecordingError | None:
    """What is wrong if this is not the header of the member; None if it is."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return _changed("has something else where this recording was")
    name = unquote(place.name, errors="surrogateescape")
    # A longer name, or one that is not ASCII, may stand in a header of its own, before this one.
    is_whole = name.isascii() and len(name) <= _NAME_BYTES
    if info.size != place.size or (is_whole and info.name not in (name, _first_of(name))):
        return _changed(f"has {info.name[:200]!r} where this recording was")
    return None


def _first_of(name: str) -> str:
    """The name in the archive of NAME~2, the second member with this name."""
    return name.rpartition("~")[0]


def _large(fs: Any, path: str, place: Place, max_bytes: int) -> Opened | RecordingError:
    """A member that is read in pieces, like a file of its own."""
    if place.size > max_bytes:
        return _too_large(place.size, max_bytes)
    closing = ExitStack()
    try:
        file = closing.enter_context(
            fs.open(path, "rb", block_size=REQUEST_BYTES, cache_type="readahead")
        )
        file.seek(place.start - HEADER)
        if error := _moved(file.read(HEADER), place):
            closing.close()
            return error
        part = _Slice(file, place.start, place.size)
        digest, n_bytes = blake2b(digest_size=16), 0
        while block := part.read(REQUEST_BYTES):
            digest.update(block)
            n_bytes += len(block)
        part.seek(0)
    except Exception as error:
        closing.close()
        return explain_store_error(error)
    return Opened(cast(BinaryIO, part), place.size, f"{digest.hexdigest()}-{n_bytes}", closing)


class _Slice(RawIOBase):
    """Some bytes of a file as a file of their own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._start, self._size = start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self._at, 2: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, n: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if n < 0 else min(n, left))
        self._at += len(data)
        return data


def _read_stream(
    archive: OpenArchive, places: Sequence[Place], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    """A compressed tar, decompressed once from its front."""
    file = archive.file
    last, data = Place("", 0, 0), b""
    for place in places:
        if place == last:  # two parts of one recording
            yield _in_memory(data)
            continue
        file.seek(place.start - HEADER)
        if error := _moved(file.read(HEADER), place):
            yield error
        elif place.size > max_bytes:
            yield _too_large(place.size, max_bytes)
        elif place.size > _WHOLE:
            yield _spooled(file, place.size, "")
        else:
            last, data = place, file.read(place.size)
            yield _whole(data, place)


def _spooled(stream: Any, size: int, version: str) -> Opened:
    """A large member of a stream, through a temporary file that is gone when it is closed."""
    closing = ExitStack()
    hashed = _Hashed(stream, size)
    file, n_bytes = closing.enter_context(read_stream(cast(BinaryIO, hashed), size))
    return Opened(file, n_bytes, version or f"{hashed.digest.hexdigest()}-{n_bytes}", closing)


class _Hashed:
    """The next `size` bytes of a stream, and their hash so far."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream = stream
        self._left = size
        self.digest = blake2b(digest_size=16)

    def read(self, n: int) -> bytes:
        data: bytes = self._stream.read(min(n, self._left))
        self._left -= len(data)
        self.digest.update(data)
        return data


# ---------------------------------------------------------------------------------- zip


def _read_zip(
    archive: OpenArchive, places: Sequence[Place], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    with zipfile.ZipFile(archive.file) as file:
        infos = {start_of(info): info for info in file.infolist()}
        for place in places:
            yield _of_zip(file, infos.get(place.start), place, max_bytes)


def _of_zip(
    file: zipfile.ZipFile, info: zipfile.ZipInfo | None, place: Place, max_bytes: int
) -> Opened | RecordingError:
    if info is None or info.file_size != place.size:
        return _changed("has something else where this recording was")
    if info.file_size > max_bytes:  # what it says; no more than that is unpacked
        return _too_large(info.file_size, max_bytes)
    if not info.file_size:
        return _empty()
    try:
        with file.open(info) as member:
            if info.file_size > _WHOLE:
                return _spooled(member, info.file_size, version_of(info))
            return _in_memory(member.read(), version_of(info))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        return _damaged(error)
    except Exception as error:  # zlib.error is no OSError; a store raises many types
        if type(error).__name__ == "error":
            return RecordingError(
                ErrorType.UNDECODABLE, f"damaged in its archive: {one_line(error)}"
            )
        return explain_store_error(error)


# ------------------------------------------------------------------------------ parquet


def _read_parquet(
    archive: OpenArchive, places: Sequence[Place], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    file = pq.ParquetFile(archive.file, pre_buffer=False)
    column = audio_column(file.schema_arrow)
    if not column:
        yield from (_changed("has no column of audio any more") for _ in places)
        return
    values = _Values(file, column)
    for place in places:
        try:
            data = values.at(*place_of(place.start))
        except (pa.ArrowException, OSError, ValueError) as error:
            if archive.watched.failure:
                raise
            yield RecordingError(
                ErrorType.UNDECODABLE, f"damaged in its archive: {one_line(error)}"
            )
            continue
        if data is None:
            yield _changed("has no bytes in this row")
        elif len(data) > max_bytes:
            yield _too_large(len(data), max_bytes)
        else:
            yield _in_memory(data) if data else _empty()


class _Values:
    """The binary values of a column, read forward, _ROWS at a time."""

    def __init__(self, file: pq.ParquetFile, column: str) -> None:
        self._file = file
        self._column = column
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._first = 0  # row of the batch in the group
        self._batch: Any = ()

    def at(self, group: int, row: int) -> bytes | None:
        """The bytes of a row; None if it is null, or there is no such row."""
        if group != self._group or row < self._first:
            if group >= self._file.num_row_groups:
                return None
            self._group, self._first, self._batch = group, 0, ()
            self._batches = self._file.iter_batches(
                _ROWS, row_groups=[group], columns=[self._column], use_threads=False
            )
        while row >= self._first + len(self._batch):
            self._first += len(self._batch)
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._batch = batch.column(self._column)
        value = self._batch[row - self._first].as_py()
        data: bytes | None = value["bytes"] if isinstance(value, dict) else value
        return data


@contextmanager
def open_member(
    uri: str, place: Place, options: Mapping[str, Any], max_bytes: int
) -> Iterator[Opened]:
    """One member of the archive at `uri`. Raises RecordingError."""
    for item in read_members(uri, [place], options, max_bytes):
        if isinstance(item, RecordingError):
            raise item
        with item.closing, item.file:
            yield item
