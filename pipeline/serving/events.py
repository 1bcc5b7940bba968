"""The answer to `stream=true`: server-sent events, as OpenAI's client reads them. Labels nothing.

One event per segment, then the whole text. A comment is sent while nothing else is, so that no
proxy takes a waiting connection for a dead one.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.datastructures import FormData

from pipeline.serving.answers import Answer, segment_facts, text_after
from pipeline.serving.labelling import Labelled
from pipeline.serving.service import Refusal, Service

_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
_PING = ": ping\n\n"
_Item = Labelled | Exception | str | None  # a part, what went wrong, a comment, or the end


async def answer_by_events(
    service: Service, parts: AsyncGenerator[Labelled], form: FormData
) -> StreamingResponse:
    """A stream of the parts. What is refused before the first comment is due is no stream.

    Raises Refusal. Closes the parts and the form, in a task of its own: the end of a stream whose
    client has gone is cancelled at every step.
    """
    items: asyncio.Queue[_Item] = asyncio.Queue(1)
    pump = asyncio.create_task(_pump(parts, form, items))
    try:
        first = await _next(items, service.config.service.ping_s)
    except asyncio.CancelledError:
        pump.cancel()
        raise
    if isinstance(first, Exception):
        raise first
    events = _events(first, items, pump, service)
    return StreamingResponse(events, 200, _HEADERS, "text/event-stream")


async def _pump(
    parts: AsyncGenerator[Labelled], form: FormData, items: "asyncio.Queue[_Item]"
) -> None:
    """Put the parts into the queue, then the end or what went wrong."""
    try:
        try:
            async for part in parts:
                await items.put(part)
            await items.put(None)
        except Exception as error:
            await items.put(error)
    finally:
        await parts.aclose()  # a thread may still read the file
        await form.close()


async def _next(items: "asyncio.Queue[_Item]", ping_s: float) -> _Item:
    try:
        return await asyncio.wait_for(items.get(), ping_s)
    except TimeoutError:
        return _PING


async def _events(
    first: _Item, items: "asyncio.Queue[_Item]", pump: "asyncio.Task[None]", service: Service
) -> AsyncIterator[str]:
    seen: list[Labelled] = []
    n_segments, text, item, status = 0, "", first, 499
    try:
        while item is not None:
            if isinstance(item, Exception):
                status = item.status if isinstance(item, Refusal) else 500
                raise item
            if isinstance(item, str):
                yield item
            else:
                seen.append(item)
                for segment in item.segments:
                    delta = text_after(text, segment)
                    text += delta
                    facts = segment_facts(n_segments, segment)
                    n_segments += 1
                    yield _sse({"type": "transcript.text.delta", "delta": delta, "segment": facts})
            item = await _next(items, service.config.service.ping_s)
        usage = Answer(seen).usage
        yield _sse({"type": "transcript.text.done", "text": text, "usage": usage})
        status = 200
    except Refusal as error:
        yield _sse(error.body())
    finally:
        pump.cancel()
        service.figures.count_request("/v1/audio/transcriptions", status)


def _sse(facts: dict[str, Any]) -> str:
    return f"data: {json.dumps(facts, ensure_ascii=False)}\n\n"
