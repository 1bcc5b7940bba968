"""Objects by key under one root, local or S3. Knows atomic writes; knows nothing of what they hold.

A key is complete or absent: data is serialised before it comes here and becomes visible in one
step. `put_if_absent` is the only lock of the project; `probing` asks a store whether it keeps that
promise before anything is built on it.
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
from pipeline.storage import http_guard as web
from pipeline.storage.conditional_put import (
    OPTION,
    choose_dialect,
    endpoint_of,
    says_conflict,
    says_exists,
    translator,
)
from pipeline.storage.store_errors import uri_in_errors

_OUR_OPTIONS = (OPTION, web.OPTION)
_CONFLICT_RETRIES = 10  # of 409 answers: S3 gives them while another conditional PUT is under way
_CONFLICT_WAIT_S = 0.2
_SINGLE_PUT = 5 << 30  # bytes, S3's limit; s3fs cuts into parts from twice its chunk size on


class Store(Protocol):
    """A flat space of immutable objects. Keys use "/" and are relative to `root`."""

    @property
    def root(self) -> str:
        """Absolute path or s3:// URI, without a trailing slash."""

    @property
    def filesystem(self) -> AbstractFileSystem:
        """For readers of `uri(key)`: ranges, DuckDB, pandas, polars."""

    def put(self, key: str, data: bytes) -> None:
        """Write or replace, atomically."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """True if `data` now lies under `key`; False if somebody else's bytes do.

        An answer that was lost on the way back is retried by the client and then looks like
        somebody else's success, so the bytes are read back and compared: make them unique.
        """

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""

    def list(self, prefix: str) -> Sequence[str]:
        """Sorted keys under the directory `prefix`; no directory markers, no temporaries."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove; a key that is not there is no error."""

    def sweep(self, older_s: float) -> int:
        """Remove what writers that died left without a name, of this age; how many."""

    def uri(self, key: str) -> str:
        """Full path or URI of a key, as readers of `filesystem` want it."""


def open_store(root: str, options: Mapping[str, Any] | None = None) -> Store:
    """The store at a local path, a file:// or an s3:// URI; `options` as fsspec takes them.

    Secrets are not among the options: s3fs finds them where every AWS client does. One option is
    our own: `conditional_put` names how the store is asked not to overwrite (see conditional_put),
    where that cannot be told from the endpoint. Raises StoreError for any other scheme.
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
    """The fsspec filesystem that reads `uri`, and the path to give it.

    Options belong to the object store: local and http(s) addresses do not see them. The
    filesystem is shared and never caches listings, which would hide objects that another process
    has written since.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return LocalFileSystem(), rest if separator else uri
    if scheme in ("s3", "s3a"):
        return _shared_s3(json.dumps(_s3_options(options or {}), sort_keys=True)), rest
    given = {name: value for name, value in (options or {}).items() if name not in _OUR_OPTIONS}
    if scheme in ("http", "https"):
        given = web.http_options(bool((options or {}).get(web.OPTION)))
    return fsspec.filesystem(scheme, use_listings_cache=False, **given), uri


@lru_cache(maxsize=16)
def _shared_s3(options: str) -> AbstractFileSystem:
    """One client for all threads: fsspec's own cache has one for each, at 50 CPU-ms apiece."""
    return fsspec.filesystem("s3", skip_instance_cache=True, **json.loads(options))


class LocalStore:
    """A directory. Writes go to a hidden temporary, reach the disk and take their name last."""

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
                path.hardlink_to(temporary)  # link(2) fails if the name is taken, rename(2) not
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
    """A bucket or a prefix in one. Every write is a single PUT, which S3 makes atomic."""

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        self.root = root.rstrip("/")
        self.filesystem: AbstractFileSystem = fsspec.filesystem(
            "s3", skip_instance_cache=True, **_s3_options(options)
        )
        # A client of its own: the handler lives in a session, which cannot be pickled, and readers
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
                if says_exists(error):
                    return self.get(key) == data
                if not says_conflict(error):
                    raise
                time.sleep(_CONFLICT_WAIT_S)
                continue
            return True
        raise StoreError(
            f"{self.uri(key)}: another conditional write was under way {_CONFLICT_RETRIES} times "
            "in a row; run again later"
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
        return 0  # a single PUT is there or it is not

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A hidden neighbour of `path` that holds `data` on disk; gone afterwards, unless renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if temporary.stat().st_size != len(data):
            raise OSError(f"{path}: only a part of {len(data)} bytes reached the disk")
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    """A new name survives a power cut only once its directory is on disk, too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # its writer has finished meanwhile
        return 0.0


def _session(options: Mapping[str, Any]) -> Any:
    """A session whose conditional PUTs speak the dialect of the store."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=options.get("profile"))
    session.register("before-sign.s3.PutObject", translator(choose_dialect(options)))
    return session


def _s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Fsspec options with bounded waiting and no listing cache; what the caller says, wins."""
    config: dict[str, Any] = {
        "connect_timeout": 5,  # s
        "read_timeout": 60,  # s
        "retries": {"mode": "standard", "max_attempts": 5},
    }
    if endpoint_of(options):
        # Since 1.36 botocore adds checksum trailers that other servers refuse or store as data.
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
    if choose_dialect(options) == "x-oss-forbid-overwrite":
        config["s3"] = {"addressing_style": "virtual"}  # OSS knows no other
    return {
        "use_listings_cache": False,
        **{name: value for name, value in options.items() if name not in _OUR_OPTIONS},
        "config_kwargs": {**config, **options.get("config_kwargs", {})},
    }
