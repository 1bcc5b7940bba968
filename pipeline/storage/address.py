"""One reading of an address, for the check and for the request. Opens nothing.

`requested` gives the address that a client asks for. The check of allowed roots and the function
that opens (`store.filesystem_for`) both use it, so what is checked is what is requested.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

SCHEME = r"^[A-Za-z][A-Za-z0-9+.-]*://"
WEB = frozenset({"http", "https"})
# Stores without directories: "a/../b" is the name of an object and is requested as it stands.
_LITERAL = frozenset({"s3", "gs", "gcs", "oss", "abfs", "abfss", "az", "adl", "tos", "cos"})
_OTHER_NAMES = {"s3a": "s3", "s3n": "s3"}

FILE = r"(?i)^(file|local):/"
_FILE_URI = re.compile(r"(?is)(?:file|local):(?://(?P<host>[^/]*)(?=/)|(?=/(?!/)))(?P<path>/.*)")
_DOTS = re.compile(r"(^|/)\.{1,2}(/|$)")

# A member of an archive has the address of a chain of filesystems, as fsspec spells it:
# tar://folder/a.wav::s3://bucket/shard.tar. Its name is quoted where it would read as something
# else: a scheme, a query, an absolute path or one with dots.
MEMBER = r"(?s)^(?P<kind>tar|zip|parquet)://(?P<name>[^:]+)::"
_MEMBER = re.compile(f"{MEMBER}(.+)")
_UNSAFE_NAME = re.compile(r"^/|(?:^|(?<=/))\.{1,2}(?=/|$)|[\x00-\x1f\x7f%@?#:\\\udc80-\udcff]")


def local_path(uri: str) -> str | None:
    """The path of file:///x, file://localhost/x and file:/x; None for any other text.

    %20 and the like are decoded, unless a file has the undecoded name. Raises ValueError if the URI
    names another machine.
    """
    match = _FILE_URI.fullmatch(uri)
    if match is None:
        return None
    if (match["host"] or "localhost").lower() != "localhost":
        raise ValueError(
            f"{uri}: names the machine {match['host']!r}; a local path is file:///{match['host']}"
            f"{match['path']}"
        )
    path = "/" + match["path"].lstrip("/")
    return unquote(path) if "%" in path and not _exists(path) else path


class Member(NamedTuple):
    """A member of an archive: the kind and the address of the archive, and the quoted name."""

    kind: str  # tar | zip | parquet
    name: str
    archive: str


def member_uri(kind: str, name: str, archive: str) -> str:
    """The address of a member; `name` is quoted (quote_name)."""
    return f"{kind}://{name}::{archive}"


def split_member(uri: str) -> Member | None:
    """The parts of the address of a member; None for any other address."""
    match = _MEMBER.fullmatch(uri) if "::" in uri else None
    return Member(match["kind"], match["name"], match[3]) if match else None


def archive_of(uri: str) -> str:
    """The object that holds what the address names: the archive of a member, else itself."""
    member = split_member(uri)
    return member.archive if member else uri


def quote_name(name: str) -> str:
    """The name of a member as addresses and ids have it; no path that leads out of a directory.

    Bytes of a name that are no UTF-8 (surrogates, as tarfile gives them) are quoted, too.
    """
    return _UNSAFE_NAME.sub(
        lambda match: "".join(
            f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")
        ),
        name,
    )


def is_uri(uri: str) -> bool:
    """Whether the text starts with a scheme; otherwise it is a local path."""
    return bool(re.match(SCHEME, uri))


def split_address(uri: str) -> tuple[str, str, str]:
    """(scheme, host, path) of a URI. The path starts with "/" or is "".

    The scheme is in lower case. On the web the host is, too; it has no user, and the query is left
    out.
    """
    scheme, _, rest = uri.partition("://")
    scheme = _OTHER_NAMES.get(scheme.lower(), scheme.lower())
    if scheme in WEB:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    if scheme in WEB:
        host = host.rpartition("@")[2].lower()
    return scheme, host, slash + path


def requested(uri: str) -> str:
    """The address that is asked for: on the web as the HTTP client spells it, with "a/.." removed.

    A chain of filesystems (zip://a::s3://b) is returned unchanged. Raises ValueError for an address
    that no client can ask for, and for one of a bucket with a key in it.
    """
    if not is_uri(uri) or "::" in uri:
        return uri
    scheme = split_address(uri)[0]
    if scheme in WEB:
        import yarl  # aiohttp's own reading; 10 ms to import

        return str(yarl.URL(uri)) if uri.partition("://")[2] else uri
    _, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    if scheme in _LITERAL and ":" in host.rpartition("@")[0]:
        raise ValueError(
            f"{scheme}://***@{host.rpartition('@')[2]}: an address of {scheme}:// cannot hold a "
            "key; put it into the environment"
        )
    if scheme not in _LITERAL and _DOTS.search(path):
        path = _resolved(path)
    return f"{scheme}://{host}{slash}{path}"


def readings(path: str) -> Iterator[str]:
    """Every path that a server may make of this one: decoded, with dots and backslashes resolved.

    The path starts with "/" or is "".
    """
    spelling, decoded = "", path
    while spelling != decoded:  # %252e becomes a dot if it is decoded twice
        spelling, decoded = decoded, unquote(decoded)
        for text in {spelling, spelling.replace("\\", "/"), re.sub(r";[^/]*", "", spelling)}:
            yield text
            if _DOTS.search(text):
                yield "/" + _resolved(text)
                yield "/" + _collapsed(text)


def has_dots(text: str) -> bool:
    """Whether a part of the path is "." or "..", also when decoded."""
    return any(_DOTS.search(reading) for reading in readings(text))


def _resolved(path: str) -> str:
    """Remove dot segments as RFC 3986 does, section 5.2.4: "a//.." is "a/"."""
    kept: list[str] = []
    segments = path.removeprefix("/").split("/")
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    end = "/" if segments[-1] in (".", "..") and kept else ""
    return "/".join(kept) + end


def _collapsed(path: str) -> str:
    """Remove dot segments as a filesystem does: "a//.." is ""."""
    end = "/" if path.endswith("/") else ""
    return posixpath.normpath("/" + path).lstrip("/") + end


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
