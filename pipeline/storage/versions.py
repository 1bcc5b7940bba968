"""What the store says of objects now: a version and a size each. Opens no audio.

A version is good for == and nothing else: size and mtime of a local file, ETag and size in an
object store, else size and modification time.
"""

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import ErrorType, StoreError
from pipeline.storage.redaction import redact
from pipeline.storage.store import filesystem_for
from pipeline.storage.store_errors import explain_store_error

Fact = tuple[str, int]  # what the store says of an object: its version, its size in bytes
_Facts = dict[str, Fact]

MISSING = "missing"  # the version of an object that is not there,
DENIED = "denied"  # of one that we may not see,
UNREACHABLE = "unreachable"  # and of one on the web whose host does not answer

_NO_VERSION: dict[str, str] = {
    ErrorType.FILE_MISSING: MISSING,
    ErrorType.ACCESS_DENIED: DENIED,
    ErrorType.NOT_ALLOWED: DENIED,
}

_LOOKUPS = 32  # requests to the store at a time
_LIST_FROM = 20  # recordings in one directory: from here on one listing beats asking for each
_STAMPS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")


def look_up_versions(uris: Sequence[str], options: Mapping[str, Any]) -> list[Fact]:
    """(version, bytes) of every object, in order.

    Raises StoreError when the store does not answer: guessing would label everything again.
    """
    by_directory = defaultdict(list)
    for uri in filter(None, uris):
        by_directory[posixpath.dirname(uri)].append(uri)
    tasks = [task for group in by_directory.values() for task in _tasks(group, options)]
    facts = {"": ("", 0)}
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        for found in pool.map(lambda task: task(), tasks):
            facts |= found
    return [facts[uri] for uri in uris]


def _tasks(uris: Sequence[str], options: Mapping[str, Any]) -> Iterator[Callable[[], _Facts]]:
    """Look-ups for the recordings of one directory: one listing for many, else in small groups."""
    try:
        # Here, not in the threads: fsspec keeps one instance, with its connections, per thread.
        fs, _ = filesystem_for(uris[0], options)
    except (ValueError, ImportError):  # an unknown scheme: decoding says so
        yield lambda: dict.fromkeys(uris, ("", 0))
        return
    is_listable = not isinstance(fs, LocalFileSystem) and "http" not in fs.protocol
    step = len(uris) if is_listable and len(uris) >= _LIST_FROM else _LIST_FROM
    for start in range(0, len(uris), step):
        yield partial(_facts_of, fs, uris[start : start + step], step >= len(uris) >= _LIST_FROM)


def _facts_of(fs: Any, uris: Sequence[str], by_listing: bool) -> _Facts:
    listed = _list(fs, posixpath.dirname(uris[0])) if by_listing else {}
    # What a listing lacks is asked for: names such as "a//b" do not list as they are spelt.
    return {uri: listed.get(fs._strip_protocol(uri)) or _ask(fs, uri) for uri in uris}


def _list(fs: Any, directory: str) -> _Facts:
    try:
        return {entry["name"]: _fact(entry) for entry in fs.ls(directory, detail=True)}
    except OSError:
        return {}


def _ask(fs: Any, uri: str) -> Fact:
    try:
        if isinstance(fs, LocalFileSystem):
            status = Path(uri).stat()
            return f"{status.st_size}-{status.st_mtime_ns}", status.st_size
        return _fact(fs.info(fs._strip_protocol(uri)))
    except Exception as error:
        known = explain_store_error(error)
        if known.kind == ErrorType.STORE_UNAVAILABLE and "http" in fs.protocol:
            return UNREACHABLE, 0  # one host of many: its rows fail, the others' do not
        if known.kind == ErrorType.STORE_UNAVAILABLE:
            raise StoreError(redact(f"{uri}: cannot be looked up: {known}")) from error
        return _NO_VERSION.get(known.kind, ""), 0


def _fact(info: Mapping[str, Any]) -> Fact:
    size = info.get("size") or 0
    stamp = next((str(info[name]) for name in _STAMPS if info.get(name)), "")
    return f"{stamp.strip(chr(34))}-{size}", size
