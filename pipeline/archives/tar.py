"""The members of a tar, from its headers, and their bytes.

A listing reads the texts beside recordings, and no audio. A writer that was stopped leaves a tar
without its end: two blocks of zeros. tarfile takes that, and a damaged header, for the end; here
both are damage. Bytes are read by ranges, neighbours in one request; of a compressed tar as one
stream.
"""

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from hashlib import blake2b
from io import RawIOBase
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

import pyarrow as pa

from pipeline.archives.members import Listing, MemberList
from pipeline.archives.opened import (
    REQUEST_BYTES,
    WHOLE,
    Opened,
    Place,
    changed,
    in_memory,
    spooled,
    too_large,
    whole,
)
from pipeline.archives.streams import HEADER, OpenArchive
from pipeline.errors import RecordingError, one_line
from pipeline.storage.store import filesystem_for
from pipeline.storage.store_errors import explain_store_error

_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, pa.ArrowException)


def list_tar(archive: OpenArchive) -> Listing:
    """The recordings in a tar. Raises what the store raises; damage is told in the listing."""
    members = MemberList()
    file = archive.file

    def read(info: tarfile.TarInfo) -> bytes:
        file.seek(info.offset_data)
        data = file.read(info.size)
        if len(data) < info.size:
            raise tarfile.ReadError(f"{info.name!r} ends after {len(data):,} of its bytes")
        return data

    try:
        for info in _headers(file):
            if info.isreg() and not info.issparse():
                members.add_file(info.name, info.offset_data, info.size, partial(read, info))
            elif not info.isdir():
                members.skip("links and others")
    except _DAMAGE as error:
        if not archive.is_damage(error):
            raise
        return members.listing("tar", one_line(error))
    return members.listing("tar")


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every header. Raises tarfile.ReadError where the tar is damaged or has no end."""
    tar: Any
    with tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            after = info.offset_data + (info.size if info.isreg() else 0)
            _check_end(file, after)
            yield info
            tar.members = []  # tarfile keeps every header
        end: int = tar.offset
    file.seek(end)
    block = file.read(HEADER)
    if len(block) < HEADER:
        raise tarfile.ReadError("it ends without the end mark of a tar")
    if any(block):
        raise tarfile.ReadError("there is no header where one should be")


def _check_end(file: BinaryIO, after: int) -> None:
    """Raise tarfile.ReadError if a member ends after the file does."""
    back = file.tell()
    if after > back:
        file.seek(after - 1)
        if not file.read(1):
            raise tarfile.ReadError("it ends within a recording")


# ---------------------------------------------------------------------- reading

_FAR = 1 << 20  # bytes between two members from which on a second request is quicker
_NAME_BYTES = 100  # that the plain header of a tar has room for


def read_tar(
    uri: str, options: Mapping[str, Any], places: Sequence[Place], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    """A tar by ranges: neighbours in one request, large members alone."""
    fs, path = filesystem_for(uri, options)
    for group in neighbours(places):
        first, last = group[0], group[-1]
        if first.size > min(WHOLE, max_bytes):  # such a member is alone
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
    if error := moved(header, place):
        return error
    return whole(data, place)


def moved(header: bytes, place: Place) -> RecordingError | None:
    """What is wrong if this is not the header of the member; None if it is."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return changed("has something else where this recording was")
    name = unquote(place.name, errors="surrogateescape")
    # A longer name, or one that is not ASCII, may stand in a header of its own, before this one.
    is_whole = name.isascii() and len(name) <= _NAME_BYTES
    if info.size != place.size or (is_whole and info.name not in (name, _first_of(name))):
        return changed(f"has {info.name[:200]!r} where this recording was")
    return None


def _first_of(name: str) -> str:
    """The name in the archive of NAME~2, the second member with this name."""
    return name.rpartition("~")[0]


def _large(fs: Any, path: str, place: Place, max_bytes: int) -> Opened | RecordingError:
    """A member that is read in pieces, like a file of its own."""
    if place.size > max_bytes:
        return too_large(place.size, max_bytes)
    closing = ExitStack()
    try:
        file = closing.enter_context(
            fs.open(path, "rb", block_size=REQUEST_BYTES, cache_type="readahead")
        )
        file.seek(place.start - HEADER)
        if error := moved(file.read(HEADER), place):
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


def read_stream_of_tar(
    archive: OpenArchive, places: Sequence[Place], max_bytes: int
) -> Iterator[Opened | RecordingError]:
    """A compressed tar, decompressed once from its front."""
    file = archive.file
    last, data = Place("", 0, 0), b""
    for place in places:
        if place == last:  # two parts of one recording
            yield in_memory(data)
            continue
        file.seek(place.start - HEADER)
        if error := moved(file.read(HEADER), place):
            yield error
        elif place.size > max_bytes:
            yield too_large(place.size, max_bytes)
        elif place.size > WHOLE:
            yield spooled(file, place.size, "")
        else:
            last, data = place, file.read(place.size)
            yield whole(data, place)
