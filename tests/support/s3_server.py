"""An S3 server for the tests: moto, with conditional writes one at a time.

moto checks the condition and writes in two steps, so of two writers both can win (3 of 230
contended keys); real stores do not let that happen, and the lock here does not either.
`python -m tests.support.s3_server PORT` serves; `serve_s3()` starts that and waits until it
answers. The name of a bucket may ask for a misbehaviour that real stores show: see FAULTS.
"""

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 60.0
FAULTS = {
    "lost": "applies the first conditional PUT of a key and closes the connection unanswered",
    "busy": "answers the first conditional PUT of a key with 409, as AWS may",
    "bare": "leaves the condition out of its 412 answer, as Ceph does",
    "lying": "ignores If-None-Match, as s3rver does",
    "flaky": "answers every third request with 503",
}
Start = Callable[..., Any]  # WSGI's start_response
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True, slots=True)
class S3:
    """A running server; keys come from the environment, as in production."""

    endpoint: str

    @property
    def storage_options(self) -> dict[str, Any]:
        return {
            "client_kwargs": {"endpoint_url": self.endpoint},
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        }

    def new_bucket(self, fault: str = "plain") -> str:
        """The s3:// URI of an empty bucket; `fault` is one of FAULTS."""
        name = f"{fault}-{uuid.uuid4().hex[:12]}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        return f"s3://{name}"


@contextmanager
def serve_s3() -> Iterator[S3]:
    """Start a server on a free loopback port, with test credentials in the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.s3_server", str(port)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = S3(f"http://127.0.0.1:{port}")
        _wait(server.endpoint, process)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=10)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait(endpoint: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"moto did not start (exit code {process.poll()})")


def _main(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    moto = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()
    seen: set[str] = set()
    n_requests = itertools.count(1)

    def serve(environment: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        fault, is_object = path.strip("/").partition("-")[0], "/" in path.strip("/")
        is_conditional = "HTTP_IF_NONE_MATCH" in environment
        is_first = is_conditional and path not in seen
        if is_conditional:
            seen.add(path)
        if fault == "flaky" and is_object and next(n_requests) % 3 == 0:
            return _refuse(start, "503 Slow Down", "SlowDown")
        if fault == "busy" and is_first:
            return _refuse(start, "409 Conflict", "ConditionalRequestConflict")
        if fault == "lying":
            environment.pop("HTTP_IF_NONE_MATCH", None)
        if not is_conditional:
            answer: Iterable[bytes] = moto(environment, start)
            return answer
        with one_at_a_time:
            body = b"".join(moto(environment, start))
        if fault == "lost" and is_first:
            environment["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return [_blank_condition(body) if fault == "bare" else body]

    run_simple("127.0.0.1", port, serve, threaded=True)


def _refuse(start: Start, status: str, code: str) -> list[bytes]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>later</Message></Error>"
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body.encode()]


def _blank_condition(body: bytes) -> bytes:
    """Without the element's content, at the same length."""
    content = b"<Condition>If-None-Match</Condition>"
    return body.replace(content, b"<Condition></Condition>".ljust(len(content)))


if __name__ == "__main__":
    _main(int(sys.argv[1]))
