"""The bytes of one recording, wherever it lies, and what they look like. Decodes nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

from pipeline.config import AudioConfig
from pipeline.errors import ErrorType, RecordingError
from pipeline.storage.store import filesystem_for
from pipeline.storage.store_errors import explain_store_error

_FETCH_WHOLE = 32 << 20  # bytes: one request is quicker than many small ones
_READ_AHEAD = 8 << 20  # bytes per request of a larger file, which is read from front to back

_SIGNATURES = (  # (offset, bytes, what it is, whether it may hold audio)
    (0, b"RIFF", "RIFF", True),
    (0, b"fLaC", "FLAC", True),
    (0, b"OggS", "Ogg", True),
    (0, b"ID3", "MP3", True),
    (4, b"ftyp", "MP4", True),
    (0, b"\x1a\x45\xdf\xa3", "Matroska", True),
    (0, b"#!AMR", "AMR", True),
    (0, b"\x30\x26\xb2\x75", "ASF", True),
    (0, b"FORM", "AIFF", True),
    (0, b"RF64", "RF64", True),
    (0, b"NIST_1A", "NIST SPHERE", True),
    (0, b"\x1f\x8b", "gzip", False),
    (0, b"PK\x03\x04", "a zip archive", False),
    (0, b"\x28\xb5\x2f\xfd", "zstd", False),
    (0, b"BZh", "bzip2", False),
    (0, b"\xfd7zXZ", "xz", False),
    (0, b"%PDF", "PDF", False),
    (0, b"\x89PNG", "a PNG image", False),
    (0, b"\xff\xd8\xff", "a JPEG image", False),
    (0, b"PAR1", "parquet", False),
)


class Source:
    """A file that remembers why it failed.

    libsndfile reads through C callbacks: cffi prints an exception raised in one and returns 0,
    which looks like the end of the file. So an exception is kept here, and asked for afterwards.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self.is_held = isinstance(file, BytesIO)  # all of it was read when it was opened
        self._file = file
        self._failure: Exception | None = None

    def read(self, n: int = -1) -> bytes:
        try:
            return self._file.read(n)
        except Exception as error:
            self._failure = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError):  # before the start, as broken headers ask for
            return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def head(self, n: int, start: int = 0) -> bytes:
        self.seek(start)
        data = self.read(n)
        self.seek(0)
        self.check()
        return data

    def check(self) -> None:
        """Raise what reading has failed with, if it has."""
        if self._failure:
            raise explain_store_error(self._failure)


@contextmanager
def open_source(uri: str, config: AudioConfig, options: Mapping[str, Any]) -> Iterator[Source]:
    """The bytes of a recording; small ones are read at once. Raises RecordingError."""
    try:
        fs, path = filesystem_for(uri, options)
        info = fs.info(path)
        size = info["size"] or 0
        if info["type"] != "file":  # a FIFO or /dev/zero would never end
            raise RecordingError(
                ErrorType.NOT_A_FILE, f"{path} is a {info['type']}, not a regular file"
            )
        if not size:
            raise RecordingError(ErrorType.EMPTY_FILE, "the file has no bytes")
        if size > config.max_bytes:
            raise RecordingError(
                ErrorType.TOO_LARGE, f"{size} bytes; audio.max_bytes allows {config.max_bytes}"
            )
        # A web server may send more than it has announced: there, only ranges are asked for.
        if size <= _FETCH_WHOLE and "http" not in fs.protocol:
            file: BinaryIO = BytesIO(fs.cat_file(path))
        else:
            file = fs.open(path, "rb", block_size=_READ_AHEAD, cache_type="readahead")
    except RecordingError:
        raise
    except Exception as error:
        raise explain_store_error(error) from error
    with file:
        yield Source(file, size)


def sniff(head: bytes) -> tuple[str, bool | None]:
    """What the first bytes look like, and whether that may hold audio (None: cannot tell)."""
    for start, signature, name, is_audio in _SIGNATURES:
        if head[start:].startswith(signature):
            return name, is_audio
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "HTML", False
    if text.startswith((b"<?xml", b"<error")):
        return "an XML error document" if b"<error" in text else "XML", False
    if text.startswith((b"{", b"[")) and head.isascii():
        return "JSON", False
    if head.isascii() and head.decode("ascii").replace("\n", "").replace("\r", "").isprintable():
        return "text", False
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return ("AAC" if head[1] & 0xF6 == 0xF0 else "MP3"), True
    return f"unknown bytes ({head[:8].hex(' ')})", None
