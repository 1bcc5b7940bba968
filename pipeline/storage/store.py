"""Objects by key under one root, local or S3, written atomically. Knows nothing of their content.

An object is complete or absent: callers pass all its bytes, which become visible in one step.
`put_if_absent` is the only lock of the project; `probe` checks that a store supports it before
anything is committed.
"""

import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StoreError
from pipeline.storage import http_guard
from pipeline.storage.conditional_put import (
    OPTION,
    choose_dialect,
    endpoint_of,
    is_conflict_error,
    is_exists_error,
    translator,
)
from pipeline.storage.store_errors import uri_in_errors

_OUR_OPTIONS = (OPTION, http_guard.OPTION)
_CONFLICT_RETRIES = 10  # after an answer 409: S3 gives it while another conditional PUT runs
_CONFLICT_WAIT_S = 0.2
_SINGLE_PUT = 5 << 30  # bytes, S3's limit; s3fs uploads in parts from twice its chunk size


class Store(Protocol):
    """A flat space of immutable objects. Keys use "/" and are relative to `root`."""

    @property
    def root(self) -> str:
        """Absolute path or s3:// URI, without a trailing slash."""

    @property
    def filesystem(self) -> AbstractFileSystem:
        """Reads `uri(key)`; for byte ranges, DuckDB, pandas and polars."""

    def put(self, key: str, data: bytes) -> None:
        """Write or replace, atomically."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """True if `key` now holds `data`; False if it holds other bytes.

        If the answer to a successful write is lost, the client sends the write again, and the store
        answers that the object exists. So the bytes are read back and compared: make them unique.
        """

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""

    def list(self, prefix: str) -> Sequence[str]:
        """Sorted keys under the directory `prefix`; no directory markers, no temporary files."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove these objects; a missing key is no error."""

    def sweep(self, older_s: float) -> int:
        """Remove temporary files of crashed writers that are older than this; their number."""

    def uri(self, key: str) -> str:
        """Full path or URI of a key, as `filesystem` takes it."""


def open_store(root: str, options: Mapping[str, Any] | None = None) -> Store:
    """The store at a local path, a file:// or an s3:// URI; `options` as fsspec takes them.

    Do not put secrets into the options: s3fs finds them where every AWS client does. One option is
    our own: `conditional_put` names the header for conditional writes (see conditional_put), for
    stores whose endpoint does not show it. Raises StoreError for any other scheme.
    """
    scheme, separator, rest = root.partition("://")
    if not separator:
        return LocalStore(root)
    if scheme == "file":
        return LocalStore(rest)
    if scheme == "s3" and rest.strip("/"):
        try:
            return S3Store(root, options or {})
        except ValueError as error:
            raise StoreError(f"{root}: {error}") from error
    raise StoreError(f"{root}: cannot commit here; use a local path or s3://bucket/prefix")


def filesystem_for(
    uri: str, options: Mapping[str, Any] | None = None
) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem that reads `uri`, and the path to pass to it.

    The options are those of the object store; local files and http(s) ignore them. The filesystem
    is shared. It caches no listings, which would hide objects that other processes write later.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return LocalFileSystem(), rest if separator else uri
    if scheme in ("s3", "s3a"):
        return _shared_s3(json.dumps(_s3_options(options or {}), sort_keys=True)), rest
    given = {name: value for name, value in (options or {}).items() if name not in _OUR_OPTIONS}
    if scheme in ("http", "https"):
        given = http_guard.http_options(bool((options or {}).get(http_guard.OPTION)))
    return fsspec.filesystem(scheme, use_listings_cache=False, **given), uri


@lru_cache(maxsize=16)
def _shared_s3(options: str) -> AbstractFileSystem:
    """One client for all threads: fsspec's cache makes one for each thread, at 50 ms of CPU."""
    return fsspec.filesystem("s3", skip_instance_cache=True, **json.loads(options))


