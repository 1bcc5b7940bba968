"""Who may ask: token, Host, Origin, content type and size, before any handler runs. ASGI.

A page of another site can send requests to a server on the user's own machine, under a name of its
own that it points to 127.0.0.1 (DNS rebinding), or as a form (CSRF). Other users of the machine can
reach the port. So the Host must be ours, the Origin too, what changes something must be JSON or
multipart with our Origin, and every path that is not public needs the token.
"""

import hmac
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any

from pipeline.web.errors import error_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "sensevoice_session"
SERVE_TOKEN = "SENSEVOICE_SERVE_TOKEN"  # the variable that holds the tokens of the service
# wavesurfer.js sets the style of its elements by script: hence 'unsafe-inline', for styles only.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
)
_CHANGING = {"POST", "PUT", "PATCH", "DELETE"}
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_HARMLESS_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # in a header and in a line of a log


@dataclass(frozen=True, slots=True)
class Rules:
    """What the guard lets through.

    hosts: names under which this server is asked, without a port; "*" allows any.
    tokens: one of these must come as `Authorization: Bearer`, or in the cookie; none: no check.
    public: paths that need no token. prefixes of paths end with "/".
    json_only: bodies must be JSON (a form of another site cannot send that without a preflight).
    """

    hosts: frozenset[str]
    tokens: frozenset[str] = frozenset()
    public: frozenset[str] = frozenset()
    json_only: bool = False
    most_bytes: int = 1 << 20  # of a body
    read_only: bool = False


def is_loopback(address: str) -> bool:
    """Whether a server at this address can be reached only from this machine."""
    if address == "localhost":
        return True
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def hosts_for(address: str, names: frozenset[str] = frozenset()) -> frozenset[str]:
    """The Host names to accept when listening on `address`; `names` are the public ones."""
    if names:
        return names | {*_LOCAL_HOSTS}
    return frozenset({*_LOCAL_HOSTS, address})


def read_headers(scope: Scope) -> dict[str, str]:
    """By names in lower case; of a header that is given twice, the last."""
    return {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }


def name_request(headers: Mapping[str, str]) -> str:
    """The client's own x-request-id, so that its log and ours agree; a new one if it is no id."""
    own = headers.get("x-request-id", "")
    return own if _HARMLESS_ID.fullmatch(own) else secrets.token_hex(8)


class Guard:
    """Refuses what `rules` do not allow, and adds security headers and an id to every answer."""

    def __init__(self, app: App, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = read_headers(scope)
        request_id = name_request(headers)
        sending = _with_headers(send, request_id)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, receive, sending, *refusal)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = request_id  # an app can log it
        exchange = _Exchange(receive, sending, self._rules.most_bytes)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            if not exchange.is_refused:
                raise  # else the app says that its client has gone
        if exchange.is_refused:
            await _refuse(scope, receive, sending, *_too_large(self._rules.most_bytes))

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        """(status, code, message), or None if the request may pass."""
        rules = self._rules
        host = _without_port(headers.get("host", ""))
        if "*" not in rules.hosts and host not in rules.hosts:
            return 421, "wrong_host", f"this server does not answer for the host {host!r}"
        origin = headers.get("origin")
        if origin not in (None, "null") and not _is_same(origin or "", headers.get("host", "")):
            return 403, "wrong_origin", "requests of other sites are refused"
        if origin == "null" or headers.get("sec-fetch-site") == "cross-site":
            return 403, "wrong_origin", "requests of other sites are refused"
        if not self._is_known(scope, headers):
            return 401, "no_token", "send the token as `Authorization: Bearer TOKEN`"
        if scope["type"] == "websocket" or scope["method"] not in _CHANGING:
            return None
        if rules.read_only:
            return 405, "read_only", "this server was started with --read-only"
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if rules.json_only and kind != "application/json":
            return 415, "not_json", "send the body as application/json"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return 400, "bad_length", "the header content-length must be a number"
        if int(length) > rules.most_bytes:
            return _too_large(rules.most_bytes)
        return None

    def _is_known(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """A public path is a page; a WebSocket at the same path does something."""
        rules, path = self._rules, scope["path"]
        is_public = path in rules.public or _is_below(path, rules.public)
        if not rules.tokens or (is_public and scope["type"] == "http"):
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        sent = bearer if kind.lower() == "bearer" else _cookie(headers.get("cookie", ""))
        return is_token(sent, rules.tokens)


class _Exchange:
    """The messages of one request. A body of more than `most_bytes` ends early, and is refused.

    A chunked body says no length, so it is counted while it comes. The app is told that its client
    has gone, and what it then answers is dropped, unless it has begun to answer before.
    """

    def __init__(self, receive: Receive, send: Send, most_bytes: int) -> None:
        self._receive, self._send = receive, send
        self._n_left = most_bytes
        self._has_started = False
        self.is_refused = False

    async def receive(self) -> Message:
        if self._n_left < 0:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._n_left -= len(message.get("body", b""))
        if self._n_left >= 0:
            return message
        self.is_refused = not self._has_started
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if not self.is_refused:
            self._has_started = True
            await self._send(message)


def _too_large(most_bytes: int) -> tuple[int, str, str]:
    return 413, "too_large", f"the body may have {most_bytes:,} bytes"


def read_tokens(text: str) -> frozenset[str]:
    """Tokens that are separated by commas."""
    return frozenset(filter(None, (one.strip() for one in text.split(","))))


def is_token(sent: str, tokens: frozenset[str]) -> bool:
    """Whether `sent` is one of the tokens. Takes the same time for every wrong one."""
    fitting = [hmac.compare_digest(sent.encode(), token.encode()) for token in tokens]
    return any(fitting)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def _is_same(origin: str, host: str) -> bool:
    return origin.partition("://")[2].lower() == host.lower()


def _is_below(path: str, public: frozenset[str]) -> bool:
    return any(
        prefix.endswith("/") and path.startswith(prefix) for prefix in public if prefix != "/"
    )


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _with_headers(send: Send, request_id: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [*message.get("headers", ())]
            names = {name.lower() for name, _ in given}
            added = [pair for pair in _HEADERS if pair[0] not in names]
            added.append((b"x-request-id", request_id.encode()))
            if b"cache-control" not in names:
                added.append((b"cache-control", b"private, no-store"))
            message = {**message, "headers": [*given, *added]}
        await send(message)

    return sending


async def _refuse(
    scope: Scope, receive: Receive, send: Send, status: int, code: str, message: str
) -> None:
    if scope["type"] == "websocket":
        await receive()  # the connect message
        await send({"type": "websocket.close", "code": 1008, "reason": message})
        return
    body = json.dumps(error_body(status, code, message)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
