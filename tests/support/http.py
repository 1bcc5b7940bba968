"""A server of ours in a thread, and requests that say exactly what is sent."""

import http.client
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import uvicorn

from pipeline.web.listening import listen


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True, slots=True)
class Client:
    """Requests to a server on loopback."""

    port: int
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, headers: Mapping[str, str] | None = None, **query: Any) -> Answer:
        return self.send("GET", f"{path}?{urlencode(query)}" if query else path, b"", headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(
            "POST", path, sent, {"content-type": "application/json", **(headers or {})}
        )

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes],
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Pieces are sent as a chunked body, which has no length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            found = connection.getresponse()
            names = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, names, found.read())
        finally:
            connection.close()


@contextmanager
def serving(app: Any, headers: Mapping[str, str] | None = None) -> Iterator[Client]:
    """Run an ASGI application with uvicorn in a thread, and shut it down at the end."""
    socket = listen("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, loop="asyncio", http="h11", log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            thread.join(0.02)
        yield Client(socket.getsockname()[1], headers or {})
    finally:
        server.should_exit = True
        thread.join()
        socket.close()