class LocalStore:
    """A directory. A write fills a hidden temporary file, flushes it to disk, then renames it."""

    def __init__(self, root: str) -> None:
        self.root = str(Path(root).expanduser().absolute())
        self.filesystem: AbstractFileSystem = LocalFileSystem()

    def put(self, key: str, data: bytes) -> None:
        path = Path(self.uri(key))
        with _temporary(path, data) as temporary:
            temporary.replace(path)
        _sync_directory(path.parent)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = Path(self.uri(key))
        with _temporary(path, data) as temporary:
            try:
                path.hardlink_to(temporary)  # link(2) fails if the name exists, rename(2) does not
            except FileExistsError:
                return path.read_bytes() == data
        _sync_directory(path.parent)
        return True

    def get(self, key: str) -> bytes:
        return Path(self.uri(key)).read_bytes()

    def list(self, prefix: str) -> Sequence[str]:
        top = Path(self.uri(prefix))
        return sorted(
            Path(directory, name).relative_to(self.root).as_posix()
            for directory, _, names in os.walk(top)
            for name in names
            if not name.startswith(".")
        )

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            Path(self.uri(key)).unlink(missing_ok=True)

    def sweep(self, older_s: float) -> int:
        old = [path for path in Path(self.root).rglob(".*.tmp") if _age_s(path) > older_s]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)

    def uri(self, key: str) -> str:
        return str(Path(self.root, key))


class S3Store:
    """A bucket, or a prefix in a bucket. Every write is one PUT, which is atomic in S3."""

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        self.root = root.rstrip("/")
        self.filesystem: AbstractFileSystem = fsspec.filesystem(
            "s3", skip_instance_cache=True, **_s3_options(options)
        )
        # A separate client: its handler is part of a session, which cannot be pickled, and readers
        # may send `filesystem` to other processes.
        self._conditional: AbstractFileSystem = fsspec.filesystem(
            "s3", skip_instance_cache=True, session=_session(options), **_s3_options(options)
        )

    def put(self, key: str, data: bytes) -> None:
        with uri_in_errors(self.uri(key)):
            self.filesystem.pipe_file(self.uri(key), data, chunksize=_SINGLE_PUT)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        for _ in range(_CONFLICT_RETRIES):
            try:
                with uri_in_errors(self.uri(key)):
                    self._conditional.pipe_file(
                        self.uri(key), data, chunksize=_SINGLE_PUT, mode="create"
                    )
            except OSError as error:
                if is_exists_error(error):
                    return self.get(key) == data
                if not is_conflict_error(error):
                    raise
                time.sleep(_CONFLICT_WAIT_S)
                continue
            return True
        raise StoreError(
            f"{self.uri(key)}: the store answered {_CONFLICT_RETRIES} times in a row that another "
            "conditional write of it is running; run again later"
        )

    def get(self, key: str) -> bytes:
        with uri_in_errors(self.uri(key)):
            data: bytes = self.filesystem.cat_file(self.uri(key))
        return data

    def list(self, prefix: str) -> Sequence[str]:
        try:
            with uri_in_errors(self.uri(prefix)):
                paths = self.filesystem.find(self.uri(prefix))
        except FileNotFoundError:
            return []
        skip = len(self.root.removeprefix("s3://")) + 1
        return sorted(path[skip:] for path in paths if not path.endswith("/"))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError), uri_in_errors(self.uri(key)):
                self.filesystem.rm_file(self.uri(key))

    def sweep(self, older_s: float) -> int:
        return 0  # a single PUT leaves no temporary files

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A hidden file beside `path` with `data`, flushed to disk; deleted unless it is renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if temporary.stat().st_size != len(data):
            raise OSError(f"{path}: only some of {len(data)} bytes were written to the disk")
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    """Flush a directory to disk: only then does a new name in it survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # its writer finished in the meantime
        return 0.0


def _session(options: Mapping[str, Any]) -> Any:
    """A session whose conditional PUTs use the header of this store."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=options.get("profile"))
    session.register("before-sign.s3.PutObject", translator(choose_dialect(options)))
    return session


def _s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for s3fs with time limits and without a listing cache; `options` override them."""
    config: dict[str, Any] = {
        "connect_timeout": 5,  # s
        "read_timeout": 60,  # s
        "retries": {"mode": "standard", "max_attempts": 5},
    }
    if endpoint_of(options):
        # From 1.36 on, botocore adds checksum trailers that other servers refuse or store as data.
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
    if choose_dialect(options) == "x-oss-forbid-overwrite":
        config["s3"] = {"addressing_style": "virtual"}  # OSS supports no other
    return {
        "use_listings_cache": False,
        **{name: value for name, value in options.items() if name not in _OUR_OPTIONS},
        "config_kwargs": {**config, **options.get("config_kwargs", {})},
    }
