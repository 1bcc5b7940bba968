"""Does a store keep the promises that the commit log needs? Asks it; knows no log.

Conditional writes above all: a store that ignores them lets two publishers overwrite each other's
commits without a sign (seen on s3rver: 12 commits, 4 survived).
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pipeline.errors import StoreError
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
_ASK_FOR_RIGHTS = "the credentials are valid; give them the right to {} objects under this root"


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of a store."""

    name: str
    state: Literal["ok", "warning", "failed", "skipped"]
    text: str  # what was seen
    advice: str = ""  # what to do about it
    is_conditional_write: bool = False  # the one promise that a single writer can do without


class _Broken(Exception):
    """A promise was not kept: what was seen, and what to do."""

    def __init__(self, text: str, advice: str = _USE_ANOTHER) -> None:
        super().__init__(text)
        self.text, self.advice = text, advice


def probe(store: Store) -> None:
    """Prove that the store keeps its promises, or raise StoreError for the first it breaks."""
    for check in examine(store):
        if check.state == "failed":
            raise StoreError(f"{store.root}: {check.text}; {check.advice}")


@contextmanager
def writable(store: Store, *, single_writer: bool = False) -> Iterator[Store]:
    """The store, probed, to commit to; raises StoreError if it cannot be trusted.

    With `single_writer`, a store whose only fault is that it ignores conditions is used under a
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
    """Every promise in turn. What needs a failed one is skipped; the store is left clean."""
    key = f"_probe/{uuid.uuid4().hex}"
    first, second = (f"{key} {turn}".encode() for turn in ("first", "second"))
    wide = os.urandom(_ROUND_TRIP)
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
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


def _run(name: str, step: Callable[[], str], skip: bool) -> Check:
    conditional = name == "put if absent, twice"
    if skip:
        return Check(name, "skipped", "needs a store that can be written")
    try:
        return Check(name, "ok", step())
    except _Broken as broken:
        state: Literal["warning", "failed"] = "warning" if name == "clock" else "failed"
        return Check(name, state, broken.text, broken.advice, conditional)
    except (OSError, StoreError) as error:
        return Check(name, "failed", *_explain(error, name))
    except Exception as error:
        # botocore raises its own types, none of them OSErrors, when a request was never answered.
        if type(error).__module__.partition(".")[0] not in ("botocore", "aiobotocore", "aiohttp"):
            raise
        return Check(name, "failed", *_explain(error, name))


def _write(store: Store, key: str, data: bytes) -> str:
    store.put(key, data)
    return "an object was written"


def _read(store: Store, key: str, data: bytes) -> str:
    if store.get(key) != data:
        raise _Broken("the store returned other bytes than were written")
    return "it reads back as it was written"


def _list(store: Store, key: str) -> str:
    if key not in store.list("_probe/"):
        raise _Broken("the store did not list an object just written")
    return "it is listed at once"


def _put_if_absent(store: Store, key: str, data: bytes) -> str:
    if not store.put_if_absent(key, data):
        raise _Broken("the store refused to create a new object")
    return "a new object is created"


def _put_twice(store: Store, key: str, first: bytes, second: bytes) -> str:
    if store.put_if_absent(key, second) or store.get(key) != first:
        raise _Broken(
            "the store overwrote an existing object although asked not to (If-None-Match: * or "
            "what this store has for it), so two runs would destroy each other's commits",
            f"{_USE_ANOTHER}, name the header in storage_options.conditional_put, or set "
            "single_writer: true and never start a second run on this output",
        )
    return "an existing object is kept"


def _range_read(store: Store, key: str, data: bytes) -> str:
    if store.filesystem.cat_file(store.uri(key), start=2, end=9) != data[2:9]:
        raise _Broken("the store returned wrong bytes for a range")
    return "a range returns its bytes"


def _round_trip(store: Store, key: str, data: bytes) -> str:
    store.put(key, data)
    if store.get(key) != data:
        raise _Broken(
            "1 MiB came back changed (a server that does not know aws-chunked bodies stores the "
            "envelope, too)",
            "set storage_options.config_kwargs.request_checksum_calculation: when_required",
        )
    return "1 MiB comes back unchanged"


def _clock(store: Store, key: str) -> str:
    info: dict[str, Any] = store.filesystem.info(store.uri(key))
    stamp = info.get("LastModified") or info.get("mtime") or time.time()
    written_s = stamp.timestamp() if isinstance(stamp, datetime) else float(stamp)
    skew_s = datetime.now(UTC).timestamp() - written_s
    if abs(skew_s) > _MAX_SKEW_S:
        raise _Broken(
            f"this clock and the store's are {abs(skew_s):.0f} s apart",
            "set this machine's clock (NTP); S3 refuses requests from 15 minutes on",
        )
    return f"less than {_MAX_SKEW_S:.0f} s from the store's"


def _delete(store: Store, keys: list[str]) -> str:
    store.delete(keys)
    with suppress(FileNotFoundError):
        store.get(keys[0])
        raise _Broken("the store still returns an object that was deleted")
    return "what is deleted is gone"


def _explain(error: Exception, name: str) -> tuple[str, str]:
    """What went wrong and what to do: wrong keys, missing rights, place and network told apart."""
    code, kind = error_code(error), type(error.__cause__ or error).__name__
    said = f"{code or kind}: {error}"
    if code == "RequestTimeTooSkewed":
        return f"this clock is too far from the store's ({said})", "set the clock (NTP)"
    if code in _CREDENTIALS or "Credential" in kind:
        return (
            f"no valid credentials ({said})",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), a profile, "
            "or the machine's role; a temporary token may have expired",
        )
    if isinstance(error, PermissionError):
        verb = {"range read": "read", "clock": "read"}.get(name, name.split(" ")[0])
        verb = "write" if verb in ("put", "checksum") else verb
        return f"no permission to {verb} objects ({said})", _ASK_FOR_RIGHTS.format(verb)
    if isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError):
        return (
            f"cannot be read and written ({said})",
            "check that the bucket or directory exists and that its name is right",
        )
    return (
        f"no usable answer to {name!r} ({said})",
        "check the endpoint (storage_options.client_kwargs.endpoint_url) and the network",
    )
