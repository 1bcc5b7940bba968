"""The models once they are loaded, and the requests under way. Knows limits; nothing of routes."""

import asyncio
import logging
import math
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.serving.answers import Answer
from pipeline.serving.figures import Figures
from pipeline.serving.labelling import (
    FileLabelling,
    Labelled,
    Labelling,
    LabellingStopped,
    Wish,
)
from pipeline.storage.redaction import redact
from pipeline.web.errors import error_body

_POLL_S = 0.2  # how soon a client that went away is noticed
_LONGEST_RETRY_S = 120  # OpenAI's client ignores a longer Retry-After
_log = logging.getLogger(__name__)


HasGone = Callable[[], Awaitable[bool]]  # whether the client of a request has gone


class Refusal(Exception):
    """An answer that is an error, in OpenAI's shape."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_s = status, code, param, retry_s

    def response(self) -> Response:
        headers = {"retry-after": f"{self.retry_s}"} if self.retry_s else {}
        return JSONResponse(self.body(), self.status, headers)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return error_body(self.status, self.code, str(self), self.param)


class Service:
    """The models, once they are loaded, and the requests under way."""

    def __init__(
        self, config: RunConfig, load: Callable[[RunConfig, Figures], Labelling] | None = None
    ) -> None:
        self.config = config
        self.figures = Figures()
        self._load = load or (lambda config, figures: Labelling(config, figures.count_batch))
        self.labelling: Labelling | None = None
        self.failure = ""  # why the models could not be loaded
        self._threads = ThreadPoolExecutor(config.service.max_requests, "request")
        self._under_way: set[FileLabelling] = set()
        self._lock = threading.Lock()
        self.is_draining = False

    def load(self) -> None:
        """Load the models; until then requests are answered with 503."""
        try:
            self.labelling = self._load(self.config, self.figures)
        except PipelineError as error:
            self.failure = redact(str(error))
            _log.error("the model cannot be loaded: %s", self.failure)
        except Exception:  # else it would be loading for ever
            self.failure = "the model cannot be loaded; see the log"
            _log.exception("the model cannot be loaded")

    @property
    def n_under_way(self) -> int:
        """Requests that have a place now."""
        return len(self._under_way)

    def close(self) -> None:
        """Cancel what is left, and end the threads."""
        self.is_draining = True
        with self._lock:
            left = list(self._under_way)
        for one in left:
            one.cancel()
        if self.labelling is not None:
            self.labelling.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def state(self) -> tuple[bool, str]:
        """Whether requests are taken, and the state in a word."""
        if self.is_draining:
            return False, "draining"
        if self.failure:
            return False, "failed"
        if self.labelling is None:
            return False, "loading"
        if self.labelling.model.running_s > self.config.service.stuck_s:
            return False, "stuck"
        return True, "ready"

    def check_place(self) -> Labelling:
        """The models, if a request may come now. Raises Refusal; ask before an upload."""
        is_ready, word = self.state()
        if not is_ready or self.labelling is None:
            raise Refusal(503, word, self.failure or f"the service is {word}", retry_s=5)
        waiting_s, limits = self.labelling.model.waiting_s, self.config.service
        is_full = len(self._under_way) >= limits.max_requests
        if is_full or waiting_s > limits.max_queued_audio_s:
            wait_s = self.figures.seconds_for(waiting_s)
            retry_s = min(_LONGEST_RETRY_S, max(1, math.ceil(wait_s)))
            message = f"{len(self._under_way)} requests are under way; try again"
            raise Refusal(429, "server_busy", message, retry_s=retry_s)
        return self.labelling

    @contextmanager
    def take(self, wish: Wish) -> Iterator[FileLabelling]:
        """A place for one request. Raises Refusal if there is none."""
        with self._lock:
            labelling = self.check_place().open(wish)
            self._under_way.add(labelling)
        try:
            yield labelling
        finally:
            with self._lock:
                self._under_way.discard(labelling)

    async def run(self, has_gone: HasGone, wish: Wish, path: str) -> Answer:
        """All labels of a file; cancelled when its client has gone. Raises Refusal."""
        with self.take(wish) as labelling:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._threads, lambda: list(labelling.label(path)))
            try:
                while not work.done():
                    await asyncio.wait([work], timeout=_POLL_S)
                    if not work.done() and await has_gone():
                        raise Refusal(499, "client_gone", "the client has gone")
                parts = work.result()
            except LabellingStopped as error:
                raise Refusal(503, "draining", "the service stops", retry_s=5) from error
            finally:
                labelling.cancel()
                await asyncio.wait([work])  # the file stays open until nothing reads it
                if work.done() and not work.cancelled():
                    work.exception()  # seen; else asyncio reports it
        return Answer(checked(parts))

    async def stream(self, wish: Wish, path: str) -> AsyncGenerator[Labelled]:
        """The parts of a file as they are labelled. Raises Refusal."""
        with self.take(wish) as labelling:
            loop = asyncio.get_running_loop()
            parts = labelling.label(path)
            step = None
            try:
                while True:
                    step = loop.run_in_executor(self._threads, lambda: next(parts, None))
                    part = await asyncio.shield(step)
                    if part is None:
                        return
                    yield checked([part])[0]
            except LabellingStopped as error:
                raise Refusal(503, "draining", "the service stops", retry_s=5) from error
            finally:
                labelling.cancel()
                if step is not None:
                    with suppress(BaseException):
                        await asyncio.wait([step])


def checked(parts: list[Labelled]) -> list[Labelled]:
    """The parts, or a Refusal if one could not be read or labelled."""
    for part in parts:
        if part.error_stage == "decode":
            raise Refusal(400, part.error_type, part.error_message, param="file")
        if part.error_stage:
            raise Refusal(500, "internal_error", f"{part.error_type}: {part.error_message}")
    return parts
