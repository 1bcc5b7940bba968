"""Many requests, one model: batches, fairness, errors, cancelling. The model notes its clips."""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RecordingError
from pipeline.models.sensevoice.decoding import ClipOutput
from pipeline.serving.shared_model import SharedModel
from tests.models.sensevoice.test_model import demo_model


def clip(n_frames: int, name: int) -> np.ndarray:
    return np.full((n_frames, 80), name, np.float32)


class Gated:
    """Notes the names of the clips of each batch; waits for `go` before the first one ends."""

    vocabulary = demo_model().vocabulary

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.prompts: list[tuple[int, str, bool]] = []
        self.go = threading.Event()
        self.has_begun = threading.Event()

    def transcribe(
        self, clips: Sequence[Any], languages: Sequence[str], use_itn: Sequence[bool]
    ) -> list[ClipOutput]:
        names = [int(one[0, 0]) for one in clips]
        self.batches.append(sorted(names))
        self.prompts += zip(names, languages, use_itn, strict=True)
        self.has_begun.set()
        assert self.go.wait(20)
        if 666 in names:
            raise ValueError("bad clip")
        return [output(name) for name in names]


def output(name: int) -> ClipOutput:
    empty = np.zeros(0, np.float32)
    return ClipOutput(np.array([name]), empty, empty, empty, empty)


@pytest.fixture
def gated() -> Gated:
    return Gated()


def ask(shared: SharedModel, names: Sequence[int], n_frames: int = 100) -> list[int]:
    clips = [clip(n_frames, name) for name in names]
    found = shared.open_request().transcribe(clips, ["auto"] * len(names), [True] * len(names))
    return [int(one.tokens[0]) for one in found]


def wait_for(shared: SharedModel, seconds: float) -> None:
    deadline = threading.Event()
    for _ in range(2000):
        if shared.waiting_s == pytest.approx(seconds):
            return
        deadline.wait(0.005)
    raise AssertionError(f"{shared.waiting_s} s wait, not {seconds}")


def test_what_arrives_while_a_batch_runs_shares_the_next_one(gated: Gated) -> None:
    shared = SharedModel(gated, batch_s=15)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(ask, shared, [0])
        assert gated.has_begun.wait(20)
        others = [pool.submit(ask, shared, [name]) for name in range(1, 11)]
        wait_for(shared, 10.0)
        gated.go.set()
        assert first.result(20) == [0]
        assert [one.result(20) for one in others] == [[name] for name in range(1, 11)]
    assert gated.batches == [[0], list(range(1, 11))]
    shared.close()


def test_a_long_request_does_not_hold_up_a_short_one(gated: Gated) -> None:
    """An hour's clips wait; the clip that comes last is in the next batch, at its turn."""
    shared = SharedModel(gated, batch_s=3)
    with ThreadPoolExecutor(3) as pool:
        long = pool.submit(ask, shared, list(range(100)))
        assert gated.has_begun.wait(20)
        wait_for(shared, 97.0)
        short = pool.submit(ask, shared, [500])
        wait_for(shared, 98.0)
        gated.go.set()
        assert short.result(20) == [500]
        assert long.result(20) == list(range(100))
    assert 500 in gated.batches[1]
    assert all(len(batch) <= 3 for batch in gated.batches)
    shared.close()


def test_a_clip_that_fails_fails_its_own_request_only(gated: Gated) -> None:
    gated.go.set()
    shared = SharedModel(gated, batch_s=60)
    with ThreadPoolExecutor(9) as pool:
        bad = pool.submit(ask, shared, [666])
        good = [pool.submit(ask, shared, [name]) for name in range(8)]
        assert [one.result(20) for one in good] == [[name] for name in range(8)]
        with pytest.raises(RecordingError, match="bad clip"):
            bad.result(20)
    assert ask(shared, [7]) == [7]
    shared.close()


def test_each_clip_keeps_its_own_language_and_text_normalisation(gated: Gated) -> None:
    gated.go.set()
    shared = SharedModel(gated, batch_s=60)
    request = shared.open_request()
    request.transcribe([clip(9, 1), clip(9, 2)], ["zh", "en"], [True, False])
    assert sorted(gated.prompts) == [(1, "zh", True), (2, "en", False)]
    shared.close()


def test_a_cancelled_request_leaves_the_queue(gated: Gated) -> None:
    shared = SharedModel(gated, batch_s=1)
    request = shared.open_request()
    with ThreadPoolExecutor(2) as pool:
        clips = [clip(100, name) for name in range(50)]
        work = pool.submit(request.transcribe, clips, ["auto"] * 50, [True] * 50)
        assert gated.has_begun.wait(20)
        wait_for(shared, 49.0)
        request.cancel()
        assert shared.waiting_s == 0
        gated.go.set()
        with pytest.raises(CancelledError):
            work.result(20)
    assert gated.batches == [[0]]
    with pytest.raises(CancelledError):
        request.transcribe(clips[:1], ["auto"], [True])
    assert ask(shared, [3]) == [3]
    shared.close()


def test_closing_cancels_what_waits_and_takes_nothing_more(gated: Gated) -> None:
    shared = SharedModel(gated, batch_s=1)
    with ThreadPoolExecutor(2) as pool:
        work = pool.submit(ask, shared, [1, 2, 3])
        assert gated.has_begun.wait(20)
        wait_for(shared, 2.0)
        closing = pool.submit(shared.close)
        gated.go.set()
        closing.result(20)
        with pytest.raises(CancelledError):
            work.result(20)
    with pytest.raises(CancelledError):
        ask(shared, [4])


def test_the_backlog_and_the_batch_that_runs_are_told(gated: Gated) -> None:
    told: list[tuple[int, float]] = []
    shared = SharedModel(
        gated, 60, lambda n_clips, audio_s, took_s: told.append((n_clips, audio_s))
    )
    assert shared.running_s == 0
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(ask, shared, [1], 250)
        assert gated.has_begun.wait(20)
        assert shared.running_s > 0
        gated.go.set()
        work.result(20)
    shared.close()
    assert told == [(1, 2.5)]
