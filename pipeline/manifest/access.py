"""Check that a URI is under one of the allowed roots. Opens nothing.

The author of a manifest chooses what our workers read. So a row may name only objects under one of
the roots: in its spelling, with every %2e and .. resolved, and on a local disk also with every
symbolic link resolved. Links are resolved when the manifest is read; a program that can write into
the corpus can still change them during a run.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from fsspec.registry import known_implementations

from pipeline.arrow import Column, pc
from pipeline.errors import ErrorType, ManifestError
from pipeline.storage.address import (
    FILE,
    archive_of,
    has_dots,
    is_uri,
    local_path,
    member_uri,
    readings,
    requested,
    split_address,
    split_member,
)
from pipeline.storage.redaction import public_uri, redact

Fault = tuple[str, str]  # error_type and error_message

# For a URI with one of these, comparing its beginning with a root is not enough: dot segments,
# escapes, chains of filesystems, backslashes, users.
_NOT_PLAIN = r"/\.|%|::|\\|@"
_NOT_PLAIN_BYTES = (b"/.", b"%", b"::", b"\\", b"@")
_WEB = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class AllowedRoots:
    """The URI prefixes that a manifest may name. `roots` are canonical and end with "/"."""

    roots: tuple[str, ...]
    allow_http: bool = False


def canonical_uri(uri: str, base: str = "") -> str:
    """The canonical spelling of a URI: no file:, no relative path, otherwise unchanged."""
    if member := split_member(uri):
        return member_uri(member.kind, member.name, canonical_uri(member.archive, base))
    if re.match(FILE, uri):
        # file://data/a.wav, with two slashes, is read as /data/a.wav
        uri = local_path(re.sub(r"(?i)^(file|local)://(localhost/)?/*", "file:///", uri)) or uri
    elif is_uri(uri):
        return uri
    if not uri.startswith("/"):
        uri = f"{base}/{uri}"
    scheme, separator, rest = uri.partition("://") if is_uri(uri) else ("", "", uri)
    return scheme + separator + posixpath.normpath(rest)


def make_allowed_roots(
    source: str, roots: Sequence[str] = (), *, allow_http: bool = False
) -> AllowedRoots:
    """The configured roots; without any, the bucket or directory of `source`, the manifest's URI.

    With `allow_http` and no http(s) root, every public host is allowed.
    """
    current = str(Path.cwd())
    given = [canonical_uri(root, current) for root in roots]
    given = given or [_own_root(canonical_uri(source, current))]
    if allow_http and not any(root.startswith(_WEB) for root in given):
        given += _WEB
    whole = [root if root.endswith("/") else root + "/" for root in given]
    try:
        return AllowedRoots(tuple(_plain(root) for root in whole), allow_http)
    except ValueError as error:
        raise ManifestError(redact(f"allowed_roots: {', '.join(roots)}: {error}")) from error


def may_contain(texts: Column, *patterns: bytes) -> bool:
    """Whether any text may contain one of the patterns; False is certain.

    Searches the bytes of all texts at once, which takes a tenth of the time of one text at a time.
    """
    data = texts.buffers()[2]
    searched = data.to_pybytes() if data else b""
    return any(pattern in searched for pattern in patterns)


def find_disallowed(uris: Column, allowed: AllowedRoots) -> dict[int, Fault]:
    """Positions of the canonical URIs that may not be read, and why not. "" is skipped."""
    is_plain = pa.array(np.ones(len(uris), bool))
    if may_contain(uris, *_NOT_PLAIN_BYTES):
        is_plain = pc.invert(pc.match_substring_regex(uris, _NOT_PLAIN))
    is_allowed = pc.equal(uris, "")
    for root in allowed.roots:
        if is_uri(root) and (allowed.allow_http or not root.startswith(_WEB)):
            is_allowed = pc.or_(is_allowed, pc.and_(is_plain, pc.starts_with(uris, root)))
    roots = _real_roots(allowed.roots)
    directories: dict[str, str] = {}  # directory -> its path with all links resolved
    faults: dict[int, Fault] = {}
    rest = np.flatnonzero(~is_allowed.to_numpy(zero_copy_only=False))
    for index, uri in zip(rest.tolist(), uris.take(rest).to_pylist(), strict=True):
        if uri.startswith("/") and _is_known_inside(uri, directories, roots):
            continue
        if fault := check_allowed(uri, allowed):
            faults[index] = fault
    return faults


def check_allowed(uri: str, allowed: AllowedRoots) -> Fault | None:
    """Why one canonical URI may not be read: BadUri or NotAllowed; None if it is allowed."""
    try:
        fault = _fault(archive_of(uri), allowed)
        return fault and _fault(uri, allowed) and fault  # or a root may name chains
    except (ValueError, OSError) as error:  # a name that no file and no host can have
        return ErrorType.BAD_URI, f"{public_uri(uri)!r} cannot be an address: {error}"


def _fault(uri: str, allowed: AllowedRoots) -> Fault | None:
    if uri.startswith("/"):
        inside = all(_is_under_real(path, allowed.roots) for path in _decoded(uri))
        return None if inside else _outside(uri, allowed, "is outside of")
    if "::" in uri:  # zip://a.wav::s3://bucket/b.zip reads from the last part
        is_root = any("::" in root and uri.startswith(root) for root in allowed.roots)
        if is_root and not has_dots(uri):
            return None
        return _outside(uri, allowed, "is a chain of filesystems, outside of")
    scheme = uri.partition("://")[0].lower()
    if scheme not in known_implementations:
        return ErrorType.BAD_URI, f"{public_uri(uri)!r}: unknown scheme {scheme!r}"
    if scheme in ("http", "https") and not allowed.allow_http:
        return (
            ErrorType.NOT_ALLOWED,
            f"{public_uri(uri)}: http(s) is off; set allow_http=true to allow it",
        )
    return None if _is_inside(uri, allowed.roots) else _outside(uri, allowed, "is outside of")


def _outside(uri: str, allowed: AllowedRoots, what: str) -> Fault:
    shown, linked = public_uri(uri), ""
    if uri.startswith("/") and os.path.realpath(uri) != uri:
        uri = os.path.realpath(uri)
        linked = f" (it links to {uri})"
    roots = ", ".join(map(public_uri, allowed.roots))
    more = _own_root(public_uri(uri))
    return (
        ErrorType.NOT_ALLOWED,
        f"{shown}{linked} {what} {roots}; to allow it, set allowed_roots=[{roots}, {more}]",
    )


def _is_inside(uri: str, roots: Iterable[str]) -> bool:
    """Whether what is requested, and all that a server may make of it, is under one root."""
    addresses = {split_address(text) for text in (requested(uri), uri)}
    spellings = [
        f"{scheme}://{host}{reading}"
        for scheme, host, path in addresses
        for reading in readings(path)
    ]
    wanted = tuple(spelling for root in roots if is_uri(root) for spelling in _spellings(root))
    return all(text.startswith(wanted) for text in spellings)


def _spellings(root: str) -> Iterator[str]:
    """A root and its decoded form, unless decoding makes other directories of it (%2f)."""
    yield root
    if root.count("/") == unquote(root).count("/"):
        yield unquote(root)


def _decoded(path: str) -> Iterator[str]:
    """A local path in every spelling that decoding gives."""
    spelling, decoded = "", path
    while spelling != decoded:
        spelling, decoded = decoded, unquote(decoded)
        yield spelling


def _is_under_real(path: str, roots: Iterable[str]) -> bool:
    return _is_under(os.path.realpath(path), _real_roots(roots))


def _is_under(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _real_roots(roots: Iterable[str]) -> list[str]:
    return [os.path.realpath(root) for root in roots if not is_uri(root) and "::" not in root]


def _is_known_inside(path: str, directories: dict[str, str], roots: Sequence[str]) -> bool:
    """Whether a local path is inside, in every spelling; False if that is not certain.

    A realpath takes 30 us: names with % or @ are as fast as others, but those with /. are not.
    """
    try:
        return all(
            "/." not in spelling and _is_under(_real_path(spelling, directories), roots)
            for spelling in (_decoded(path) if "%" in path else (path,))
        )
    except (ValueError, OSError):  # check_allowed explains it
        return False


def _real_path(path: str, directories: dict[str, str]) -> str:
    """os.path.realpath, but each directory is resolved only once."""
    directory, _, name = path.rpartition("/")
    if directory not in directories:
        directories[directory] = os.path.realpath(directory or "/").rstrip("/")
    real = f"{directories[directory]}/{name}"
    return os.path.realpath(real) if os.path.islink(real) else real


def _plain(root: str) -> str:
    """A root to compare with: scheme and web host in lower case, no user, no dot segments."""
    if not is_uri(root) or "::" in root:
        return root
    scheme, host, path = split_address(requested(root))
    return f"{scheme}://{host}{path}"


def _own_root(uri: str) -> str:
    """The bucket of a URI, a directory itself, or the directory that holds a file or a glob."""
    if is_uri(uri):
        scheme, _, rest = uri.partition("://")
        host, slash, _ = rest.partition("/")
        return f"{scheme}://{host}/" if slash else f"{scheme}://"
    if Path(uri).is_dir():
        return uri
    fixed = uri if Path(uri).exists() else re.split(r"[*?\[]", uri, maxsplit=1)[0]
    return fixed.rpartition("/")[0] + "/"
