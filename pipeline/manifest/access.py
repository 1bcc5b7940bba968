"""Where recordings may lie. Knows paths and URIs, and what may hide in them; opens nothing.

Whoever writes a manifest chooses what our workers read. So a row may name only what lies under one
of the roots: as it is spelt, with every %2e and .. worked out, and on a disk also behind every
link. Links are followed when the manifest is read; who may write into the corpus while a run is
under way can still change them.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from fsspec.registry import known_implementations

from pipeline.arrow import Column, pc
from pipeline.errors import ErrorType
from pipeline.storage.redaction import public_uri

Fault = tuple[str, str]  # error_type and error_message

SCHEME = r"^[A-Za-z][A-Za-z0-9+.-]*://"
# What may make the plain comparison with a root unsafe: dot segments, escapes, chains, users.
_TRICKY = r"/\.|%|::|\\|@"
_TRICKY_SIGNS = (b"/.", b"%", b"::", b"\\", b"@")
_WEB = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class AllowedRoots:
    """What a manifest may name. `roots` are canonical and end with "/"."""

    roots: tuple[str, ...]
    allow_http: bool = False


def canonical_uri(uri: str, base: str = "") -> str:
    """The one spelling of an address: no file://, no relative path, otherwise bytes as given."""
    if uri.startswith("file://"):
        uri = "/" + uri.removeprefix("file://").removeprefix("localhost").lstrip("/")
    elif re.match(SCHEME, uri):
        return uri
    if not uri.startswith("/"):
        uri = f"{base}/{uri}"
    scheme, separator, rest = uri.rpartition("://")
    return scheme + separator + posixpath.normpath(rest)


def make_allowed_roots(
    source: str, roots: Sequence[str] = (), *, allow_http: bool = False
) -> AllowedRoots:
    """The roots as configured, or else the bucket or directory of `source`, a manifest's address.

    With `allow_http` and no root on the web, every public host is one.
    """
    here = str(Path.cwd())
    given = [canonical_uri(root, here) for root in roots]
    given = given or [_own_root(canonical_uri(source, here))]
    if allow_http and not any(root.startswith(_WEB) for root in given):
        given += _WEB
    whole = [root if root.endswith("/") else root + "/" for root in given]
    return AllowedRoots(tuple(_plain(root) for root in whole), allow_http)


def may_hold(texts: Column, *signs: bytes) -> bool:
    """Whether any text may hold one of these: all bytes at once, a tenth of a look at each text."""
    data = texts.buffers()[2]
    found = data.to_pybytes() if data else b""
    return any(sign in found for sign in signs)


def find_refused(uris: Column, reach: AllowedRoots) -> dict[int, Fault]:
    """Which of these canonical addresses may not be read, and why; by position. "" is none."""
    is_plain = pa.array(np.ones(len(uris), bool))
    if may_hold(uris, *_TRICKY_SIGNS):
        is_plain = pc.invert(pc.match_substring_regex(uris, _TRICKY))
    is_clear = pc.equal(uris, "")
    for root in reach.roots:
        if "://" in root and (reach.allow_http or not root.startswith(_WEB)):
            is_clear = pc.or_(is_clear, pc.and_(is_plain, pc.starts_with(uris, root)))
    roots = _real_roots(reach.roots)
    directories: dict[str, str] = {}  # what the links in a directory's path lead to
    faults: dict[int, Fault] = {}
    doubtful = np.flatnonzero(~is_clear.to_numpy(zero_copy_only=False))
    texts, plain = uris.take(doubtful).to_pylist(), is_plain.take(doubtful).to_pylist()
    for index, uri, simple in zip(doubtful.tolist(), texts, plain, strict=True):
        is_local = simple and uri.startswith("/")
        if is_local and _is_under(_real_path(uri, directories), roots):
            continue
        if fault := explain_refusal(uri, reach):
            faults[index] = fault
    return faults


def explain_refusal(uri: str, reach: AllowedRoots) -> Fault | None:
    """Why one canonical address may not be read: BadUri or NotAllowed; None if it may."""
    scheme, separator, _ = uri.partition("://")
    if separator and "::" in uri:  # zip://a.wav::s3://bucket/b.zip: what is read lies in the last
        if not any("::" in root and uri.startswith(root) for root in reach.roots):
            return ErrorType.NOT_ALLOWED, _outside(uri, reach, "chains filesystems, outside of")
        return None
    if separator and scheme.lower() not in known_implementations:
        return ErrorType.BAD_URI, f"{public_uri(uri)!r}: unknown scheme {scheme!r}"
    if uri.lower().startswith(_WEB) and not reach.allow_http:
        return (
            ErrorType.NOT_ALLOWED,
            f"{public_uri(uri)}: http(s) is off; set allow_http=true to allow it",
        )
    spelling, decoded = "", uri
    while spelling != decoded:  # %252e is a dot to whoever decodes twice
        spelling, decoded = decoded, unquote(decoded)
        if not _is_inside(spelling, reach.roots):
            return ErrorType.NOT_ALLOWED, _outside(uri, reach, "lies outside of")
    return None


def _outside(uri: str, reach: AllowedRoots, what: str) -> str:
    shown, linked = public_uri(uri), ""
    if "://" not in uri and os.path.realpath(uri) != uri:
        uri = os.path.realpath(uri)
        linked = f" (it links to {uri})"
    roots, more = ", ".join(reach.roots), _own_root(public_uri(uri))
    return f"{shown}{linked} {what} {roots}; to allow it, set allowed_roots=[{roots}, {more}]"


def _is_inside(uri: str, roots: Iterable[str]) -> bool:
    if "://" not in uri:
        return _is_under(os.path.realpath(uri), _real_roots(roots))
    plain = _plain(uri)
    return any("://" in root and plain.startswith(root) for root in roots)


def _is_under(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _real_roots(roots: Iterable[str]) -> list[str]:
    return [os.path.realpath(root) for root in roots if "://" not in root]


def _real_path(path: str, directories: dict[str, str]) -> str:
    """os.path.realpath, but each directory is worked out once."""
    directory, _, name = path.rpartition("/")
    if directory not in directories:
        directories[directory] = os.path.realpath(directory or "/").rstrip("/")
    real = f"{directories[directory]}/{name}"
    return os.path.realpath(real) if Path(real).is_symlink() else real


def _plain(uri: str) -> str:
    """Scheme and host in lower case, no user, no dot segments; for comparing, not for opening."""
    scheme, separator, rest = uri.rpartition("://")
    if not separator:
        return uri
    scheme = {"s3a": "s3"}.get(scheme.lower(), scheme.lower())
    rest = re.sub(r"[?#].*", "", rest) if scheme in ("http", "https") else rest
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2].lower() if scheme in ("http", "https") else host
    end = "/" if path.strip("/") and path.endswith("/") else ""
    path = posixpath.normpath("/" + path).lstrip("/")
    return f"{scheme}://{host}{slash}{path}{end}"


def _own_root(address: str) -> str:
    """The bucket; the directory itself, that of a file, or the part before a glob's wildcards."""
    scheme, separator, rest = address.rpartition("://")
    if separator:
        host, slash, _ = rest.partition("/")
        return f"{scheme}://{host}/" if slash else f"{scheme}://"
    if Path(address).is_dir():
        return address
    fixed = address if Path(address).exists() else re.split(r"[*?\[]", address, maxsplit=1)[0]
    return fixed.rpartition("/")[0] + "/"
