"""Host names and addresses; tests/explorer/test_app.py shows the rest of the guard at work."""

import asyncio
import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request

from pipeline.errors import ConfigError
from pipeline.web.guard import Guard, Message, Rules, hosts_for, is_loopback, is_token
from pipeline.web.listening import listen
from tests.support.http import Client, serving


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *(("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.9.1", True)),
        *(("0.0.0.0", False), ("192.168.1.4", False), ("::", False), ("name.example", False)),
    ],
)
def test_a_server_knows_whether_others_can_reach_it(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_the_names_of_a_public_server_are_given() -> None:
    assert "labels.example" in hosts_for("0.0.0.0", frozenset({"labels.example"}))
    assert "evil.example" not in hosts_for("0.0.0.0", frozenset({"labels.example"}))
    assert "localhost" in hosts_for("127.0.0.1")


def test_a_token_is_compared_whole() -> None:
    tokens = frozenset({"right", "also"})
    assert is_token("right", tokens)
    assert not is_token("righ", tokens)
    assert not is_token("", tokens)


def test_a_port_in_use_is_refused_in_one_sentence() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: Address"):
            listen("127.0.0.1", port)


# ------------------------------------------------------------ bodies, through a real server


@pytest.fixture(scope="module")
def counter() -> Iterator[Client]:
    """A server that returns the number of bytes it was sent, 1,000 at most."""
    app = FastAPI()

    @app.post("/count")
    async def count(request: Request) -> int:
        return len(await request.body())

    with serving(Guard(app, Rules(hosts_for("127.0.0.1"), most_bytes=1000))) as client:
        yield client


@pytest.mark.parametrize(("n_chunks", "expected"), [(1, 200), (2, 200), (3, 413)])
def test_a_body_without_a_length_is_counted_while_it_comes(
    counter: Client, n_chunks: int, expected: int
) -> None:
    answer = counter.send("POST", "/count", iter([b"x" * 500] * n_chunks))
    assert answer.status == expected
    if expected == 200:
        assert answer.json == 500 * n_chunks
    else:
        assert answer.json["error"] == {
            "code": "too_large",
            "message": "the body may have 1,000 bytes",
            "type": "invalid_request_error",
            "param": None,
        }
        assert "content-security-policy" in answer.headers


def test_a_body_that_says_it_is_too_long_is_refused_unread(counter: Client) -> None:
    assert counter.send("POST", "/count", b"x" * 1001).status == 413
    assert counter.send("POST", "/count", b"x" * 1000).json == 1000


@pytest.mark.parametrize("length", ["\u00b2", "-1", "1e3", "", "0x10"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    """uvicorn refuses most of them itself; other servers need not."""
    sent: list[Message] = []

    async def app(*_: object) -> None:
        raise AssertionError("the app was asked")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", length.encode("latin-1"))]
    scope = {"type": "http", "method": "POST", "path": "/count", "headers": headers}
    asyncio.run(Guard(app, Rules(frozenset({"localhost"})))(scope, receive, send))
    assert sent[0]["status"] == 400


# ------------------------------------------------------------ the id of a request


@pytest.mark.parametrize("own", ["a", "req_01-2.3:4", "x" * 128])
def test_the_id_that_a_client_sends_is_that_of_the_answer(counter: Client, own: str) -> None:
    for n_bytes, status in ((10, 200), (1001, 413)):
        answer = counter.send("POST", "/count", b"x" * n_bytes, {"x-request-id": own})
        assert (answer.status, answer.headers["x-request-id"]) == (status, own)


@pytest.mark.parametrize("own", [None, "", "x" * 129, "two words", "<b>", "a\tb", "\u00e9"])
def test_a_request_without_a_harmless_id_gets_a_new_one(counter: Client, own: str | None) -> None:
    headers = {} if own is None else {"x-request-id": own}
    answers = [counter.send("POST", "/count", b"x", headers) for _ in range(2)]
    one, other = (answer.headers["x-request-id"] for answer in answers)
    assert one != other
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in (one, other))
