"""An HTTP proxy between a client and the S3 server of the tests that does what wires and stores do.

It runs in threads of the test, which says which requests meet which fault, and sees how many did.
"""

import itertools
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.s3_server import S3

LATE_S = 10.0  # how long a late request waits for its own retry
_HOP = ("connection", "transfer-encoding", "content-length", "server", "date")
_REFUSALS = {
    403: ("AccessDenied", "Access Denied"),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store said."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(slots=True)
class Fault:
    """What becomes of `times` requests that fit, after `skip` others that fit got through.

    truncate: the answer breaks off half-way · flip: one byte of it is another one · reset: the
    connection is closed unread · lost: the same, but the store has done it · refuse: `status`
    instead of an answer · slow: `wait_s` before it · late: the client hears nothing, and the store
    gets the request when a retry of it has been answered.
    """

    kind: str
    method: str = "GET|PUT|POST|DELETE|HEAD"
    path: str = ""  # a regular expression, found in the path
    skip: int = 0
    times: int = 1
    status: int = 503
    wait_s: float = 0.0
    at: Callable[[bytes], int] = lambda body: len(body) // 2  # which byte is flipped
    n_met: int = 0
    late: list[int] = field(default_factory=list)  # what the store said to late requests
    _n_seen: Iterator[int] = field(default_factory=itertools.count)

    def meets(self, method: str, path: str) -> bool:
        if not re.fullmatch(self.method, method) or not re.search(self.path, path):
            return False
        met = self.skip <= next(self._n_seen) < self.skip + self.times
        self.n_met += met
        return met


@dataclass(slots=True)
class Wire:
    """A running proxy; `fault` may be exchanged at any time."""

    s3: S3  # reached through the proxy
    fault: Fault | None = None
    arrived: threading.Event = field(default_factory=threading.Event)  # a late request has
    answered: dict[str, threading.Event] = field(default_factory=dict)  # late ones, by path

    def reset(self) -> None:
        """An honest wire that has seen nothing yet."""
        self.fault, self.arrived, self.answered = None, threading.Event(), {}


@contextmanager
def faulty_wire(behind: S3) -> Iterator[Wire]:
    """A proxy on a free loopback port in front of `behind`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    wire = Wire(S3(f"http://127.0.0.1:{server.server_address[1]}"))
    server.wire, server.behind = wire, behind  # type: ignore[attr-defined]  # for the handlers
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield wire
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    server: Any

    def do_GET(self) -> None:
        wire: Wire = self.server.wire
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        fault = wire.fault
        if fault is None or not fault.meets(self.command, path):
            self._send(self._forward(body))
            if self.command == "PUT" and path in wire.answered:  # the same write, or its rival
                wire.answered[path].set()
        elif fault.kind == "reset":
            self._reset()
        elif fault.kind == "lost":
            self._forward(body)
            self._reset()
        elif fault.kind == "refuse":
            self._send(_refusal(fault.status))
        elif fault.kind == "slow":
            time.sleep(fault.wait_s)
            self._send(self._forward(body))
        elif fault.kind == "late":
            wire.answered.setdefault(path, threading.Event()).wait(LATE_S)
            fault.late.append(self._forward(body).status)
            wire.arrived.set()
            self.close_connection = True
        elif fault.kind == "truncate":
            answer = self._forward(body)
            self._send(answer, answer.body[: len(answer.body) // 2])
            self.close_connection = True
        elif fault.kind == "flip":
            answer = self._forward(body)
            wrong = bytearray(answer.body)
            wrong[fault.at(answer.body)] ^= 0x01
            self._send(answer, bytes(wrong))

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that has given up
            super().handle()

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing: the tests tell what happened."""

    def _forward(self, body: bytes) -> Answer:
        connection = HTTPConnection(urlsplit(self.server.behind.endpoint).netloc, timeout=30)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            return Answer(response.status, tuple(response.getheaders()), response.read())
        finally:
            connection.close()

    def _send(self, answer: Answer, body: bytes | None = None) -> None:
        """The answer with the length that the store gave, whatever becomes of its body."""
        self.send_response(answer.status)
        length = str(len(answer.body))
        for name, value in answer.headers:
            if name.lower() == "content-length":
                length = value  # of HEAD, which has no body
            elif name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(answer.body if body is None else body)

    def _reset(self) -> None:
        """RST instead of FIN: nothing that was under way arrives."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()


def _refusal(status: int) -> Answer:
    code, message = _REFUSALS[status]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, (("Content-Type", "application/xml"),), body.encode())
