"""How many connections a server of ours has open, and how long one may wait for a request.

uvicorn limits neither: it answers too many with a plain text that is no error of an API, and a
client that sends its headers byte by byte keeps its connection for ever.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.web.errors import error_body
from pipeline.web.guard import App, Receive, Scope, Send, name_request, read_headers

HEADER_S = 20.0


def limited_protocol(max_connections: int, header_s: float = HEADER_S) -> type[H11Protocol]:
    """A protocol for uvicorn.Config(http=...).

    A connection over `max_connections` gets 503 for whatever it asks, but for /healthz; a server
    under load is alive. One over twice as many is closed at once. A connection without a request
    under way is closed after `header_s` to twice as long.
    """

    class Limited(H11Protocol):
        """One connection."""

        _cycle_before: Any = None
        _timer: asyncio.TimerHandle | None = None
        _is_over = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            n_open = len(self.connections)
            if n_open > 2 * max_connections:
                transport.abort()
                return
            if n_open > max_connections:
                self._is_over = True
                self.app: Any = _answering_busy(self.app)
            self._timer = self.loop.call_later(header_s, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _should_upgrade(self) -> bool:
            return not self._is_over and super()._should_upgrade()

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            if self._timer is not None:  # the WebSocket's own protocol takes the connection over
                self._timer.cancel()
            super().handle_websocket_upgrade(event)

        def _look(self) -> None:
            """Close the connection if it had no request at the last look and has no other now."""
            is_waiting = self.cycle is None or self.cycle.response_complete
            if is_waiting and self.cycle is self._cycle_before:
                self.transport.close()
                return
            self._cycle_before = self.cycle if is_waiting else self
            self._timer = self.loop.call_later(header_s, self._look)

    return Limited


def _answering_busy(app: App) -> App:
    """An application that answers 503 for the other, but for its health."""
    error = error_body(503, "too_many_connections", "too many connections are open; try again")
    body = json.dumps(error).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"retry-after", b"1"),
    ]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/healthz":
            await app(scope, receive, send)
            return
        request_id = (b"x-request-id", name_request(read_headers(scope)).encode())
        told = [*headers, request_id]
        await send({"type": "http.response.start", "status": 503, "headers": told})
        await send({"type": "http.response.body", "body": body})

    return answer
