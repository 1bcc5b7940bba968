"""Open the bytes of an archive, and tell its kind. Knows nothing of its members."""

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa

from pipeline.storage.store import filesystem_for

Kind = Literal["tar", "zip", "parquet"]

HEADER = 512  # bytes of a block of a tar, and of a header in it
MOST_TEXT = 1 << 20  # bytes of a text beside a recording
_BLOCK = 4 << 20  # bytes that a stream decompresses at a time
_BACK = MOST_TEXT + HEADER  # bytes before the place of a stream that can be read again
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"BZ": "bz2"}


@dataclass(frozen=True, slots=True)
class OpenArchive:
    """An archive, open at its first byte."""

    kind: Kind
    file: BinaryIO
    is_stream: bool  # compressed: it can be read forward only
    watched: "Watched"

    def is_damage(self, error: BaseException) -> bool:
        """Whether the archive is damaged, and not its store away."""
        return self.watched.failure is None and not isinstance(error, MemoryError)


class Watched(RawIOBase):
    """A file that keeps the exception of a failed read.

    pyarrow and tarfile raise OSError for damaged bytes, too, so the type alone does not tell.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: BaseException | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        try:
            return self._file.read(n)
        except BaseException as error:
            self.failure = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class Forward(RawIOBase):
    """A decompressed stream as a file that can be read forward, and _BACK bytes back.

    What is in memory is a block, however long the stream is.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._held = b""
        self._start = 0  # where `_held` begins
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        target = offset if whence == 0 else self._at + offset
        if whence == 2 or target < self._start:
            raise ValueError(f"a compressed archive is read forward, not back to byte {target}")
        self._at = target
        return target

    def read(self, n: int = -1) -> bytes:
        parts = []
        while n != 0:
            at = self._at - self._start
            part = self._held[at:] if n < 0 else self._held[at : at + n]
            if part:
                parts.append(part)
                self._at += len(part)
                n -= len(part) if n > 0 else 0
            elif not self._next():
                break
        return b"".join(parts)

    def _next(self) -> bool:
        block = bytes(self._stream.read(_BLOCK))
        tail = self._held[-_BACK:]
        self._start += len(self._held) - len(tail)
        self._held = tail + block
        return bool(block)


@contextmanager
def open_archive(
    uri: str, options: Mapping[str, Any], request_bytes: int
) -> Iterator[OpenArchive | None]:
    """The archive at `uri`; None if the bytes are those of no archive.

    A store is asked for `request_bytes` at a time, more only if one read needs more.
    """
    fs, path = filesystem_for(uri, options)
    with fs.open(path, "rb", block_size=request_bytes, cache_type="readahead") as raw:
        watched = Watched(cast(BinaryIO, raw))
        head = watched.read(HEADER)
        watched.seek(0)
        yield _opened(head, watched)


def is_plain_tar(uri: str, options: Mapping[str, Any]) -> bool:
    """Whether the archive is a tar that is not compressed; one request for its first header."""
    fs, path = filesystem_for(uri, options)
    return _is_tar(fs.cat_file(path, start=0, end=HEADER))


def _opened(head: bytes, watched: Watched) -> OpenArchive | None:
    file = cast(BinaryIO, watched)
    if head[:4] == b"PAR1":
        return OpenArchive("parquet", file, False, watched)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return OpenArchive("zip", file, False, watched)
    if _is_tar(head):
        return OpenArchive("tar", file, False, watched)
    if compression := _COMPRESSIONS.get(head[:2]):
        stream = cast(BinaryIO, Forward(pa.CompressedInputStream(file, compression)))
        try:
            is_tar = _is_tar(stream.read(HEADER))
        except (OSError, ValueError):
            if watched.failure:
                raise
            return None
        stream.seek(0)
        return OpenArchive("tar", stream, True, watched) if is_tar else None
    return None


def _is_tar(head: bytes) -> bool:
    if len(head) < HEADER:
        return False
    if not any(head):  # an empty tar, or a file of zeros: in both there is no recording
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True
