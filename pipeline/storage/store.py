"""Objects by key under one root, local or S3, written atomically. Knows nothing of their content.

An object is complete or absent: callers pass all its bytes, which become visible in one step.
`put_if_absent` is the only lock of the project; `probe` checks that a store supports it before
anything is committed.
"""

import errno
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from pipeline.errors import StoreError
from pipeline.storage import http_guard, leftovers
from pipeline.storage.address import WEB, is_uri, local_path, requested, split_address
from pipeline.storage.conditional_put import (
    OPTION,
    can_compare,
    choose_dialect,
    endpoint_of,
    error_code,
    is_conflict_error,
    is_exists_error,
    translator,
)
from pipeline.storage.redaction import public_uri, redact
from pipeline.storage.store_errors import uri_in_errors

_OUR_OPTIONS = (OPTION, http_guard.OPTION)
_CONFLICT_RETRIES = 10  # after an answer 409: S3 gives it while another conditional PUT runs
_CONFLICT_WAIT_S = 0.2
_BLOCK = 1 << 20  # bytes read at a time from a stream
_IN_MEMORY = 32 << 20  # bytes of a stream
_LOCK_TRIES = 20  # a lock is held for milliseconds, unless its holder was stopped
_LOCK_WAIT_S = 0.1
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a network disk
_DIRECTORY_TRIES = 10
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
    """The store at a local path, a file: or an s3:// URI; `options` as fsspec takes them.

    Do not put secrets into the options: s3fs finds them where every AWS client does. One option is
    our own: `conditional_put` names the header for conditional writes (see conditional_put), for
    stores whose endpoint does not show it. Raises StoreError for any other scheme.
    """
    try:
        path = local_path(root)
        if path is None and not _looks_like_uri(root):
            path = root
        if path is not None:
            return LocalStore(path)
        scheme, bucket, _ = split_address(root)
        if scheme == "s3" and bucket and "@" not in bucket and is_uri(root):
            return S3Store(requested(root), options or {})
    except ValueError as error:
        raise StoreError(redact(f"{root}: {error}")) from error
    shown = public_uri(root)
    raise StoreError(f"{shown}: cannot commit here; use a local path or s3://bucket/prefix")


def _looks_like_uri(root: str) -> bool:
    """Whether the text is a URI or a misspelled one; a directory of that name would be a surprise.

    Such are file:x, s3:/bucket/x, and " s3://bucket/x" with a blank before it.
    """
    scheme = root.strip().partition(":")[0].lower()
    return "://" in root or (":" in root and scheme in known_implementations)


def filesystem_for(
    uri: str, options: Mapping[str, Any] | None = None
) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem that reads `uri`, and the path to pass to it: `address.requested`.

    The options are those of the object store; local files and http(s) ignore them. The filesystem
    is shared. It caches no listings, which would hide objects that other processes write later.
    Raises ValueError for an unknown scheme and for a file: URI of another machine.
    """
    path = local_path(uri)
    if path is not None or not (is_uri(uri) or "::" in uri):
        return LocalFileSystem(), path or uri
    uri = requested(uri)
    scheme, _, rest = uri.partition("://")
    if scheme == "s3":
        return _shared_s3(json.dumps(_s3_options(options or {}), sort_keys=True)), rest
    given = {name: value for name, value in (options or {}).items() if name not in _OUR_OPTIONS}
    if scheme in WEB:
        given = http_guard.http_options(bool((options or {}).get(http_guard.OPTION)))
    return fsspec.filesystem(scheme, use_listings_cache=False, **given), uri


@contextmanager
def read_stream(file: BinaryIO, limit: int) -> Iterator[tuple[BinaryIO, int]]:
    """All bytes of a file that cannot seek, and their number; the position is 0.

    A web server that does not announce a length, or gives no ranges, sends such a file. It is held
    in memory or, from 32 MB on, in a temporary file. At most `limit` + 1 bytes are read, so that
    the caller sees that there are too many.
    """
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as held:
        n_bytes = 0
        while n_bytes <= limit and (block := file.read(min(_BLOCK, limit + 1 - n_bytes))):
            held.write(block)
            n_bytes += len(block)
        held.seek(0)
        yield cast(BinaryIO, held), n_bytes


@lru_cache(maxsize=16)
def _shared_s3(options: str) -> AbstractFileSystem:
    """One client for all threads: fsspec's cache makes one for each thread, at 50 ms of CPU."""
    return fsspec.filesystem("s3", skip_instance_cache=True, **json.loads(options))


