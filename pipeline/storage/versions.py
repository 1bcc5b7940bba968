"""Look up the current version and size of objects. Opens no audio.

Versions can only be compared with ==. A version is the size and mtime of a local file, the ETag and
size in an object store, or otherwise the modification time and size. A member of an archive has the
version of its archive here; what its own bytes are, the archives room finds.
"""

import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import ErrorType, StoreError
from pipeline.storage.address import archive_of, requested
from pipeline.storage.redaction import public_uri, redact
from pipeline.storage.store import filesystem_for
from pipeline.storage.store_errors import explain_store_error

Version = tuple[str, int]  # the version of an object and its size in bytes
_Versions = dict[str, Version]  # by URI

# Versions of objects that have none:
MISSING = "missing"  # it does not exist
DENIED = "denied"  # we have no permission to look it up
UNREACHABLE = "unreachable"  # its web host does not answer

_NO_VERSION: dict[str, str] = {
    ErrorType.FILE_MISSING: MISSING,
    ErrorType.ACCESS_DENIED: DENIED,
    ErrorType.NOT_ALLOWED: DENIED,
}

_LOOKUPS = 32  # concurrent requests to the store
_LIST_FROM = (
    20  # from this many recordings in a directory, listing it is faster than single look-ups
)
_VERSION_FIELDS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")


def look_up_versions(uris: Sequence[str], options: Mapping[str, Any]) -> list[Version]:
    """(version, size in bytes) of every object, in order.

    Raises StoreError when the store does not answer: with guessed versions, every recording would
    be labelled again.
    """
    objects = [archive_of(uri) for uri in uris]
    by_directory = defaultdict(list)
    for uri in filter(None, dict.fromkeys(objects)):
        by_directory[posixpath.dirname(uri)].append(uri)
    tasks = [task for group in by_directory.values() for task in _tasks(group, options)]
    versions = {"": ("", 0)}
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        for found in pool.map(lambda task: task(), tasks):
            versions |= found
    return [versions[uri] for uri in objects]


def look_up_version(uri: str, options: Mapping[str, Any]) -> Version:
    """(version, size in bytes) of one object, as `look_up_versions` gives it, without threads."""
    uri = archive_of(uri)
    try:
        fs, _ = filesystem_for(uri, options)
    except (ValueError, ImportError):  # as in _tasks
        return "", 0
    return _look_up_one(fs, uri)


def version_of(fs: Any, path: str, info: Mapping[str, Any]) -> str:
    """The version of an object whose `info` the filesystem has just given."""
    if isinstance(fs, LocalFileSystem):  # its info has the time in a float, which loses digits
        return _version_of_file(path)[0]
    return _version(info)[0]


def _tasks(uris: Sequence[str], options: Mapping[str, Any]) -> Iterator[Callable[[], _Versions]]:
    """Look-ups for the objects of one directory: one listing for many, else small groups."""
    try:
        # Not in the threads: fsspec would make one instance, with connections, for each thread.
        fs, _ = filesystem_for(uris[0], options)
    except (ValueError, ImportError):  # an unknown scheme: decoding reports it
        yield lambda: dict.fromkeys(uris, ("", 0))
        return
    is_listable = not isinstance(fs, LocalFileSystem) and "http" not in fs.protocol
    step = len(uris) if is_listable and len(uris) >= _LIST_FROM else _LIST_FROM
    for start in range(0, len(uris), step):
        yield partial(_look_up, fs, uris[start : start + step], step >= len(uris) >= _LIST_FROM)


def _look_up(fs: Any, uris: Sequence[str], by_listing: bool) -> _Versions:
    listed = _list(fs, posixpath.dirname(uris[0])) if by_listing else {}
    # Names such as "a//b" are listed in another spelling; those are looked up one by one.
    return {uri: (listed and listed.get(_path(fs, uri))) or _look_up_one(fs, uri) for uri in uris}


def _path(fs: Any, uri: str) -> str:
    return str(fs._strip_protocol(requested(uri)))


def _list(fs: Any, directory: str) -> _Versions:
    try:
        return {entry["name"]: _version(entry) for entry in fs.ls(directory, detail=True)}
    except OSError:
        return {}


def _look_up_one(fs: Any, uri: str) -> Version:
    try:
        if isinstance(fs, LocalFileSystem):
            return _version_of_file(uri)
        return _version(fs.info(_path(fs, uri)))
    except Exception as error:
        known = explain_store_error(error)
        if known.kind == ErrorType.STORE_UNAVAILABLE and "http" in fs.protocol:
            return UNREACHABLE, 0  # one host of many: only its rows fail
        if known.kind == ErrorType.STORE_UNAVAILABLE:
            raise StoreError(
                redact(f"{public_uri(uri)}: its version cannot be read: {known}")
            ) from error
        return _NO_VERSION.get(known.kind, ""), 0


def _version_of_file(path: str) -> Version:
    status = os.stat(path)
    return f"{status.st_size}-{status.st_mtime_ns}", status.st_size


def _version(info: Mapping[str, Any]) -> Version:
    size = info.get("size") or 0
    version = next((str(info[name]) for name in _VERSION_FIELDS if info.get(name)), "")
    return f"{version.strip(chr(34))}-{size}", size
