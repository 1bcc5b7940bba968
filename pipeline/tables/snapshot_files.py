"""The files of one snapshot as a read-only filesystem for DuckDB. Knows names, not contents.

DuckDB takes a path for a pattern: below a directory `a*b` it would also read the files of `axb`.
Here a name is one file of the snapshot, or no file. Nothing can be written. DuckDB's own setting
allowed_paths is not enough: `COPY ... TO` then overwrites a table file (seen with DuckDB 2.0.1).
"""

import hashlib
from datetime import datetime
from typing import Any

from fsspec import AbstractFileSystem

from pipeline.storage.store import Store


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
        return self._store.filesystem.open(self._real(path), "rb")

    def _real(self, path: str) -> str:
        try:
            return self._uris[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path
