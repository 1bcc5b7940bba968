"""Label a small corpus in one process beside the driver. Knows the stages; needs no Ray.

Starting Ray takes longer than labelling some minutes of audio. The stages, the bundles and the
commits are those of the flow. A recording that kills the process ends the round; the run then gives
what is left to Ray, which can tell whose fault it was (see recovery.next_step).
"""

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.errors import RoundEnded, RunStopped
from pipeline.flow.row_batches import guess_seconds
from pipeline.planning.legs import Legs
from pipeline.schema import STAGES
from pipeline.stages.build import Stages
from pipeline.stages.receipt import Receipt, StageState, receipt_of

# `ray.local: auto` gives a corpus of at most this to one process. Where only bytes are known, they
# are taken for speech of 128 kbit/s.
_AUTO_S = 600.0
_AUTO_ROWS = 2_000
_GUESSED_SHARE = 0.25  # of what row_batches.guess_seconds makes of bytes

_REPORT_S = 1.0  # between two reports of the stages

OnStages = Callable[[Mapping[str, StageState], str], None]


def fits_one_process(config: RunConfig, legs: Legs) -> bool:
    """Whether the run labels in one process, without Ray: `ray.local` says so, or auto finds so."""
    ray = config.ray
    if ray.local != "auto":
        return ray.local == "always"
    needs_ray = (
        *(ray.address, os.environ.get("RAY_ADDRESS"), ray.num_gpus, ray.segment_with_model),
        config.label.device == "cuda",
    )
    if any(needs_ray) or legs.n_rows > _AUTO_ROWS:
        return False
    return all(_guess_s(leg) <= _AUTO_S for leg in legs)


def _guess_s(todo: pa.Table) -> float:
    seconds = guess_seconds(todo)
    is_known = todo["length_s"].to_numpy() > 0
    return float(seconds[is_known].sum() + seconds[~is_known].sum() / _GUESSED_SHARE)


def label_in_one_process(
    todo: pa.Table, config: RunConfig, on_stages: OnStages, *, stages: Stages
) -> Generator[Receipt]:
    """As flow.chain.label. Raises RoundEnded if the process dies, RunStopped if it cannot start."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the driver's threads' locks
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(theirs, todo, config, stages), name="sensevoice-label", daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield from _receive(ours, on_stages)
        process.join()
    except EOFError:
        process.join()
        text = f"the labelling process died with exit code {process.exitcode}"
        raise RoundEnded(text) from None
    finally:
        process.kill()
        process.join()
        ours.close()


def _receive(connection: Connection, on_stages: OnStages) -> Iterator[Receipt]:
    """Receipts as they come. Raises EOFError if the process ends before it says that it is done."""
    while True:
        kind, value = connection.recv()
        if kind == "stages":
            on_stages(value, "" if value["label"].n_rows else "the first labels")
        elif kind == "receipt":
            yield receipt_of(value)
        elif kind == "failed":
            raise RunStopped(f"a worker cannot start: {value}")
        else:
            return


# ---------------------------------------------------------------------- in the process


def _work(connection: Connection, todo: pa.Table, config: RunConfig, stages: Stages) -> None:
    """Label all rows, and send (kind, value): stages, receipt, then done; or failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's, which ends this process
    _close_native_stderr()
    with suppress(BrokenPipeError):  # the driver is gone: what was written waits for the next run
        try:
            lane = _Lane(config, stages, lambda states: connection.send(("stages", states)))
        except Exception as error:
            connection.send(("failed", f"{type(error).__name__}: {error}"))
            return
        for receipt in lane.label(todo):
            connection.send(("receipt", receipt))
        connection.send(("done", None))


def _close_native_stderr() -> None:
    """C libraries print on stderr what the rows say as warnings (libmpg123, for one)."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)


class _Lane:
    """The stages, one after the other, and a clock for each."""

    def __init__(
        self,
        config: RunConfig,
        stages: Stages,
        report: Callable[[Mapping[str, StageState]], None],
    ) -> None:
        from pipeline.stages.label import LabelSegments
        from pipeline.stages.segment import FindSegments

        self._batch_s = config.ray.batch_audio_s
        self._stages = stages
        self._find = FindSegments(partial(stages.load_vad, "cpu"), config.segment)
        self._label = LabelSegments(stages.load_model, config.label)
        self._started = time.monotonic()
        self._n_rows = dict.fromkeys(STAGES, 0)
        self._busy_s = dict.fromkeys(STAGES, 0.0)
        self._send = report
        self._reported = -math.inf

    def label(self, todo: pa.Table) -> Iterator[dict[str, Any]]:
        """The receipt of each bundle, as a row."""
        for windows in self._row_batches(todo):
            segmented = self._timed("segment", self._segment, windows)
            labelled = self._timed("label", self._label, segmented)
            receipt = self._timed("write", self._stages.write, labelled).to_pylist()[0]
            self._send(self.states())
            yield receipt

    def _segment(self, windows: pa.Table) -> pa.Table:
        return pa.concat_tables(self._find(windows))

    def _report(self) -> None:
        if time.monotonic() - self._reported > _REPORT_S:
            self._reported = time.monotonic()
            self._send(self.states())

    def states(self) -> dict[str, StageState]:
        lived_s = time.monotonic() - self._started
        return {
            stage: StageState(self._n_rows[stage], self._busy_s[stage], lived_s) for stage in STAGES
        }

    def _row_batches(self, todo: pa.Table) -> Iterator[pa.Table]:
        """Decoded windows, about `ray.batch_audio_s` at a time."""
        windows = self._stages.decode(todo)
        pending: list[pa.Table] = []
        pending_s = 0.0
        while True:
            started = time.perf_counter()
            window = next(windows, None)
            self._busy_s["decode"] += time.perf_counter() - started
            if window is None:
                break
            self._n_rows["decode"] += window.num_rows
            self._report()
            pending.append(window)
            pending_s += sum(window["duration_s"].to_pylist())
            if pending_s >= self._batch_s:
                yield pa.concat_tables(pending)
                pending, pending_s = [], 0.0
        if pending:
            yield pa.concat_tables(pending)

    def _timed(
        self, stage: str, function: Callable[[pa.Table], pa.Table], rows: pa.Table
    ) -> pa.Table:
        started = time.perf_counter()
        done = function(rows)
        self._busy_s[stage] += time.perf_counter() - started
        self._n_rows[stage] += rows.num_rows
        self._report()
        return done
