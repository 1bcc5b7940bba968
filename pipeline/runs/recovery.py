"""Decide when a fault stops a run, and what follows a round. Knows counts; nothing of Ray.

The rule: a bad recording becomes a row, and a bad environment stops the run, because a million rows
that say "access denied" are of no use. See runs.execute for the rounds and flow for the workers.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline.errors import PERMANENT, ErrorType, advice_for

# The breaker looks at the last _RECENT * fail_fast_after recordings, so that it also finds a fault
# that begins on the second day of a run.
_RECENT = 10
_CRASHES = 10  # recordings that suffice for WorkerCrash, because each crash costs half a minute
_ALONE_AT_ONCE = 100  # recordings; one by one, so few take no longer than another round
_ALONE_AT_MOST = 1_000  # recordings; if more are left after all rounds, they are not the cause
_ISOLATED_AT_MOST = 10_000  # recordings; more would take too long without row batches
_MAX_ROUNDS = 4  # rounds through the flow before a run gives up


class CircuitBreaker:
    """Counts the results of a run and finds a fault outside the audio that most of them have."""

    def __init__(self, max_error_share: float, fail_fast_after: int) -> None:
        self._max_error_share = max_error_share
        self._fail_fast_after = fail_fast_after
        self._recent: deque[tuple[int, Counter[str]]] = deque()
        self._n_recent = 0
        self._errors: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, n_recordings: int, errors: Sequence[str], example: str) -> str:
        """Count one bundle with its error types. Returns the fault that must stop the run, or "".

        `example` is the message of the first error.
        """
        self._recent.append((n_recordings, Counter(errors)))
        self._n_recent += n_recordings
        self._errors.update(errors)
        self._examples.update(dict.fromkeys(errors[:1], example))
        while self._n_recent - self._recent[0][0] >= _RECENT * self._fail_fast_after:
            n_old, old = self._recent.popleft()
            self._n_recent -= n_old
            self._errors.subtract(old)
        kind = find_fault(
            self._n_recent,
            self._errors,
            max_error_share=self._max_error_share,
            fail_fast_after=self._fail_fast_after,
        )
        if not kind:
            return ""
        example = self._examples.get(kind, "")
        return explain_fault(kind, self._errors[kind], self._n_recent, example)


def find_fault(
    n_recordings: int, errors: Mapping[str, int], *, max_error_share: float, fail_fast_after: int
) -> str:
    """The error type that more than `max_error_share` of the recordings have, or "".

    Errors of the audio itself (errors.PERMANENT) are never a fault of the environment, however many
    there are: a folder of text files becomes a table of error rows.
    """
    outside = {kind: count for kind, count in errors.items() if kind not in PERMANENT}
    kind = max(outside, key=lambda name: outside[name], default="")
    enough = min(fail_fast_after, _CRASHES) if kind == ErrorType.WORKER_CRASH else fail_fast_after
    if not kind or n_recordings < enough:
        return ""
    return kind if outside[kind] > max_error_share * n_recordings else ""


def explain_fault(kind: str, n_errors: int, n_recordings: int, example: str) -> str:
    """A paragraph about a fault: what, how often, an example, what to do."""
    advice = advice_for(kind)
    return (
        f"{n_errors:,} of the last {n_recordings:,} recordings failed with {kind}"
        + (f", for example: {example[:300].rstrip('.')}" if example else "")
        + f". This is not a fault of the audio. {advice}; then run the same command with "
        "--set retry=errors, which labels these recordings again. If so many recordings are "
        "expected to fail, --set max_error_share=1 continues to the end."
    )


def explain_crashes(n_left: int, n_rounds: int, reason: str) -> str:
    """Message for a run that stopped because workers kept crashing."""
    return (
        f"{n_left:,} recordings have no row after {n_rounds} rounds, because workers kept crashing"
        + (f" ({reason[:300]})" if reason else "")
        + f". {ErrorType.WORKER_CRASH.advice}; then run the same command again."
    )


def explain_store(root: str, reason: str, patience_s: float) -> str:
    """Message for a run that stopped because its output could not be read or written."""
    return (
        f"the store of the output {root} could not be used, and waiting up to {patience_s:.0f} s "
        f"(store_patience_s) did not help: {reason[:500].rstrip('.')}. "
        f"{ErrorType.STORE_UNAVAILABLE.advice}; then run the same command again: what was "
        "committed stays, and the rest is labelled"
    )


Step = Literal["done", "again", "isolated", "alone", "stop"]


def next_step(n_left: int, n_before: int, n_rounds: int) -> Step:
    """The step after a round that got `n_before` recordings and left `n_left` without a row.

    again: the whole flow once more. isolated: the flow with one recording per row batch, so that a
    crash loses only the recording that caused it. alone: one recording at a time, so that a crash
    can be blamed on that recording. stop: the recordings are not the cause, or too many are left.
    """
    if n_left == 0:
        return "done"
    if n_left <= _ALONE_AT_ONCE:
        return "alone"
    if n_left == n_before:
        return "stop"
    if n_rounds < _MAX_ROUNDS:
        return "isolated" if n_left <= _ISOLATED_AT_MOST else "again"
    return "alone" if n_left <= _ALONE_AT_MOST else "stop"