def write_file(path: Path, data: bytes) -> None:
    """Write a local file that a user named: it is complete, or as it was, also on a full disk.

    A link stays, and what it names is replaced. A device or a pipe (/dev/stdout) is written to.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    target = path.resolve()
    LocalStore(str(target.parent)).put(target.name, data)


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

    def put_forward(self, key: str, data: bytes, is_older: Callable[[bytes], bool]) -> bool:
        """See forward.put_forward."""
        Path(self.root).mkdir(parents=True, exist_ok=True)
        with _lock(Path(self.root)) as is_held:
            if not is_held:
                return False
            path = Path(self.uri(key))
            if not is_older(path.read_bytes() if path.exists() else b""):
                return False
            self.put(key, data)
        return True

    def get(self, key: str) -> bytes:
        return Path(self.uri(key)).read_bytes()

    def list(self, prefix: str) -> Sequence[str]:
        top = Path(self.uri(prefix))
        return sorted(
            Path(directory, name).relative_to(self.root).as_posix()
            for directory, _, names in os.walk(top, onerror=_raise_unless_gone)
            for name in names
            if not name.startswith(".")
        )

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = Path(self.uri(key))
            path.unlink(missing_ok=True)
            if path.parent != Path(self.root):
                with suppress(OSError):
                    path.parent.rmdir()  # fails unless it is empty

    def sweep(self, older_s: float) -> int:
        return leftovers.sweep(Path(self.root), older_s)

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
        self._compares = can_compare(choose_dialect(options))

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

    def put_forward(self, key: str, data: bytes, is_older: Callable[[bytes], bool]) -> bool:
        """See forward.put_forward."""
        uri = self.uri(key)
        for _ in range(_CONFLICT_RETRIES):
            try:
                # The tag is read before the content: if both differ, the store refuses the write.
                with uri_in_errors(uri):
                    tag = self.filesystem.info(uri, refresh=True).get("ETag")
                present = self.get(key)
            except FileNotFoundError:
                tag, present = None, b""
            if not is_older(present):
                return False
            try:
                if tag is None and self._compares:
                    if self.put_if_absent(key, data):
                        return True
                    continue
                condition = {"IfMatch": tag} if self._compares else {}
                with uri_in_errors(uri):
                    self.filesystem.pipe_file(uri, data, chunksize=_SINGLE_PUT, **condition)
            except FileNotFoundError:
                continue  # deleted in the meantime
            except OSError as error:
                if error_code(error) == "NotImplemented":
                    self._compares = False
                elif not (is_exists_error(error) or is_conflict_error(error)):
                    raise
                time.sleep(_CONFLICT_WAIT_S)
                continue
            return True
        return False  # other writers replaced it each time, so it is as new

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


def _raise_unless_gone(error: OSError) -> None:
    """For os.walk, which otherwise leaves out a directory that it cannot read."""
    if not isinstance(error, FileNotFoundError):  # not written yet, or deleted meanwhile
        raise error


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A hidden file beside `path` with `data`, flushed to disk; deleted unless it is renamed."""
    temporary = leftovers.unfinished(path)
    try:
        with _create(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if temporary.stat().st_size != len(data):
            raise OSError(f"{path}: only some of {len(data)} bytes were written to the disk")
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path) -> BinaryIO:
    """A new file; makes its directory, again if a deletion has just removed it as empty."""
    for _ in range(_DIRECTORY_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return path.open("xb")
    return path.open("xb")


@contextmanager
def _lock(directory: Path) -> Iterator[bool]:
    """Hold the lock of a directory; False if another process keeps it. Ends with the process.

    A network disk may have no locks; then there is only the check.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield any(_try_lock(descriptor) for _ in range(_LOCK_TRIES))
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_LOCK_WAIT_S)
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _sync_directory(path: Path) -> None:
    """Flush a directory to disk: only then does a new name in it survive a power failure."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # what was written is deleted again, and the directory with it
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
