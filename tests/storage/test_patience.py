"""Waiting for a store that is away, with a clock that the tests set."""

import errno
import os

import pytest

from pipeline.storage.patience import is_away, with_patience


class Clock:
    """Time passes only while something sleeps, or by `call_s` in each call of the store."""

    def __init__(self, back_s: float, call_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.back_s = back_s  # when the store answers again
        self.call_s = call_s
        self.calls_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def ask(self) -> str:
        self.calls_s.append(self.now_s)
        self.now_s += self.call_s
        if self.now_s < self.back_s:
            raise OSError("s3://bucket: no usable answer (EndpointConnectionError)")
        return "stored"

    def with_patience(self, patience_s: float) -> str:
        return with_patience(self.ask, patience_s, clock=lambda: self.now_s, sleep=self.sleep)


def test_a_store_that_comes_back_gets_what_waited() -> None:
    clock = Clock(back_s=600)
    assert clock.with_patience(900) == "stored"
    assert 600 <= clock.now_s <= 630


def test_the_waits_become_longer_up_to_half_a_minute() -> None:
    clock = Clock(back_s=100)
    clock.with_patience(900)
    assert clock.calls_s == [0, 1, 3, 7, 15, 31, 61, 91, 121]


@pytest.mark.parametrize("call_s", [0, 45])
def test_a_store_that_stays_away_is_given_up_after_the_patience(call_s: float) -> None:
    clock = Clock(back_s=1e9, call_s=call_s)
    with pytest.raises(OSError, match="no usable answer"):
        clock.with_patience(900)
    assert 900 <= clock.now_s <= 900 + 2 * call_s


def test_without_patience_a_store_is_asked_once() -> None:
    clock = Clock(back_s=1e9)
    with pytest.raises(OSError, match="no usable answer"):
        clock.with_patience(0)
    assert clock.calls_s == [0]


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("Forbidden"),
        FileNotFoundError("The specified bucket does not exist"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EROFS, os.strerror(errno.EROFS)),
    ],
    ids=repr,
)
def test_an_answer_that_no_waiting_changes_is_an_error_at_once(error: OSError) -> None:
    def refuse() -> None:
        raise error

    with pytest.raises(type(error)):
        with_patience(refuse, 900, sleep=lambda _: pytest.fail("waited"))


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(), TimeoutError(), OSError(errno.EIO, "EIO"), OSError("503")]
)
def test_what_a_store_that_is_away_gives_is_waited_for(error: OSError) -> None:
    assert is_away(error)
