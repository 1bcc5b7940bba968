"""The explorer's HTTP interface: JSON, audio and the page. Knows requests; decides nothing.

Handlers are plain functions, which FastAPI runs in threads: what they wait for is a store, a
decoder or a child process.
"""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import ConfigError, PipelineError, RecordingError, StoreError, TooSlow
from pipeline.explorer.audio import Audio, Stretch
from pipeline.explorer.browse import MOST_ROWS, Order
from pipeline.explorer.differences import What
from pipeline.explorer.queue import Sample
from pipeline.explorer.service import Correction, ExplorerService, as_json
from pipeline.explorer.settings import Settings
from pipeline.storage.redaction import redact
from pipeline.tables.reviews import Labels, ReviewConflict, Verdict
from pipeline.web.guard import COOKIE, Guard, Rules
from pipeline.web.static import load_pages

PAGES = ("index.html", "app.js", "api.js", "list.js", "editor.js", "filters.js", "style.css")
_MOST_SQL_ROWS = 1000
_MOST_PAD_S = 5.0


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Filter(_Strict):
    where: str = Field("", max_length=10_000)


class _NewQueue(_Filter):
    size: int = 200
    share_random: float = 0.1


class _Save(_Strict):
    segment_id: str = Field(max_length=4000)
    revision: int = Field(ge=0)
    verdict: Verdict
    text: str = Field(max_length=100_000)
    language: str
    emotion: str
    events: list[str] = Field(max_length=50)
    request_id: str = Field(min_length=8, max_length=100)
    note: str = Field("", max_length=10_000)
    spent_s: float = Field(0.0, ge=0)
    sample: Sample = ""


class _Undo(_Strict):
    segment_id: str = Field(max_length=4000)
    revision: int = Field(ge=1)


def create_app(settings: Settings) -> Guard:
    """The explorer of one output as an ASGI application. Raises StoreError, ConfigError."""
    service = ExplorerService(settings)
    audio = Audio(settings.allowed, settings.options, settings.cache)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="explorer", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )
    _add_errors(app)
    _add_pages(app, settings)
    _add_tables(app, service)
    _add_reviews(app, service)
    _add_audio(app, service, audio)
    rules = Rules(
        hosts=settings.hosts,
        tokens=frozenset({settings.token} - {""}),
        public=frozenset({"/", "/healthz", "/static/"}),
        json_only=True,
        read_only=settings.read_only,
    )
    return Guard(app, rules)


def _add_errors(app: FastAPI) -> None:
    def answer(status: int, code: str, error: Exception) -> JSONResponse:
        body = {"error": {"code": code, "message": redact(str(error))}}
        return JSONResponse(body, status)

    @app.exception_handler(PipelineError)
    def refused(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, ReviewConflict):
            body = {"code": "conflict", "message": str(error), "theirs": as_json(error.theirs)}
            return JSONResponse({"error": body}, 409)
        if isinstance(error, TooSlow):
            return answer(408, "too_slow", error)
        if isinstance(error, RecordingError):
            return answer(422, error.kind, error)
        if isinstance(error, ConfigError):
            return answer(400, "refused", error)
        return answer(503 if isinstance(error, StoreError) else 500, "store", error)

    @app.exception_handler(OSError)
    def away(_: Request, error: Exception) -> JSONResponse:
        return answer(503, "store_away", error)

    @app.exception_handler(ValueError)
    def wrong(_: Request, error: Exception) -> JSONResponse:
        return answer(400, "refused", error)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return answer(422, "malformed", ValueError(f"{place}: {first['msg']}"))


