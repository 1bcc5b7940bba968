"""FunASR's runtime protocol on a WebSocket: its Python, C++, HTML, Java and C# clients, `offline`.

A client sends a JSON object that describes a recording, then its bytes, then {"is_speaking":
false}, and gets one JSON object with the text and its times; then the next recording, if it has
one. The source is runtime/docs/websocket_protocol.md of modelscope/FunASR.
"""

import asyncio
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

from fastapi import FastAPI, WebSocket
from starlette.websockets import WebSocketState

from pipeline.serving.answers import Answer
from pipeline.serving.labelling import Wish
from pipeline.serving.service import Refusal, Service

_PATH = "/"
_TOO_BIG, _POLICY = 1009, 1008  # codes of RFC 6455 for closing
_WAV_HEADER = 44
_RATES_HZ = range(4_000, 192_001)
_GONE = "websocket.disconnect"


@dataclass(frozen=True, slots=True)
class _Start:
    """The object before the bytes of a recording."""

    name: str
    is_pcm: bool
    rate_hz: int
    use_itn: bool


class _Ended(Exception):
    """The client has gone."""


def add_funasr_socket(app: FastAPI, service: Service) -> None:
    """Answer WebSockets at `/`."""

    @app.websocket(_PATH)
    async def offline(socket: WebSocket) -> None:
        await socket.accept()
        try:
            await _Conversation(socket, service).run()
        except _Ended:
            return
        except Refusal as error:
            service.figures.count_request("websocket", error.status)
            if socket.application_state == WebSocketState.CONNECTED:
                await _send(socket, {"is_final": True, "text": "", "error": str(error)})
                await socket.close(_TOO_BIG if error.status == 413 else _POLICY, str(error)[:120])


class _Conversation:
    """One connection: recordings, one after the other."""

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self._socket, self._service = socket, service
        self._limits = service.config.service
        self._next = self._receive_soon()
        self._deadline_s = math.inf  # of the upload, by the event loop's clock

    def _receive_soon(self) -> "asyncio.Task[Mapping[str, Any]]":
        return asyncio.ensure_future(self._socket.receive())

    async def run(self) -> None:
        try:
            while True:
                start = _read_start(await self._message())
                self._service.check_place()  # before the upload, not after it
                limit_s = self._limits.upload_timeout_s
                self._deadline_s = asyncio.get_running_loop().time() + limit_s
                with TemporaryFile() as file:  # without a name: gone with this process
                    facts = await self._label(start, file)
                self._deadline_s = math.inf
                await _send(self._socket, facts)
                self._service.figures.count_request("websocket", 200)
        finally:
            self._next.cancel()

    async def _label(self, start: _Start, file: IO[bytes]) -> dict[str, Any]:
        end = await self._read_audio(start, file)
        wish = Wish("auto", start.use_itn)
        path = f"/proc/self/fd/{file.fileno()}"
        answer = await self._service.run(self._has_gone, wish, path)
        is_end = {"is_end": True} if end.get("is_end") else {}  # newer clients wait for it
        return _facts(start, answer) | is_end

    async def _read_audio(self, start: _Start, file: IO[bytes]) -> Mapping[str, Any]:
        """Write the bytes of a recording to the file; returns the object that ends them."""
        if start.is_pcm:
            file.write(bytes(_WAV_HEADER))
        while True:
            message = await self._message()
            data = message.get("bytes")
            if data is None:
                end = _read_object(message)
                if end.get("is_speaking", True) is not False:
                    continue  # hot words and the like, in the middle
                break
            file.write(data)
            if file.tell() > self._limits.max_upload_bytes:
                text = f"a recording may have {self._limits.max_upload_bytes:,} bytes"
                raise Refusal(413, "too_large", text)
        if start.is_pcm:
            n_bytes = file.tell() - _WAV_HEADER
            file.seek(0)
            file.write(wav_header(n_bytes, start.rate_hz))
        file.flush()
        return end

    async def _message(self) -> Mapping[str, Any]:
        """The next message. Raises _Ended, and Refusal if none comes in time."""
        limit_s = self._limits.upload_timeout_s
        left_s = max(0.0, self._deadline_s - asyncio.get_running_loop().time())
        try:
            message = await asyncio.wait_for(asyncio.shield(self._next), min(limit_s, left_s))
        except TimeoutError as error:
            text = f"the upload took longer than {limit_s:g} s"
            raise Refusal(408, "request_timeout", text) from error
        if message["type"] == _GONE:
            raise _Ended
        self._next = self._receive_soon()
        return message

    async def _has_gone(self) -> bool:
        return self._next.done() and self._next.result()["type"] == _GONE


def _read_start(message: Mapping[str, Any]) -> _Start:
    facts = _read_object(message)
    mode = facts.get("mode", "offline")
    if mode != "offline":
        raise Refusal(
            400,
            "unsupported",
            f"mode {mode!r}: SenseVoice labels whole recordings; use mode offline",
        )
    rate_hz = facts.get("audio_fs", 16_000)
    if not isinstance(rate_hz, int) or rate_hz not in _RATES_HZ:
        raise Refusal(400, "invalid_value", f"audio_fs {rate_hz!r}: send a rate in Hz")
    return _Start(
        name=str(facts.get("wav_name", ""))[:1000],
        is_pcm=str(facts.get("wav_format") or "pcm").lower() == "pcm",
        rate_hz=rate_hz,
        use_itn=facts.get("itn", True) is not False,
    )


def _read_object(message: Mapping[str, Any]) -> dict[str, Any]:
    try:
        facts = json.loads(message.get("text") or "")
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "invalid_value", "send a JSON object before the audio") from error
    if not isinstance(facts, dict):
        raise Refusal(400, "invalid_value", "send a JSON object before the audio")
    return facts


def wav_header(n_bytes: int, rate_hz: int) -> bytes:
    """44 bytes before `n_bytes` of mono 16-bit samples (RIFF, PCM)."""
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    size = struct.pack("<I", 36 + n_bytes)
    return b"RIFF" + size + b"WAVEfmt " + form + b"data" + struct.pack("<I", n_bytes)


def _facts(start: _Start, answer: Answer) -> dict[str, Any]:
    """The answer as FunASR's runtime gives it; times in milliseconds."""
    sentences: list[dict[str, Any]] = [
        {
            "text_seg": " ".join(word["word"] for word in one["words"]),
            "punc": "",
            "start": _ms(one["start_s"]),
            "end": _ms(one["end_s"]),
            "ts_list": [[_ms(word["start_s"]), _ms(word["end_s"])] for word in one["words"]],
        }
        for one in answer.segments
    ]
    times = [pair for sentence in sentences for pair in sentence["ts_list"]]
    return {
        "mode": "offline",
        "wav_name": start.name,
        "text": answer.text,
        "is_final": True,
        "timestamp": json.dumps(times),  # a string, as there
        "stamp_sents": sentences,
    }


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


async def _send(socket: WebSocket, facts: Mapping[str, Any]) -> None:
    await socket.send_text(json.dumps(facts, ensure_ascii=False))
