"""Check by requests that a store has the properties the commit log needs. Knows no commit log.

The most important one is the conditional write: on a store that ignores the condition, two
publishers overwrite each other's commits without an error (s3rver: of 12 commits, 4 were left).
"""

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import StoreError
from pipeline.storage.address import is_uri
from pipeline.storage.conditional_put import error_code
from pipeline.storage.lease import sole_writer
from pipeline.storage.store import Store

_MAX_SKEW_S = 60.0  # S3 itself refuses requests signed more than 15 minutes off
_ROUND_TRIP = 1 << 20  # bytes: more than one TCP window, less than a second anywhere

_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "NotSignedUp"}
)
_USE_ANOTHER = (
    "use a store with conditional writes and read-after-write consistency (AWS S3, MinIO, Ceph "
    "RGW) or a local directory"
)
_ASK_FOR_PERMISSION = (
    "the credentials are valid; give them permission to {} objects under this root"
)


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check of a store."""

    name: str
    state: Literal["ok", "warning", "failed", "skipped"]
    text: str  # what was found
    advice: str = ""  # what to do
    is_conditional_write: bool = False  # the only check that a single writer may ignore


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a check found to be wrong, and what to do."""

    text: str
    advice: str = _USE_ANOTHER


_Found = str | _Failure  # the result of a check; a text if all is well


def probe(store: Store) -> None:
    """Run all checks; raise StoreError for the first one that fails."""
    for check in examine(store):
        if check.state == "failed":
            raise StoreError(f"{store.root}: {check.text}; {check.advice}")


def check_local(store: Store) -> None:
    """Refuse a local directory that cannot be made or written; leaves nothing in it.

    Other stores are not asked. Raises StoreError.
    """
    if is_uri(store.root):
        return
    folder = Path(store.root)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(
            f"{store.root}: cannot be written ({error.strerror or error}); choose a directory "
            "that this account may write, with space left"
        ) from error


@contextmanager
def writable(store: Store, *, single_writer: bool = False) -> Iterator[Store]:
    """The store, after all checks, ready for commits. Raises StoreError if a check fails.

    With `single_writer`, a store that fails only the check of conditional writes is used with a
    lease, which is weaker: see lease.sole_writer.
    """
    failed = [check for check in examine(store) if check.state == "failed"]
    if any(not check.is_conditional_write for check in failed) or (failed and not single_writer):
        worst = min(failed, key=lambda check: check.is_conditional_write)
        raise StoreError(f"{store.root}: {worst.text}; {worst.advice}")
    if not failed:
        yield store
        return
    with sole_writer(store) as leased:
        yield leased


def examine(store: Store) -> list[Check]:
    """Run every check. If the store cannot be written, the others are skipped.

    The objects that the checks write are deleted again.
    """
    key = f"_probe/{uuid.uuid4().hex}"
    first, second = (f"{key} {turn}".encode() for turn in ("first", "second"))
    wide = os.urandom(_ROUND_TRIP)
    steps: tuple[tuple[str, Callable[[], _Found]], ...] = (
        ("write", lambda: _write(store, key, first)),
        ("read", lambda: _read(store, key, first)),
        ("list after write", lambda: _list(store, key)),
        ("put if absent", lambda: _put_if_absent(store, f"{key}-new", first)),
        ("put if absent, twice", lambda: _put_twice(store, f"{key}-new", first, second)),
        ("range read", lambda: _range_read(store, key, first)),
        ("checksum round trip", lambda: _round_trip(store, f"{key}-wide", wide)),
        ("clock", lambda: _clock(store, key)),
        ("delete", lambda: _delete(store, [key, f"{key}-new", f"{key}-wide"])),
    )
    checks: list[Check] = []
    try:
        for name, step in steps:
            checks.append(_run(name, step, skip=bool(checks) and checks[0].state == "failed"))
    finally:
        with suppress(Exception):
            store.delete([key, f"{key}-new", f"{key}-wide"])
    return checks