def _add_pages(app: FastAPI, settings: Settings) -> None:
    pages = load_pages("pipeline.explorer.pages", PAGES)

    def page(name: str, if_none_match: str | None) -> Response:
        if name not in pages:
            raise HTTPException(404)
        file = pages[name]
        headers = {"etag": file.etag, "cache-control": "no-cache"}
        if if_none_match == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    @app.get("/")
    def index(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        return page("index.html", if_none_match)

    @app.get("/static/{name}")
    def static(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        return page(name, if_none_match)

    @app.get("/healthz")
    def healthz() -> Mapping[str, bool]:
        return {"ok": True}

    @app.get("/api/session")
    def session() -> Response:
        """The guard has checked the token; media elements cannot send it, but send the cookie."""
        answer = Response(status_code=204)
        if settings.token:
            answer.set_cookie(COOKIE, settings.token, httponly=True, samesite="strict", path="/")
        return answer


def _add_tables(app: FastAPI, service: ExplorerService) -> None:
    @app.get("/api/state")
    def state() -> Mapping[str, Any]:
        return service.state()

    @app.get("/api/segments")
    def segments(
        where: Annotated[str, Query(max_length=10_000)] = "",
        order: Order = "key",
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
        seq: int | None = None,
    ) -> Mapping[str, Any]:
        _check_seq(service, seq)
        page = service.queries.ask("page", where, order, _from_cursor(after), limit)
        following = _to_cursor(page.cursor) if page.cursor else None
        return {"rows": page.rows, "next": following, "seq": service.snapshot.seq}

    @app.get("/api/segments/{segment_id:path}/row")
    def segment(segment_id: str) -> Mapping[str, Any]:
        return _found(service, segment_id)

    @app.get("/api/facets")
    def facets(where: Annotated[str, Query(max_length=10_000)] = "") -> Mapping[str, Any]:
        found: Mapping[str, Any] = service.queries.ask("facets", where)
        return found

    @app.get("/api/sql")
    def sql(
        sql: Annotated[str, Query(max_length=20_000)],
        limit: Annotated[int, Query(ge=1, le=_MOST_SQL_ROWS)] = 200,
    ) -> Response:
        found = service.queries.ask("sql", sql, limit)
        return Response(json.dumps(found, default=str), media_type="application/json")

    @app.get("/api/differences")
    def differences(
        other: str,
        what: What = "any",
        rank: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
    ) -> Mapping[str, Any]:
        found: Mapping[str, Any] = service.differences(other, what, rank, limit)
        return found

    @app.get("/api/queue/{queue_id}")
    def queued(
        queue_id: str,
        rank: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 20,
    ) -> Mapping[str, Any]:
        queue = service.queued(queue_id)
        ids = queue.segment_ids[rank : rank + limit]
        rows = service.queries.ask("details", ids)
        samples = dict(zip(queue.segment_ids, queue.samples, strict=True))
        return {
            "rows": [row | {"sample": samples[row["segment_id"]]} for row in rows],
            "n": len(queue.segment_ids),
        }


def _add_reviews(app: FastAPI, service: ExplorerService) -> None:
    @app.get("/api/reviews")
    def reviews(segment_id: str) -> Mapping[str, Any]:
        return {"revisions": [as_json(one) for one in service.history(segment_id)]}

    @app.get("/api/accuracy")
    def accuracy() -> Mapping[str, Any]:
        return asdict(service.accuracy())

    if service.settings.read_only:
        return

    @app.post("/api/queue", status_code=201)
    def queue(asked: _NewQueue) -> Mapping[str, Any]:
        made = service.queue(asked.where, asked.size, asked.share_random)
        return {
            "queue_id": made.queue_id,
            "n": len(made.segment_ids),
            "n_random": made.n_random,
        }

    @app.post("/api/reviews", status_code=201)
    def save(asked: _Save) -> Mapping[str, Any]:
        labels = Labels(asked.text, asked.language, asked.emotion, tuple(asked.events))
        kept = asked.model_dump(exclude={"text", "language", "emotion", "events"})
        return as_json(service.save(Correction(labels=labels, **kept)))

    @app.post("/api/reviews/undo", status_code=201)
    def undo(asked: _Undo) -> Mapping[str, Any]:
        return as_json(service.undo(asked.segment_id, asked.revision))


def _add_audio(app: FastAPI, service: ExplorerService, audio: Audio) -> None:
    def stretch(segment_id: str, pad: float = 0.0) -> tuple[Stretch, str]:
        row = _found(service, segment_id)
        recording = row["recording"]
        start_s = max(0.0, row["start_s"] - pad)
        end_s = max(row["end_s"], min(row["end_s"] + pad, recording["duration_s"]))
        channel = row["channel"] or 0
        return Stretch(segment_id, recording["uri"], start_s, end_s, channel), recording["version"]

    @app.get("/api/segments/{segment_id:path}/clip.wav")
    def clip(segment_id: str, pad: Annotated[float, Query(ge=0, le=_MOST_PAD_S)] = 0.0) -> Response:
        data = audio.clip(*stretch(segment_id, pad))
        headers = {"cache-control": "private, max-age=3600"}
        return Response(data, media_type="audio/wav", headers=headers)

    @app.get("/api/segments/{segment_id:path}/peaks")
    def peaks(segment_id: str, n: Annotated[int, Query(ge=1, le=4000)] = 800) -> Mapping[str, Any]:
        place, version = stretch(segment_id)
        return {
            "peaks": audio.clip_peaks(place, version, n),
            "duration_s": place.end_s - place.start_s,
        }

    @app.get("/api/recordings/{recording_id:path}/peaks")
    def recording_peaks(recording_id: str) -> Mapping[str, Any]:
        row = _recording(service, recording_id)
        return {"peaks": audio.recording_peaks(row["uri"], row["version"])}

    @app.get("/api/recordings/{recording_id:path}/audio")
    def recording(recording_id: str, range: Annotated[str | None, Header()] = None) -> Response:
        row = _recording(service, recording_id)
        try:
            part = audio.part(row["uri"], range)
        except ValueError as error:
            raise HTTPException(416, str(error)) from error
        last = part.start + len(part.data) - 1
        is_whole = len(part.data) == part.size
        headers = {"accept-ranges": "bytes", "content-disposition": "inline"}
        if not is_whole or range:
            headers["content-range"] = f"bytes {part.start}-{last}/{part.size}"
        status = 200 if is_whole and not range else 206
        return Response(part.data, status, headers, media_type=part.media_type)


def _found(service: ExplorerService, segment_id: str) -> dict[str, Any]:
    row = service.segment(segment_id)
    if row is None:
        raise HTTPException(404, f"there is no segment {segment_id!r} in this snapshot")
    return row


def _recording(service: ExplorerService, recording_id: str) -> Mapping[str, Any]:
    rows = service.queries.ask("recordings", {recording_id})
    if recording_id not in rows:
        raise HTTPException(404, f"there is no recording {recording_id!r} in this snapshot")
    row: Mapping[str, Any] = rows[recording_id]
    return row


def _check_seq(service: ExplorerService, seq: int | None) -> None:
    if seq not in (None, service.snapshot.seq):
        raise ConfigError(
            f"this explorer shows commit {service.snapshot.seq}; start another with --seq {seq}"
        )


def _to_cursor(values: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


def _from_cursor(text: str) -> tuple[Any, ...] | None:
    if not text:
        return None
    try:
        values = json.loads(base64.urlsafe_b64decode(text.encode()))
        first, second = values
    except ValueError as error:
        raise ConfigError(f"after: {text!r} is not the `next` of a page") from error
    if not isinstance(first, str | int | float) or not isinstance(second, str):
        raise ConfigError(f"after: {text!r} is not the `next` of a page")
    return first, second
