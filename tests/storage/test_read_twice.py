"""A read that fails once is repeated once, and only for the exceptions that mean damage."""

import pytest

from pipeline.errors import DamagedError, StoreError
from pipeline.storage.read_twice import read_twice


class Reads:
    """A read that raises these exceptions in turn, then returns its number of calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.n_calls = 0

    def __call__(self) -> int:
        self.n_calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.n_calls


def test_a_good_read_is_not_repeated() -> None:
    assert read_twice(Reads(), DamagedError) == 1


def test_a_damaged_read_is_repeated_once() -> None:
    assert read_twice(Reads(DamagedError("a bit")), DamagedError) == 2


def test_damage_in_the_store_is_raised_after_the_second_read() -> None:
    read = Reads(DamagedError("first"), DamagedError("second"))
    with pytest.raises(DamagedError, match="second"):
        read_twice(read, DamagedError)
    assert read.n_calls == 2


def test_other_errors_are_raised_at_once() -> None:
    read = Reads(StoreError("not there"))
    with pytest.raises(StoreError):
        read_twice(read, (DamagedError, ValueError))
    assert read.n_calls == 1
