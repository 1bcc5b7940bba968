"""Objects by key under one root, local or S3. Knows atomic writes; knows nothing of what they hold.

A key is complete or absent: data is serialised before it comes here and becomes visible in one
step. `put_if_absent` is the only lock of the project, so `probe` asks the store whether it keeps
that promise before anything is built on it.
"""

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

_CONFLICT_RETRIES = 10  # of 409 answers: S3 gives them while another conditional PUT is under way
_CONFLICT_WAIT_S = 0.2
_SINGLE_PUT = 5 << 30  # bytes, S3's limit; s3fs cuts into parts from twice its chunk size on


class StoreError(RuntimeError):
    """The store cannot be used or does not hold what it should; the message says what to do."""


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

    def uri(self, key: str) -> str:
        """Full path or URI of a key, as readers of `filesystem` want it."""


def open_store(root: str, options: Mapping[str, Any] | None = None) -> Store:
    """The store at a local path, a file:// or an s3:// URI; `options` as fsspec takes them.

    Secrets are not among the options: s3fs finds them where every AWS client does. Raises
    StoreError for any other scheme.
    """
    scheme, separator, rest = root.partition("://")
    if not separator:
        return LocalStore(root)
    if scheme == "file":
        return LocalStore(rest)
    if scheme == "s3" and rest.strip("/"):
        return S3Store(root, options or {})
    raise StoreError(f"{root}: cannot commit here; use a local path or s3://bucket/prefix")


def filesystem_for(
    uri: str, options: Mapping[str, Any] | None = None
) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem that reads `uri`, and the path to give it.

    Options belong to the object store: local and http(s) addresses do not see them. The
    filesystem is shared within a thread and never caches listings, which would hide objects that
    another process has written since.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return LocalFileSystem(), rest if separator else uri
    if scheme in ("s3", "s3a"):
        return fsspec.filesystem("s3", **_s3_options(options or {})), rest
    plain = {} if scheme in ("http", "https") else dict(options or {})
    return fsspec.filesystem(scheme, use_listings_cache=False, **plain), uri


def probe(store: Store) -> None:
    """Prove that the store keeps the promises that the commit log needs, or raise StoreError.

    Conditional writes above all: a store that ignores them lets two publishers overwrite each
    other's commits without a sign (seen on s3rver: 12 commits, 4 survived).
    """
    key = f"_probe/{uuid.uuid4().hex}"
    first, second = (f"{key} {turn}".encode() for turn in ("first", "second"))
    try:
        try:
            _expect(store, store.put_if_absent(key, first), "refused to create a new object")
            lied = store.put_if_absent(key, second) or store.get(key) != first
            _expect(
                store,
                not lied,
                "overwrote an existing object although asked not to (If-None-Match: *), so two "
                "runs would destroy each other's commits",
            )
            part = store.filesystem.cat_file(store.uri(key), start=2, end=9)
            _expect(store, part == first[2:9], "returned wrong bytes for a range")
            listed = store.list("_probe/")
            _expect(store, key in listed, "did not list an object just written")
        finally:
            with suppress(OSError):
                store.delete([key])
    except OSError as error:
        raise StoreError(
            f"{store.root}: cannot be read and written: {type(error).__name__}: {error}; check "
            "that the bucket or directory exists, the credentials and the endpoint"
        ) from error


def _expect(store: Store, kept: bool, complaint: str) -> None:
    if not kept:
        raise StoreError(
            f"{store.root}: the store {complaint}; use a store with conditional writes and "
            "read-after-write consistency (AWS S3, MinIO, Ceph RGW) or a local directory"
        )


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

    def uri(self, key: str) -> str:
        return str(Path(self.root, key))


class S3Store:
    """A bucket or a prefix in one. Every write is a single PUT, which S3 makes atomic."""

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        self.root = root.rstrip("/")
        self.filesystem: AbstractFileSystem = fsspec.filesystem(
            "s3", skip_instance_cache=True, **_s3_options(options)
        )

    def put(self, key: str, data: bytes) -> None:
        self.filesystem.pipe_file(self.uri(key), data, chunksize=_SINGLE_PUT)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        for _ in range(_CONFLICT_RETRIES):
            try:
                self.filesystem.pipe_file(self.uri(key), data, chunksize=_SINGLE_PUT, mode="create")
            except OSError as error:
                status = _http_status(error)
                if status == 409:
                    time.sleep(_CONFLICT_WAIT_S)
                    continue
                # s3fs says FileExistsError only if the error document names the condition, as
                # AWS and moto do; Ceph leaves it out and the same answer is a bare OSError.
                if status == 412 or isinstance(error, FileExistsError):
                    return self.get(key) == data
                raise
            return True
        raise StoreError(
            f"{self.uri(key)}: another conditional write was under way {_CONFLICT_RETRIES} times "
            "in a row; run again later"
        )

    def get(self, key: str) -> bytes:
        data: bytes = self.filesystem.cat_file(self.uri(key))
        return data

    def list(self, prefix: str) -> Sequence[str]:
        try:
            paths = self.filesystem.find(self.uri(prefix))
        except FileNotFoundError:
            return []
        skip = len(self.root.removeprefix("s3://")) + 1
        return sorted(path[skip:] for path in paths if not path.endswith("/"))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                self.filesystem.rm_file(self.uri(key))

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


def _http_status(error: OSError) -> int | None:
    response = getattr(error.__cause__, "response", None) or {}
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Fsspec options with bounded waiting and no listing cache; what the caller says, wins."""
    config = {
        "connect_timeout": 5,  # s
        "read_timeout": 60,  # s
        "retries": {"mode": "standard", "max_attempts": 5},
    }
    endpoint = options.get("endpoint_url") or options.get("client_kwargs", {}).get("endpoint_url")
    if endpoint:
        # Since 1.36 botocore adds checksum trailers that other servers refuse or store as data.
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
    return {
        "use_listings_cache": False,
        **options,
        "config_kwargs": {**config, **options.get("config_kwargs", {})},
    }
