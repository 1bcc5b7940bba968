"""The files of one snapshot as a read-only filesystem for DuckDB. Knows names, not contents.

DuckDB takes a path for a pattern: below a directory `a*b` it would also read the files of `axb`.
Here a name is one file of the snapshot, or no file. Nothing can be written. DuckDB's own setting
allowed_paths is not enough: `COPY ... TO` then overwrites a table file (seen with DuckDB 2.0.1).
"""

import hashlib
import io
import threading
from datetime import datetime
from typing import Any

from fsspec import AbstractFileSystem

from pipeline.storage.store import Store


class _ThreadsOwnPlaces(io.RawIOBase):
    """A file in which each thread has a position of its own.

    DuckDB reads a Python file from several threads: each calls seek and then read (pyfilesystem.cpp
    in duckdb-python), and the position of an ordinary file is shared. Then a thread reads at the
    place where another one wanted to (seen with 2.0.1 as "only 4355 bytes returned"; where the
    lengths fit, the bytes are simply wrong).
    """

    def __init__(self, filesystem: AbstractFileSystem, uri: str) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._uri = uri
        self._size = int(filesystem.size(uri))
        self._places = threading.local()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._size}[whence]
        self._places.at = origin + offset
        return int(self._places.at)

    def tell(self) -> int:
        return int(getattr(self._places, "at", 0))

    def read(self, size: int = -1) -> bytes:
        start = self.tell()
        end = self._size if size < 0 else min(start + size, self._size)
        if start >= end:
            return b""
        data: bytes = self._filesystem.cat_file(self._uri, start=start, end=end)
        self._places.at = start + len(data)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class SnapshotFiles(AbstractFileSystem):
    """Reads `{protocol}://{key}` for keys that were added; nothing else exists."""

    cachable = False  # fsspec would give two snapshots of equal arguments the same object

    def __init__(self, store: Store, snapshot: str) -> None:
        super().__init__()
        digest = hashlib.sha256(f"{store.root} {snapshot}".encode()).hexdigest()
        self.protocol = f"snapshot{digest[:32]}"
        self._store = store
        self._uris: dict[str, str] = {}

    def add(self, key: str) -> str:
        """The URI under which DuckDB reads this key."""
        uri = f"{self.protocol}://{key}"
        self._uris[uri] = self._store.uri(key)
        return uri

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """As fsspec defines it."""
        return {**self._store.filesystem.info(self._real(path)), "name": path}

    def modified(self, path: str) -> datetime:
        """As fsspec defines it."""
        written: datetime = self._store.filesystem.modified(self._real(path))
        return written

    def exists(self, path: str, **_: Any) -> bool:
        """As fsspec defines it."""
        return path in self._uris

    def glob(self, path: str, **_: Any) -> list[str]:
        """The path itself: no character in it is a pattern."""
        return [path] if path in self._uris else []

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """As fsspec defines it."""
        if path not in self._uris:
            return []
        return [self.info(path)] if detail else [path]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"{path}: a snapshot can only be read")
        return _ThreadsOwnPlaces(self._store.filesystem, self._real(path))

    def _real(self, path: str) -> str:
        try:
            return self._uris[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path