def _run(name: str, step: Callable[[], _Found], skip: bool) -> Check:
    if skip:
        return Check(name, "skipped", "the store cannot be written")
    try:
        found = step()
    except (OSError, StoreError) as error:
        return Check(name, "failed", *_explain(error, name))
    except Exception as error:
        # When a request gets no answer, botocore raises exceptions that are not OSErrors.
        if type(error).__module__.partition(".")[0] not in ("botocore", "aiobotocore", "aiohttp"):
            raise
        return Check(name, "failed", *_explain(error, name))
    if isinstance(found, str):
        return Check(name, "ok", found)
    state: Literal["warning", "failed"] = "warning" if name == "clock" else "failed"
    return Check(name, state, found.text, found.advice, name == "put if absent, twice")


def _write(store: Store, key: str, data: bytes) -> _Found:
    store.put(key, data)
    return "an object was written"


def _read(store: Store, key: str, data: bytes) -> _Found:
    if store.get(key) != data:
        return _Failure("the store returned other bytes than were written")
    return "the same bytes are read as were written"


def _list(store: Store, key: str) -> _Found:
    if key not in store.list("_probe/"):
        return _Failure("the store did not list an object just written")
    return "a new object is listed at once"


def _put_if_absent(store: Store, key: str, data: bytes) -> _Found:
    if not store.put_if_absent(key, data):
        return _Failure("the store refused to create a new object")
    return "a new object is created"


def _put_twice(store: Store, key: str, first: bytes, second: bytes) -> _Found:
    if store.put_if_absent(key, second) or store.get(key) != first:
        return _Failure(
            "the store overwrote an existing object although asked not to (If-None-Match: * or the "
            "header of this store for it), so two runs would destroy each other's commits",
            f"{_USE_ANOTHER}, name the header in storage_options.conditional_put, or set "
            "single_writer: true and never start a second run on this output",
        )
    return "an existing object is kept"


def _range_read(store: Store, key: str, data: bytes) -> _Found:
    if store.filesystem.cat_file(store.uri(key), start=2, end=9) != data[2:9]:
        return _Failure("the store returned wrong bytes for a range")
    return "a range returns its bytes"


def _round_trip(store: Store, key: str, data: bytes) -> _Found:
    store.put(key, data)
    if store.get(key) != data:
        return _Failure(
            "1 MiB came back changed (a server that does not support aws-chunked bodies stores "
            "the chunk headers as part of the object)",
            "set storage_options.config_kwargs.request_checksum_calculation: when_required",
        )
    return "1 MiB comes back unchanged"


def _clock(store: Store, key: str) -> _Found:
    info: dict[str, Any] = store.filesystem.info(store.uri(key))
    stamp = info.get("LastModified") or info.get("mtime") or time.time()
    written_s = stamp.timestamp() if isinstance(stamp, datetime) else float(stamp)
    skew_s = datetime.now(UTC).timestamp() - written_s
    if abs(skew_s) > _MAX_SKEW_S:
        return _Failure(
            f"the clocks of this machine and of the store are {abs(skew_s):.0f} s apart",
            "set this machine's clock (NTP); S3 refuses requests at a difference of 15 minutes",
        )
    return f"less than {_MAX_SKEW_S:.0f} s from the clock of the store"


def _delete(store: Store, keys: list[str]) -> _Found:
    store.delete(keys)
    try:
        store.get(keys[0])
    except FileNotFoundError:
        return "a deleted object cannot be read"
    return _Failure("the store still returns an object that was deleted")


def _explain(error: Exception, name: str) -> tuple[str, str]:
    """What went wrong and what to do, for credentials, permissions, the root and the network."""
    code, kind = error_code(error), type(error.__cause__ or error).__name__
    answer = f"{code or kind}: {error}"
    if code == "RequestTimeTooSkewed":
        text = f"the clocks of this machine and of the store differ too much ({answer})"
        return text, "set this machine's clock (NTP)"
    if code in _CREDENTIALS or "Credential" in kind:
        return (
            f"no valid credentials ({answer})",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), a profile, "
            "or the machine's role; a temporary token may have expired",
        )
    if isinstance(error, PermissionError):
        verb = {"range read": "read", "clock": "read"}.get(name, name.split(" ")[0])
        verb = "write" if verb in ("put", "checksum") else verb
        return f"no permission to {verb} objects ({answer})", _ASK_FOR_PERMISSION.format(verb)
    if isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError):
        return (
            f"cannot be read and written ({answer})",
            "check that the bucket or directory exists and that its name is right",
        )
    return (
        f"no usable answer to {name!r} ({answer})",
        "check the endpoint (storage_options.client_kwargs.endpoint_url) and the network",
    )
