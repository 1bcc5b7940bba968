"""The service's HTTP interface: OpenAI's transcriptions and SenseVoice's own. Decides no label.

A request lives in a thread of its own, which waits for decoding, VAD and the shared model; the
event loop only moves bytes, so health checks are answered whatever the model does.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import Any, Literal, cast

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from pipeline.serving.answers import RESPONSE_FORMATS, read_language
from pipeline.serving.events import answer_by_events
from pipeline.serving.funasr_socket import add_funasr_socket
from pipeline.serving.labelling import Wish
from pipeline.serving.service import Refusal, Service
from pipeline.web.guard import Guard, Rules, hosts_for
from pipeline.web.static import load_pages

MODEL_NAME = "sensevoice"
_ALIASES = frozenset({MODEL_NAME, "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"})
_FILES, _FIELDS = 20, 20  # of a form
PAGES = ("index.html", "app.js", "stream.js", "captions.js", "segment.js", "style.css")
_log = logging.getLogger(__name__)


def create_app(service: Service, tokens: frozenset[str] = frozenset()) -> Guard:
    """The service as an ASGI application. Its model is loaded in a thread unless it is there."""
    config = service.config.service

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service.labelling is None:
            threading.Thread(target=service.load, name="load", daemon=True).start()
        yield
        service.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.upload_timeout_s = config.upload_timeout_s
    _add_errors(app, service)
    _add_health(app, service)
    _add_page(app)
    _add_openai(app, service)
    _add_sensevoice(app, service)
    add_funasr_socket(app, service)
    names = frozenset(config.host_names)
    rules = Rules(
        hosts=frozenset({"*"}) if "*" in names else hosts_for(config.host, names),
        tokens=tokens,
        public=frozenset({"/", "/static/", "/healthz", "/readyz"}),
        most_bytes=config.max_upload_bytes,
    )
    return Guard(app, rules)


def _add_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        service.figures.count_request(request.url.path, error.status)
        return error.response()

    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        service.figures.count_request("other", error.status_code)
        code = "not_found" if error.status_code == 404 else "invalid_request"
        return Refusal(error.status_code, code, str(error.detail)).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        key = request.state.request_id
        _log.error("request %s failed", key, exc_info=error)
        service.figures.count_request(request.url.path, 500)
        return Refusal(
            500, "internal_error", f"an error of ours; its log entry is {key}"
        ).response()


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> Response:
        is_ready, word = service.state()
        return JSONResponse({"status": word}, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        waiting_s = service.labelling.model.waiting_s if service.labelling else 0.0
        text, kind = service.figures.text(waiting_s)
        return Response(text, media_type=kind)


def _add_page(app: FastAPI) -> None:
    """The page at `/`. It has no secret, so it needs no token; it asks for one."""
    pages = load_pages("pipeline.serving.pages", PAGES)

    @app.get("/")
    async def index() -> Response:
        return Response(pages["index.html"].content, media_type=pages["index.html"].media_type)

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in pages:
            raise HTTPException(404, f"there is no {name!r}")
        return Response(pages[name].content, media_type=pages[name].media_type)


def _add_openai(app: FastAPI, service: Service) -> None:
    model = {"id": MODEL_NAME, "object": "model", "created": 0, "owned_by": "sensevoice-pipeline"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        _check_model(name)
        return model

    @app.post("/v1/audio/translations")
    async def translations() -> Response:
        raise Refusal(400, "unsupported", "SenseVoice does not translate; use transcriptions")

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        service.check_place()  # before the upload, not after it
        form = await _read_form(request)
        try:
            _check_model(_text(form, "model", MODEL_NAME))
            kind = _text(form, "response_format", "json")
            if kind not in RESPONSE_FORMATS:
                message = f"response_format {kind!r}: use {', '.join(RESPONSE_FORMATS)}"
                raise Refusal(400, "invalid_value", message, param="response_format")
            wish = _wish(form, "language", use_itn=_is_true(form, "use_itn", default=True))
            with_words = _wants_words(form, kind)
            path = _path_of(form.get("file"), "file")
            if _is_true(form, "stream", default=False):
                file, form = form, FormData()  # closed with the last event
                return await answer_by_events(service, service.stream(wish, path), file)
            answer = await service.run(request.is_disconnected, wish, path)
        finally:
            await form.close()
        service.figures.count_request(request.url.path, 200)
        if kind in ("srt", "vtt"):
            text = answer.to_captions(cast(Literal["srt", "vtt"], kind))
            return Response(text, media_type="text/vtt" if kind == "vtt" else "text/plain")
        if kind == "text":
            return PlainTextResponse(answer.text + "\n")
        facts = answer.to_json() if kind == "json" else answer.to_verbose(with_words=with_words)
        return JSONResponse(facts)


def _add_sensevoice(app: FastAPI, service: Service) -> None:
    @app.post("/api/v1/asr")
    async def asr(request: Request) -> Response:
        """SenseVoice's api.py: files and their comma-separated keys. Without a VAD there."""
        service.check_place()
        form = await _read_form(request)
        try:
            wish = _wish(form, "lang", use_itn=False)
            uploads = form.getlist("files")
            if not uploads:
                raise Refusal(400, "missing_required_parameter", "send files", param="files")
            keys = [key.strip() for key in _text(form, "keys", "").split(",")]
            if len(keys) != len(uploads):
                keys = [f"{index}" for index in range(len(uploads))]
            result = []
            for key, upload in zip(keys, uploads, strict=True):
                answer = await service.run(request.is_disconnected, wish, _path_of(upload, "files"))
                result.append(answer.to_sensevoice(key))
        finally:
            await form.close()
        service.figures.count_request(request.url.path, 200)
        return JSONResponse({"result": result})


