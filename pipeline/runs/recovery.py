"""When things break: which fault stops a run, what is tried next, what a crash leaves as a row.

Pure decisions over counts; knows nothing of Ray. The rule behind them: a bad recording becomes a
row, and a bad environment stops the run, because a million rows that say "access denied" help
nobody. See `run` for the passes and `flow` for the workers.
"""

import uuid
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from pipeline.planning.plan import PERMANENT
from pipeline.schema import BUNDLE, PLANNED_FIELDS
from pipeline.storage.redaction import public_uri, redact

CRASH = "WorkerCrash"  # the error type of a recording that kills the process that works on it

_RECENT = 10  # times fail_fast_after: how far back the breaker looks, so it sees a fault on day two
_CRASHES = 10  # a crash costs half a minute: the breaker asks for fewer recordings
_ALONE_AT_ONCE = 100  # so few recordings left: one by one is as fast as another pass
_ALONE_AT_MOST = 1_000  # more that die in a pass of their own are no bad recordings
_ISOLATED_AT_MOST = 10_000  # recordings; one at a time through the flow costs the batching
_MAX_PASSES = 4  # through the flow, before a run gives up

_ADVICE = {
    "AccessDenied": "Check the credentials and the bucket's policy, on the workers too",
    "StoreUnavailable": "Check that the store answers from the workers, and its throttling",
    "FileMissing": "Check the paths in the manifest, and that workers see the same disks",
    "BadUri": "Check the URIs in the manifest, and that the workers have a library for the scheme",
    "OSError": "Check the disks of the workers: space, permissions, mounts",
    "MemoryError": "Give the workers more memory, or run fewer of them",
    "OutOfMemoryError": "Lower label.batch_s, or let fewer workers share a GPU",
    CRASH: "Look for the workers' last words in Ray's logs; memory and native libraries first",
}


class RunStopped(RuntimeError):
    """The run cannot go on; the message names the fault and what to do about it.

    Whatever was finished before is committed.
    """


class PassEnded(RuntimeError):
    """One pass through the flow broke off, because workers kept dying; another may go further."""


class Breaker:
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
    enough = min(fail_fast_after, _CRASHES) if kind == CRASH else fail_fast_after
    if not kind or n_recordings < enough:
        return ""
    return kind if outside[kind] > max_error_share * n_recordings else ""


def explain_fault(kind: str, n_errors: int, n_recordings: int, example: str) -> str:
    """The fault in a paragraph: what, how often, an example, what to do."""
    advice = _ADVICE.get(kind, "See error_message of these rows in the recordings table")
    return (
        f"{n_errors:,} of the last {n_recordings:,} recordings failed with {kind}"
        + (f", for example: {example[:300].rstrip('.')}" if example else "")
        + f". This is no fault of the audio. {advice}; then run the same command with "
        "--set retry=errors, which takes up again what failed so. If the corpus really is like "
        "that, --set max_error_share=1 goes through all of it."
    )


def explain_deaths(n_left: int, n_passes: int, reason: str) -> str:
    """Why a run stops whose workers die and die."""
    return (
        f"{n_left:,} recordings have no row after {n_passes} passes, because workers keep dying"
        + (f" ({reason[:300]})" if reason else "")
        + f". {_ADVICE[CRASH]}; then run the same command again."
    )


Step = Literal["done", "again", "isolated", "alone", "stop"]


def next_step(n_left: int, n_before: int, n_passes: int) -> Step:
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
    if n_passes < _MAX_PASSES:
        return "isolated" if n_left <= _ISOLATED_AT_MOST else "again"
    return "alone" if n_left <= _ALONE_AT_MOST else "stop"


def error_row(planned: Mapping[str, Any], stage: str, kind: str, message: str) -> pa.Table:
    """The bundle row (schema.BUNDLE) of a recording of which no worker can tell: all in error."""
    row = {name: planned[name] for name, _ in PLANNED_FIELDS} | {
        "uri": public_uri(planned["uri"]),
        "error_stage": stage,
        "error_type": kind,
        "error_message": redact(message)[:2000],
        # An attempt of its own: windows that were finished before the crash belong to another.
        "attempt_id": uuid.uuid4().hex,
        "window_index": 0,
        "n_windows": 1,
        "window_start_s": planned["offset_s"],
        "codec": "",
        "warning": "",
        "segments": [],
    }
    zeros = ("duration_s", "sample_rate_hz", "channels", "labelled_s", "silence_s", "failed_s")
    return pa.Table.from_pylist([row | dict.fromkeys(zeros, 0)], schema=BUNDLE)
