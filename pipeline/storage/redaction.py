"""What may be written down of an address. Opens nothing.

Every address and message that is stored or printed (tables, errors, records, logs) passes through
this module. The addresses that open objects do not, nor do those that decide whether two rows are
one recording (see `identity_uri`). Redaction works by an allow-list: the value of every parameter
is hidden, unless its name is known to be harmless and its value looks harmless, too.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from pipeline.storage.address import SCHEME, member_uri, split_member
from pipeline.storage.signatures import without_signature

HIDDEN = "***"

_WEB = frozenset({"http", "https"})
# Names whose values are written down: they choose an object, or a part or form of it.
_HARMLESS = frozenset(
    name
    for names in (
        "id version versionid version_id generation snapshot revision rev v page part index offset",
        "start end duration from to t row format ext codec rate channel channels track lang",
        "language download raw dl x-id",
    )
    for name in names.split()
)
_HARMLESS_VALUE = re.compile(r"[\w .,:+/~-]{0,64}")
_NAME = re.compile(r"[A-Za-z][\w.-]{0,30}")  # another name may itself be the secret
_MEDIA_FRAGMENT = re.compile(r"(t|row)=[\d.,]*")

_NEXT_ADDRESS = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")  # zip://a.wav::https://host/b.zip
# An address inside a text ends at a blank or a quotation mark. "https:/" is a misspelled one.
_IN_TEXT = re.compile(
    r"(?i)(?:\b[a-z][a-z0-9+.-]*://|\bhttps?:/)(?:[^\s'\"<>\\]|\\(?!\"))*(?<![).,;:!\]}])"
)
_USER_IN_TEXT = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*)(:/{1,2})([^/?#\s\"<>]*)@")
# A password with an unescaped "/", "?" or "#": what stands where the port should be is no number.
_BROKEN_USER = re.compile(
    r"(?i)\b([a-z][a-z0-9+.-]*:/{1,2})[^/?#\s\"<>@:\[\]]*:(?!:|\d*(?:[/?#\s'\"<>,;)]|$))[^\s\"<>]*@"
)
_PARAMETER = re.compile(r"(?<=[?&;#])[^?=&;#\s'\"<>/]+=(?!\*\*\*)[^&;#\s'\"<>]*")


def identity_uri(uri: str) -> str:
    """The address as ids, work keys and duplicate checks use it. Never write it down.

    It lacks the user and the parameters that sign it (see signatures). A local path, and a URI
    without "@", "?" and "#", is returned unchanged.
    """
    if not re.match(SCHEME, uri):
        return uri
    if member := split_member(uri):
        return member_uri(member.kind, member.name, identity_uri(member.archive))
    return "::".join(_identity(part) for part in _NEXT_ADDRESS.split(uri))


def public_uri(uri: str) -> str:
    """The address as it may be written down: without a user, signatures and unknown values.

    A local path, and a URI without "@", "?" and "#", is returned unchanged.
    """
    if not re.match(SCHEME, uri):
        return redact_addresses(uri)
    if member := split_member(uri):
        return member_uri(member.kind, member.name, public_uri(member.archive))
    bare = _hide_users(uri, "")
    parts = (_written(_identity(part), part) for part in _NEXT_ADDRESS.split(bare))
    return _hide_users("::".join(parts), "")


def redact_addresses(text: str) -> str:
    """A text with *** in place of every credential in the addresses that it contains."""
    if ":/" not in text:
        return text
    text = _hide_users(text, f"{HIDDEN}@")
    return _IN_TEXT.sub(lambda match: _written(match[0], match[0]), text)


def redact(text: str) -> str:
    """A message without credentials. Also hides values in parts of an address, as ?name=value."""
    return _PARAMETER.sub(lambda match: _hide_value(match[0]), redact_addresses(text))


def redact_all(value: Any) -> Any:
    """Settings of any depth, with every text as `public_uri` writes it."""
    if isinstance(value, str):
        return public_uri(value)
    if isinstance(value, Mapping):
        return {name: redact_all(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    return value


def _identity(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    address, query, fragment = _split(rest)
    host, slash, path = address.partition("/")
    user, at, bare = host.rpartition("@")
    # Azure has a container before the "@" (abfs://container@account/), so a user without a password
    # is removed only on the web, where it may be a token.
    if at and (scheme.lower() in _WEB or ":" in user):
        host = bare
    return scheme + separator + host + slash + path + _joined(query, fragment, without_signature)


def _written(uri: str, original: str) -> str:
    """One address with hidden values. In a store, "?" and "#" without "=" belong to the name."""
    is_web = original.partition(":")[0].lower() in _WEB
    address, query, fragment = _split(uri)

    def hide(text: str) -> str:
        return "&".join(_hide_value(part, is_web=is_web) for part in text.split("&"))

    if fragment is not None and not _MEDIA_FRAGMENT.fullmatch(fragment):
        fragment = HIDDEN if fragment and (is_web or "=" in fragment) else fragment
    hidden_query = None if query is None else hide(query)
    return address + _joined(hidden_query, fragment, str)


def _split(text: str) -> tuple[str, str | None, str | None]:
    """What stands before "?", the query, and the fragment; None where there is none."""
    before, hash_sign, fragment = text.partition("#")
    address, mark, query = before.partition("?")
    return address, query if mark else None, fragment if hash_sign else None


def _joined(query: str | None, fragment: str | None, change: Any) -> str:
    """A query and a fragment after `change`; one that was emptied goes with its sign."""
    signs = (("?", query), ("#", fragment))
    changed = [(sign, text, change(text)) for sign, text in signs if text is not None]
    return "".join(sign + new for sign, text, new in changed if new or not text)


def _hide_value(parameter: str, *, is_web: bool = True) -> str:
    """name=value with *** as its value, unless both are harmless."""
    name, separator, value = parameter.partition("=")
    is_known = unquote(name).lower() in _HARMLESS
    if not separator:
        is_kept = not parameter or is_known or not is_web
    else:
        is_kept = is_known and bool(_HARMLESS_VALUE.fullmatch(unquote(value)))
    if is_kept:
        return parameter
    return f"{name}={HIDDEN}" if value.strip("=") and _NAME.fullmatch(name) else HIDDEN


def _hide_users(text: str, mark: str) -> str:
    def hide(match: re.Match[str]) -> str:
        is_secret = match[1].lower() in _WEB or ":" in match[3]
        return f"{match[1]}{match[2]}{mark}" if is_secret else match[0]

    return _BROKEN_USER.sub(rf"\1{mark}", _USER_IN_TEXT.sub(hide, text))
