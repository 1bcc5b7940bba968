"""When things break: which fault stops a run, what is tried next, what a crash leaves as a row.

Pure decisions over counts; knows nothing of Ray. The rule behind them: a bad recording becomes a
row, and a bad environment stops the run, because a million rows that say "access denied" help
nobody. See `run` for the passes and `flow` for the workers.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline.errors import PERMANENT, ErrorType, advice_for

_RECENT = 10  # times fail_fast_after: how far back the breaker looks, so it sees a fault on day two
_CRASHES = 10  # a crash costs half a minute: the breaker asks for fewer recordings
_ALONE_AT_ONCE = 100  # so few recordings left: one by one is as fast as another pass
_ALONE_AT_MOST = 1_000  # more that die in a pass of their own are no bad recordings
_ISOLATED_AT_MOST = 10_000  # recordings; one at a time through the flow costs the batching
_MAX_ROUNDS = 4  # through the flow, before a run gives up


class CircuitBreaker:
    """Watches what comes out of a run; says when one fault outside the audio dominates."""

    def __init__(self, max_error_share: float, fail_fast_after: int) -> None:
        self._max_error_share = max_error_share
        self._fail_fast_after = fail_fast_after
        self._recent: deque[tuple[int, Counter[str]]] = deque()
        self._n_recent = 0
        self._errors: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, n_recordings: int, errors: Sequence[str], example: str) -> str:
        """Count one bundle with its error types; "", or the fault for which the run should stop.

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
    """The error type that more than `max_error_share` of the recordings ended with, or "".

    Errors that lie in the audio itself (planning.PERMANENT) are no fault of the environment,
    however many: a folder of text files is a corpus of rows that say so.
    """
    outside = {kind: count for kind, count in errors.items() if kind not in PERMANENT}
    kind = max(outside, key=lambda name: outside[name], default="")
    enough = min(fail_fast_after, _CRASHES) if kind == ErrorType.WORKER_CRASH else fail_fast_after
    if not kind or n_recordings < enough:
        return ""
    return kind if outside[kind] > max_error_share * n_recordings else ""


def explain_fault(kind: str, n_errors: int, n_recordings: int, example: str) -> str:
    """The fault in a paragraph: what, how often, an example, what to do."""
    advice = advice_for(kind)
    return (
        f"{n_errors:,} of the last {n_recordings:,} recordings failed with {kind}"
        + (f", for example: {example[:300].rstrip('.')}" if example else "")
        + f". This is no fault of the audio. {advice}; then run the same command with "
        "--set retry=errors, which takes up again what failed so. If the corpus really is like "
        "that, --set max_error_share=1 goes through all of it."
    )


def explain_deaths(n_left: int, n_rounds: int, reason: str) -> str:
    """Why a run stops whose workers die and die."""
    return (
        f"{n_left:,} recordings have no row after {n_rounds} passes, because workers keep dying"
        + (f" ({reason[:300]})" if reason else "")
        + f". {ErrorType.WORKER_CRASH.advice}; then run the same command again."
    )


Step = Literal["done", "again", "isolated", "alone", "stop"]


def next_step(n_left: int, n_before: int, n_rounds: int) -> Step:
    """What follows a pass that was given `n_before` recordings and left `n_left` without a row.

    again: the whole flow once more. isolated: the flow with one recording per batch, so that only
    those who kill a worker are lost with it. alone: one recording at a time, whose crash is then
    known to be its own. stop: it is not the recordings, or far too many of them.
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
