"""Host names and addresses; tests/explorer/test_app.py shows the rest of the guard at work."""

import pytest

from pipeline.errors import ConfigError
from pipeline.web.guard import hosts_for, is_loopback, is_token
from pipeline.web.listening import listen


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
