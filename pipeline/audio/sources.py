"""Open the bytes of a recording at any URI and detect their format. Decodes nothing."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO, RawIOBase
from typing import Any, BinaryIO

from pipeline.archives.listing import open_by_name
from pipeline.archives.opened import Opened, Place
from pipeline.config import AudioConfig
from pipeline.errors import ErrorType, RecordingError
from pipeline.storage.address import split_member
from pipeline.storage.store import filesystem_for, read_stream
from pipeline.storage.store_errors import explain_store_error
from pipeline.storage.versions import version_of

_FETCH_WHOLE = 32 << 20  # bytes; up to this size one request is faster than many small ones
_READ_AHEAD = 8 << 20  # bytes per request for a larger file, which is read from start to end

_SIGNATURES = (  # (offset, bytes, format, whether it may contain audio)
    (0, b"RIFF", "RIFF", True),
    (0, b"RIFX", "RIFX", True),
    (0, b"wvpk", "WavPack", True),
    (0, b"MAC ", "Monkey's Audio", True),
    (0, b"TTA", "TTA", True),
    (0, b"DSD ", "DSF", True),
    (0, b"FRM8", "DSDIFF", True),
    (0, b"caff", "CAF", True),
    (0, b"riff", "Wave64", True),
    (0, b".snd", "AU", True),
    (0, b"Creative Voice File", "VOC", True),
    (0, b"ajkg", "Shorten", True),
    (0, b"tBaK", "TAK", True),
    (0, b"MP+", "Musepack", True),
    (0, b"MPCK", "Musepack", True),
    (0, b"FLV\x01", "FLV", True),
    (0, b".RMF", "RealMedia", True),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01", "MXF", True),
    (0, b"PVF1", "PVF", True),
    (0, b" paf", "PAF", True),
    (0, b"2BIT", "AVR", True),
    (0, b"\x64\xa3", "IRCAM", True),
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
    """A file object that keeps the exception of a failed read, for `check` to raise later.

    libsndfile reads through C callbacks. If one raises an exception, cffi prints it and returns 0,
    which libsndfile takes for the end of the file.
    """

    def __init__(self, file: BinaryIO | RawIOBase, size: int, version: str = "") -> None:
        self.size = size
        self.version = version  # of the object before its first byte was read
        self.is_in_memory = isinstance(file, BytesIO)  # the whole file was read when opened
        self._file = file
        self._failure: Exception | None = None

    def read(self, n: int = -1) -> bytes:
        try:
            return self._file.read(n) or b""
        except Exception as error:
            self._failure = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError):  # before the start of the file, because of a broken header
            return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def head(self, n: int, start: int = 0) -> bytes:
        """`n` bytes from `start`; the place in the file stays. Raises RecordingError."""
        position = self.tell()
        self.seek(start)
        data = self.read(n)
        self.seek(position)
        self.check()
        return data

    def find(self, magic: bytes, start: int) -> int:
        """Where these bytes stand from `start` on, in a file that is in memory; -1 if nowhere."""
        held = self._file.getvalue() if isinstance(self._file, BytesIO) else b""
        return held.find(magic, start)

    def part(self, start: int, end: int, patches: Mapping[int, bytes]) -> "Source":
        """The bytes from `start` to before `end`, with other bytes at some places of the file."""
        if not patches and (start, end) == (0, self.size):
            return self
        return Source(_Part(self, start, end, patches), end - start)

    def check(self) -> None:
        """Raise RecordingError if a read failed."""
        if self._failure:
            raise explain_store_error(self._failure)


class _Part(RawIOBase):
    """Some bytes of a source as a file of their own; see Source.part."""

    def __init__(self, source: Source, start: int, end: int, patches: Mapping[int, bytes]) -> None:
        self._source = source
        self._start, self._end = start, end
        self._patches = patches
        self._at = start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        at, left = self._at, self._end - self._at
        self._source.seek(at)
        data = bytearray(self._source.read(left if n < 0 else min(n, left)))
        for place, patch in self._patches.items():
            for index, byte in enumerate(patch, start=place - at):
                if 0 <= index < len(data):
                    data[index] = byte
        self._at += len(data)
        return bytes(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: self._start, 1: self._at, 2: self._end}[whence]
        self._at = min(max(self._start, base + offset), self._end)
        return self.tell()

    def tell(self) -> int:
        return self._at - self._start


@contextmanager
def open_source(
    uri: str, config: AudioConfig, options: Mapping[str, Any], start: int = 0, n_bytes: int = 0
) -> Iterator[Source]:
    """The bytes of a recording; a small file is read at once. Raises RecordingError.

    `start` and `n_bytes` are those of the plan for a member of an archive; without them its archive
    is listed.
    """
    if member := split_member(uri):
        place = Place(member.name, start, n_bytes) if start else None
        with open_by_name(member, place, options, config.max_bytes) as opened:
            yield member_source(opened)
        return
    with _open_file(uri, config, options) as source:
        yield source


def member_source(opened: Opened) -> Source:
    """A source for the bytes of a member of an archive."""
    return Source(opened.file, opened.size, opened.version)


@contextmanager
def _open_file(uri: str, config: AudioConfig, options: Mapping[str, Any]) -> Iterator[Source]:
    try:
        fs, path = filesystem_for(uri, options)
        info = fs.info(path)
        size = info["size"] or 0
        version = version_of(fs, path, info)
        if info["type"] != "file":  # a FIFO or /dev/zero would never end
            raise RecordingError(
                ErrorType.NOT_A_FILE, f"{path} is a {info['type']}, not a regular file"
            )
        stream, closing = None, ExitStack()
        has_ranges = info["size"] is not None and info.get("partial") is not False
        if not has_ranges and size <= config.max_bytes:  # some web servers
            with fs.open(path, "rb") as unseekable:
                stream, size = closing.enter_context(read_stream(unseekable, config.max_bytes))
        if not size:
            raise RecordingError(ErrorType.EMPTY_FILE, "the file has no bytes")
        if size > config.max_bytes:
            raise RecordingError(
                ErrorType.TOO_LARGE, f"{size} bytes; audio.max_bytes allows {config.max_bytes}"
            )
        file: BinaryIO
        # A web server may send more bytes than it announced, so only ranges are requested there.
        if stream is not None:
            file = stream
        elif size <= _FETCH_WHOLE and "http" not in fs.protocol:
            # Without a range s3fs asks for the size once more, to fetch large objects in parts.
            file = BytesIO(fs.cat_file(path, start=0, end=size))
        else:
            file = fs.open(path, "rb", block_size=_READ_AHEAD, cache_type="readahead")
    except RecordingError:
        raise
    except Exception as error:
        raise explain_store_error(error) from error
    with closing, file:
        yield Source(file, size, version)


def detect_format(head: bytes) -> tuple[str, bool | None]:
    """The format by its first bytes, and whether it may contain audio (None: unknown)."""
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
