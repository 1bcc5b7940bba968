"""A member that is open, or why it cannot be. Knows no archive."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple, cast

from pipeline.errors import ErrorType, RecordingError, one_line
from pipeline.storage.store import read_stream

REQUEST_BYTES = 8 << 20  # of an archive at a time
WHOLE = 32 << 20  # bytes of a member that are held in memory


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


def version_of_bytes(data: bytes) -> str:
    """The version of a member: a hash of its bytes, and their number."""
    return f"{blake2b(data, digest_size=16).hexdigest()}-{len(data)}"


def in_memory(data: bytes, version: str = "") -> Opened:
    return Opened(BytesIO(data), len(data), version or version_of_bytes(data))


def too_large(size: int, max_bytes: int) -> RecordingError:
    return RecordingError(ErrorType.TOO_LARGE, f"{size} bytes; audio.max_bytes allows {max_bytes}")


def changed(what: str) -> RecordingError:
    return RecordingError(
        ErrorType.CHANGED_WHILE_READ, f"the archive {what}: it was rewritten; run again"
    )


def damaged(error: Exception) -> RecordingError:
    return RecordingError(ErrorType.UNDECODABLE, f"damaged in its archive: {one_line(error)}")


def empty() -> RecordingError:
    return RecordingError(ErrorType.EMPTY_FILE, "the file has no bytes")


def whole(data: bytes, place: Place) -> Opened | RecordingError:
    if len(data) < place.size:
        return changed("ends within this recording")
    return in_memory(data) if data else empty()


def spooled(stream: Any, size: int, version: str) -> Opened:
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