async def _read_form(request: Request) -> FormData:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(415, "not_multipart", "send the audio as multipart/form-data")
    limit = request.app.state.upload_timeout_s
    try:
        return await asyncio.wait_for(request.form(max_files=_FILES, max_fields=_FIELDS), limit)
    except TimeoutError as error:
        message = f"the upload took longer than {limit:g} s"
        raise Refusal(408, "request_timeout", message) from error
    except ClientDisconnect as error:
        raise Refusal(499, "client_gone", "the client has gone") from error


def _path_of(upload: object, name: str) -> str:
    """A path at which the upload can be read again. It has no name of its own on any disk.

    What a client calls its file is never used, not even the suffix: decoders look at the bytes.
    """
    if not isinstance(upload, UploadFile):
        raise Refusal(400, "missing_required_parameter", f"send the audio as {name}", param=name)
    spooled = cast("SpooledTemporaryFile[bytes]", upload.file)
    spooled.rollover()  # to an unnamed file, which is gone with this process
    spooled.flush()
    return f"/proc/self/fd/{spooled.fileno()}"


def _check_model(name: str) -> None:
    if name not in _ALIASES:
        message = f"the model {name!r} does not exist; use {MODEL_NAME}"
        raise Refusal(404, "model_not_found", message, param="model")


def _wish(form: FormData, name: str, *, use_itn: bool) -> Wish:
    given = _text(form, name, "")
    language = read_language(given)
    if language is None:
        message = f"{name} {given!r}: use auto, zh, en, yue, ja or ko"
        raise Refusal(400, "invalid_value", message, param=name)
    return Wish(language, use_itn)


def _wants_words(form: FormData, kind: str) -> bool:
    given = [*form.getlist("timestamp_granularities[]"), *form.getlist("timestamp_granularities")]
    for grain in given:
        if grain not in ("word", "segment"):
            message = f"timestamp_granularities {grain!r}: use word and segment"
            raise Refusal(400, "invalid_value", message, param="timestamp_granularities")
    if given and kind != "verbose_json":
        message = "timestamp_granularities needs response_format=verbose_json"
        raise Refusal(400, "invalid_value", message, param="timestamp_granularities")
    return "word" in given


def _text(form: FormData, name: str, default: str) -> str:
    value = form.get(name, default)
    if not isinstance(value, str):
        raise Refusal(400, "invalid_value", f"{name} must be text, not a file", param=name)
    return value


def _is_true(form: FormData, name: str, *, default: bool) -> bool:
    value = _text(form, name, str(default)).strip().lower()
    if value not in ("true", "false", "1", "0"):
        raise Refusal(400, "invalid_value", f"{name} {value!r}: use true or false", param=name)
    return value in ("true", "1")
