"""One model for many requests: what waits is packed into the next model batch, fairly.

There is no waiting time: an idle model takes a clip at once. While a batch runs, clips queue up,
and the next batch takes them round-robin over requests, so an hour of audio advances by one clip a
turn and a clip of three seconds is in the next batch. Knows clips and threads; nothing of HTTP.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pipeline.models.sensevoice.decoding import ClipOutput, Vocabulary
from pipeline.models.sensevoice.packing import BatchedModel
from pipeline.schema import FRAMES_PER_S

if TYPE_CHECKING:  # torch takes seconds and 600 MB
    from pipeline.models.sensevoice.model import Clip, Transcriber

_log = logging.getLogger(__name__)
OnBatch = Callable[[int, float, float], None]  # clips, seconds of audio, seconds that it took


class _Waiting(NamedTuple):
    clip: "Clip"
    language: str
    use_itn: bool
    done: "Future[ClipOutput]"


@dataclass(slots=True, eq=False)
class _Request:
    """The clips of one request that wait for the model."""

    clips: deque[_Waiting] = field(default_factory=deque)
    is_cancelled: bool = False


class SharedModel:
    """Runs clips of any number of requests in one thread. Close it to end the thread.

    `batch_s`: seconds of audio in a model batch, at most (a longer clip is alone). It is the least
    time that a clip waits behind others.
    """

    def __init__(
        self,
        model: "Transcriber",
        batch_s: float,
        on_batch: OnBatch = lambda n_clips, audio_s, took_s: None,
    ) -> None:
        self.vocabulary: Vocabulary = model.vocabulary
        self._max_frames = int(batch_s * FRAMES_PER_S)
        # It cuts a batch only after one that did not fit; its own packing would leave room.
        self._model = BatchedModel(model, 2 * self._max_frames)
        self._on_batch = on_batch
        self._turns: deque[_Request] = deque()  # requests that wait, the next one first
        self._changed = threading.Condition()
        self._is_closed = False
        self._n_waiting = 0  # frames
        self._began: float | None = None  # of the batch that runs
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting_s(self) -> float:
        """Seconds of audio that no batch has taken yet."""
        return self._n_waiting / FRAMES_PER_S

    @property
    def running_s(self) -> float:
        """How long the batch that runs has been running; 0 if none runs."""
        began = self._began
        return time.monotonic() - began if began is not None else 0.0

    def open_request(self) -> "RequestModel":
        """The model as one request sees it."""
        return RequestModel(self, _Request())

    def close(self) -> None:
        """End the thread after its batch; clips that wait are cancelled."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()
        for request in list(self._turns):
            self.drop(request)

    def put(self, request: _Request, clips: Sequence[_Waiting]) -> None:
        with self._changed:
            if self._is_closed or request.is_cancelled:
                raise CancelledError
            if not request.clips and clips:
                self._turns.append(request)
            request.clips += clips
            self._n_waiting += sum(len(one.clip) for one in clips)
            self._changed.notify()

    def drop(self, request: _Request) -> None:
        with self._changed:
            request.is_cancelled = True
            dropped = list(request.clips)
            request.clips.clear()
            self._n_waiting -= sum(len(one.clip) for one in dropped)
            if request in self._turns:
                self._turns.remove(request)
        for one in dropped:
            one.done.cancel()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._turns)
                if self._is_closed:
                    return
                batch = self._take()
            self._transcribe(batch)

    def _take(self) -> list[_Waiting]:
        """One clip of each request in turn, until the batch is full."""
        batch: list[_Waiting] = []
        n_frames = 0
        while self._turns:
            request = self._turns[0]
            length = len(request.clips[0].clip)
            if batch and n_frames + length > self._max_frames:
                break
            self._turns.popleft()
            batch.append(request.clips.popleft())
            n_frames += length
            if request.clips:
                self._turns.append(request)
        self._n_waiting -= n_frames
        return batch

    def _transcribe(self, batch: Sequence[_Waiting]) -> None:
        self._began = time.monotonic()
        outputs: Sequence[ClipOutput | BaseException]
        try:
            outputs = self._model.transcribe(
                [one.clip for one in batch],
                [one.language for one in batch],
                [one.use_itn for one in batch],
            )
        except BaseException as error:  # the thread must live: every request would wait for ever
            outputs = [error] * len(batch)
        took_s, self._began = time.monotonic() - self._began, None
        for one, output in zip(batch, outputs, strict=True):
            if isinstance(output, BaseException):
                one.done.set_exception(output)
            else:
                one.done.set_result(output)
        try:
            self._on_batch(len(batch), sum(len(one.clip) for one in batch) / FRAMES_PER_S, took_s)
        except Exception:  # a counter must not end the thread of all requests
            _log.exception("a model batch was not counted")


class RequestModel:
    """The Transcriber of one request, whose clips wait with those of others."""

    def __init__(self, shared: SharedModel, request: _Request) -> None:
        self.vocabulary = shared.vocabulary
        self._shared, self._request = shared, request

    def transcribe(
        self, clips: "Sequence[Clip]", languages: Sequence[str], use_itn: Sequence[bool]
    ) -> list[ClipOutput]:
        """One output per clip. Raises what a clip of this request causes, and CancelledError."""
        waiting = [_Waiting(*one, Future()) for one in zip(clips, languages, use_itn, strict=True)]
        self._shared.put(self._request, waiting)
        return [one.done.result() for one in waiting]

    def cancel(self) -> None:
        """Drop what waits. A batch that runs is finished; its outputs are lost."""
        self._shared.drop(self._request)
