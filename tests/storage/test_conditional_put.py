"""The requests to stores that the tests cannot reach, and the reaction to their answers."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.errors import StoreError
from pipeline.storage.conditional_put import DIALECTS, choose_dialect, dialect_of
from pipeline.storage.store import Store, filesystem_for, open_store

EXISTS = "<Error><Code>PreconditionFailed</Code><Message>exists</Message>{}</Error>"
AWS_EXISTS = EXISTS.format("<Condition>If-None-Match</Condition>")
CEPH_EXISTS = EXISTS.format("")
OSS_EXISTS = "<Error><Code>FileAlreadyExists</Code><Message>exists</Message></Error>"
AWS_CONFLICT = "<Error><Code>ConditionalRequestConflict</Code><Message>again</Message></Error>"
BUSY = "<Error><Code>ServiceUnavailable</Code><Message>busy</Message></Error>"
DENIED = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"


@dataclass
class Wire:
    """A local server that keeps the headers of every PUT. It gives `answers` in turn, then 200."""

    url: str = ""
    stored: bytes = b""
    puts: list[dict[str, str]] = field(default_factory=list)
    answers: list[tuple[int, str]] = field(default_factory=list)
    forever: tuple[int, str] | None = None

    def store(self, **options: Any) -> Store:
        config = {"retries": {"mode": "standard", "max_attempts": 1}}
        path_style = {"s3": {"addressing_style": "path"}}
        given = {
            "client_kwargs": {"endpoint_url": self.url},
            "key": "testing",
            "secret": "testing",
            "config_kwargs": config | path_style,
        }
        return open_store("s3://bucket/root", given | options)


@pytest.fixture
def wire() -> Iterator[Wire]:
    state = Wire()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.puts.append({name.lower(): value for name, value in self.headers.items()})
            status, text = state.forever or (state.answers or [(200, "")]).pop(0)
            if status == 200:
                state.stored = body
            self._answer(status, text.encode())

        def do_GET(self) -> None:
            self._answer(200, state.stored)

        do_HEAD = do_GET

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_sends_its_own_header_and_signs_it(wire: Wire, dialect: str) -> None:
    wire.store(conditional_put=dialect).put_if_absent("log/1", b"mine")
    (headers,) = wire.puts
    name, value = DIALECTS[dialect]
    assert headers[name.lower()] == value
    assert set(headers) & {other.lower() for other, _ in DIALECTS.values()} == {name.lower()}
    signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert name.lower() in signed


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_ordinary_put_has_no_condition(wire: Wire, dialect: str) -> None:
    wire.store(conditional_put=dialect).put("_latest.json", b"{}")
    assert not set(wire.puts[0]) & {name.lower() for name, _ in DIALECTS.values()}


def test_writes_to_stores_other_than_aws_have_no_checksum_trailer(wire: Wire) -> None:
    store = wire.store()
    store.put("a", b"bytes")
    store.put_if_absent("b", b"bytes")
    assert [headers.get("content-encoding", "") for headers in wire.puts] == ["", ""]


@pytest.mark.parametrize(
    ("endpoint", "dialect"),
    [
        ("", "if-none-match"),
        ("https://minio.example:9000", "if-none-match"),
        ("https://s3.eu-west-1.amazonaws.com", "if-none-match"),
        ("https://oss-cn-hangzhou.aliyuncs.com", "x-oss-forbid-overwrite"),
        ("https://oss-cn-hangzhou-internal.aliyuncs.com", "x-oss-forbid-overwrite"),
        ("https://storage.googleapis.com", "x-goog-if-generation-match"),
        ("https://aliyuncs.com.example", "if-none-match"),
    ],
)
def test_the_endpoint_determines_the_dialect(endpoint: str, dialect: str) -> None:
    assert dialect_of(endpoint) == dialect
    assert choose_dialect({"client_kwargs": {"endpoint_url": endpoint}}) == dialect


def test_an_endpoint_from_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://oss-cn-beijing.aliyuncs.com")
    assert choose_dialect({}) == "x-oss-forbid-overwrite"


def test_the_option_overrides_the_endpoint() -> None:
    options = {"endpoint_url": "https://storage.googleapis.com", "conditional_put": "if-none-match"}
    assert choose_dialect(options) == "if-none-match"


def test_an_unknown_dialect_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StoreError, match=r"conditional_put='etag': use one of \['if-none-match'"):
        open_store("s3://bucket", {"conditional_put": "etag"})


def test_oss_is_addressed_by_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"endpoint_url": "https://oss-cn-hangzhou.aliyuncs.com"}
    filesystem, _ = filesystem_for("s3://bucket/a.wav", options)
    assert filesystem.config_kwargs["s3"] == {"addressing_style": "virtual"}


@pytest.mark.parametrize(
    ("status", "body"),
    [(412, AWS_EXISTS), (412, CEPH_EXISTS), (412, ""), (409, OSS_EXISTS)],
    ids=["aws", "ceph", "no-body", "oss"],
)
def test_an_answer_that_it_exists_is_a_lost_race(wire: Wire, status: int, body: str) -> None:
    wire.stored, wire.answers = b"theirs", [(status, body)]
    assert not wire.store().put_if_absent("log/1", b"mine")


@pytest.mark.parametrize(("status", "body"), [(412, CEPH_EXISTS), (409, OSS_EXISTS)])
def test_an_answer_that_it_exists_may_be_about_our_own_bytes(
    wire: Wire, status: int, body: str
) -> None:
    wire.stored, wire.answers = b"mine", [(status, body)]
    assert wire.store().put_if_absent("log/1", b"mine")


def test_a_conflict_is_retried(wire: Wire) -> None:
    wire.answers = [(409, AWS_CONFLICT), (409, AWS_CONFLICT), (200, "")]
    assert wire.store().put_if_absent("log/1", b"mine")
    assert len(wire.puts) == 3


def test_a_conflict_that_does_not_end_is_an_error(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.store._CONFLICT_WAIT_S", 0.0)
    wire.forever = (409, AWS_CONFLICT)
    with pytest.raises(
        StoreError, match="answered 10 times in a row that another conditional write"
    ):
        wire.store().put_if_absent("log/1", b"mine")


def test_a_store_that_is_always_busy_is_an_error(wire: Wire) -> None:
    wire.forever = (503, BUSY)
    with pytest.raises(OSError, match="busy"):
        wire.store().put("a", b"bytes")
    assert len(wire.puts) <= 2, "max_attempts of config_kwargs bounds the requests"


def test_a_missing_permission_is_not_a_lost_race(wire: Wire) -> None:
    wire.answers = [(403, DENIED)]
    with pytest.raises(PermissionError):
        wire.store().put_if_absent("log/1", b"mine")
