"""When a fault stops a run, and what follows a round: decisions at the limits of their counts."""

from typing import Any

import pytest

from pipeline.errors import ErrorType
from pipeline.runs.recovery import CircuitBreaker, explain_crashes, find_fault, next_step

LIMITS: dict[str, Any] = {"max_error_share": 0.5, "fail_fast_after": 100}


def test_a_fault_of_the_environment_is_found_when_it_dominates() -> None:
    assert find_fault(100, {"AccessDenied": 51}, **LIMITS) == "AccessDenied"
    assert find_fault(100, {"AccessDenied": 50}, **LIMITS) == ""
    assert find_fault(99, {"AccessDenied": 99}, **LIMITS) == ""  # too few recordings yet
    assert find_fault(100, {"AccessDenied": 40, "FileMissing": 40}, **LIMITS) == ""  # not one
    assert find_fault(100, {"AccessDenied": 100}, max_error_share=1, fail_fast_after=1) == ""
    assert find_fault(100, {}, **LIMITS) == ""


def test_the_most_frequent_fault_is_named() -> None:
    errors = {"FileMissing": 40, "AccessDenied": 60}
    assert find_fault(100, errors, **LIMITS) == "AccessDenied"


@pytest.mark.parametrize("kind", ["NotAudio", "Truncated", "BadUri", "TooLong"])
def test_bad_audio_never_stops_a_run(kind: str) -> None:
    assert find_fault(1000, {kind: 1000}, **LIMITS) == ""
    assert find_fault(1000, {kind: 900, "AccessDenied": 100}, **LIMITS) == ""


def test_crashes_stop_a_run_earlier() -> None:
    crash = ErrorType.WORKER_CRASH
    assert find_fault(10, {crash: 10}, **LIMITS) == crash
    assert find_fault(9, {crash: 9}, **LIMITS) == ""
    assert find_fault(200, {crash: 10}, **LIMITS) == ""
    assert find_fault(3, {crash: 3}, max_error_share=0.5, fail_fast_after=3) == crash


def breaker_after(*batches: tuple[int, list[str]]) -> tuple[CircuitBreaker, list[str]]:
    """A breaker for the last 100 recordings, and its answers."""
    breaker = CircuitBreaker(max_error_share=0.5, fail_fast_after=10)
    return breaker, [breaker.add(n, errors, "403 Forbidden") for n, errors in batches]


GOOD: tuple[int, list[str]] = (10, [])
BAD = (10, ["AccessDenied"] * 10)


def test_a_fault_that_comes_late_in_a_long_run_is_found_too() -> None:
    """As soon as it has more than half of the last hundred recordings."""
    _, answers = breaker_after(*[GOOD] * 1000, *[BAD] * 10)
    first = next(index for index, answer in enumerate(answers) if answer)
    assert first == 1000 + 5
    assert "60 of the last 100 recordings failed with AccessDenied" in answers[first]
    assert "403 Forbidden" in answers[first]
    assert "retry=errors" in answers[first]


def test_old_faults_are_not_counted() -> None:
    _, answers = breaker_after(*[GOOD] * 2, BAD, BAD, *[GOOD] * 20, BAD, BAD, BAD, BAD, BAD)
    assert not any(answers)


def test_the_example_is_of_the_fault_that_stops_the_run() -> None:
    breaker, _ = breaker_after(GOOD)
    assert breaker.add(10, ["NotAudio"], "looks like text") == ""
    answer = breaker.add(100, ["AccessDenied"] * 100, "403 for a.wav.")
    assert "403 for a.wav. " in answer and "looks like text" not in answer


@pytest.mark.parametrize(
    ("n_left", "n_before", "n_rounds", "step"),
    [
        (0, 50, 1, "done"),
        (0, 0, 9, "done"),
        (1, 1, 1, "alone"),  # a corpus of one recording, which crashes its worker
        (100, 10_000_000, 1, "alone"),
        (101, 10_000_000, 1, "isolated"),
        (10_000, 10_000_000, 1, "isolated"),
        (10_001, 10_000_000, 1, "again"),
        (
            9_000_000,
            9_000_000,
            2,
            "stop",
        ),  # no recording has a row: the recordings are not the cause
        (101, 101, 1, "stop"),
        (500, 800, 3, "isolated"),
        (500, 800, 4, "alone"),
        (1_000, 8_000, 4, "alone"),
        (1_001, 8_000, 4, "stop"),
        (20_000, 80_000, 4, "stop"),
    ],
)
def test_recordings_that_are_left_are_labelled_again_in_smaller_batches(
    n_left: int, n_before: int, n_rounds: int, step: str
) -> None:
    assert next_step(n_left, n_before, n_rounds) == step


def test_the_message_about_crashes_has_the_number_left_and_the_reason() -> None:
    text = explain_crashes(1_234, 4, "a worker was killed")
    assert "1,234 recordings" in text
    assert "4 " in text and "a worker was killed" in text
    assert "()" not in explain_crashes(1, 1, "")
