"""FunASR's runtime protocol, asked by a client of the registry and by hand."""

import asyncio
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile
from funasr_client import async_file_asr_stream
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from pipeline.config import RunConfig
from pipeline.serving.answers import join_texts
from pipeline.serving.funasr_socket import wav_header
from pipeline.stages.one_file import FileLabeller
from tests.serving.test_app import serving
from tests.support.demo import AUDIO, demo_config, waveform_of

NAMES = ["en_neutral.wav", "en_happy.mp3", "ja_neutral.m4a", "long_mixed.mp3"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    base = demo_config(tmp_path_factory.mktemp("socket") / "out")
    service = base.service.model_copy(update={"max_upload_bytes": 2 << 20})
    return base.model_copy(update={"service": service})


@pytest.fixture(scope="module")
def url(config: RunConfig) -> Iterator[str]:
    with serving(config) as (found, _):
        yield found.replace("http", "ws", 1)


@pytest.fixture(scope="module")
def labeller(config: RunConfig) -> FileLabeller:
    return FileLabeller(config)


async def messages_of(name: str, url: str) -> Any:
    """The one message for a file. The synchronous client waits for a lock that it holds (0.1.6)."""
    stream = async_file_asr_stream(AUDIO / name, url, mode="offline", itn=True, decode=True)
    (message,) = [message async for message in stream]
    return message


@pytest.mark.parametrize("name", NAMES)
def test_funasrs_client_gets_the_labels_of_a_run(
    name: str, url: str, labeller: FileLabeller
) -> None:
    got = asyncio.run(messages_of(name, url))
    segments = labeller.label(str(AUDIO / name)).segments
    assert (got["text"], got["wav_name"], got["is_final"]) == (join_texts(segments), name, True)
    words = [word for segment in segments for word in segment["words"]]
    assert got["timestamp"] == [
        [round(1000 * word["start_s"]), round(1000 * word["end_s"])] for word in words
    ]
    assert [one["start"] for one in got["stamp_sents"]] == [
        round(1000 * segment["start_s"]) for segment in segments
    ]


def ask(socket: ClientConnection, name: str, data: bytes, **facts: Any) -> Any:
    start = {"mode": "offline", "wav_name": name, "is_speaking": True, **facts}
    socket.send(json.dumps(start))
    for at in range(0, len(data), 9600):
        socket.send(data[at : at + 9600])
    socket.send(json.dumps({"is_speaking": False, "is_end": True}))
    return json.loads(socket.recv(60))


def test_one_connection_takes_recordings_one_after_the_other(url: str) -> None:
    """The first as bare samples, as FunASR's clients send a WAV; the second as a file."""
    samples = waveform_of(AUDIO / "en_happy.mp3").tobytes()
    file = (AUDIO / "en_happy.mp3").read_bytes()
    with connect(url) as socket:
        bare = ask(socket, "a", samples, audio_fs=16_000, wav_format="pcm")
        whole = ask(socket, "b", file, wav_format="mp3")
        raw = ask(socket, "c", file, wav_format="mp3", itn=False)
    assert (bare["wav_name"], whole["wav_name"]) == ("a", "b")
    assert bare["text"] == whole["text"] != raw["text"]
    assert whole["is_end"]  # newer clients wait for it


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"mode": "2pass"}, "use mode offline"),
        ({"mode": "online"}, "use mode offline"),
        ({"audio_fs": "fast"}, "send a rate in Hz"),
        ({"audio_fs": 1}, "send a rate in Hz"),
        ([1], "send a JSON object"),
        ("START", "send a JSON object"),
        pytest.param("[" * 200_000, "send a JSON object", id="nested"),
    ],
)
def test_what_is_not_understood_is_told_and_the_connection_closed(
    message: object, reason: str, url: str
) -> None:
    with connect(url) as socket:
        socket.send(message if isinstance(message, str) else json.dumps(message))
        told = json.loads(socket.recv(20))
        assert reason in told["error"]
        assert (told["text"], told["is_final"]) == ("", True)
        with pytest.raises(ConnectionClosed):
            socket.recv(20)


@pytest.mark.parametrize(("data", "reason"), [(b"", "no bytes"), (b"<html>no</html>", "HTML")])
def test_bad_audio_is_told(data: bytes, reason: str, url: str) -> None:
    with connect(url) as socket:
        assert reason in ask(socket, "x", data, wav_format="others")["error"]


def test_a_recording_that_is_too_large_ends_the_connection(url: str) -> None:
    socket = connect(url)
    with pytest.raises(ConnectionClosed) as closed:
        ask(socket, "x", bytes(3 << 20), wav_format="others")
        socket.recv(20)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
        1009,
        "a recording may have 2,097,152 bytes",
    )


def test_a_client_that_leaves_in_the_middle_disturbs_nobody(url: str) -> None:
    file = (AUDIO / "long_mixed.mp3").read_bytes()
    socket = connect(url)
    socket.send(json.dumps({"mode": "offline", "wav_format": "mp3"}))
    socket.send(file)
    socket.send(json.dumps({"is_speaking": False}))
    socket.close()
    with connect(url) as other:
        assert ask(other, "y", (AUDIO / "en_happy.mp3").read_bytes(), wav_format="mp3")["text"]


def test_the_header_before_samples_is_that_of_a_wav() -> None:
    samples = np.arange(-500, 500, dtype=np.int16)
    data = wav_header(2 * len(samples), 8000) + samples.tobytes()
    read, rate_hz = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate_hz == 8000
    np.testing.assert_array_equal(read, samples)


def test_a_socket_needs_the_token_though_the_page_at_its_path_does_not(config: RunConfig) -> None:
    with serving(config, frozenset({"a-token"})) as (found, _):
        place = found.replace("http", "ws", 1)
        with pytest.raises(InvalidStatus):
            connect(place)
        data = (AUDIO / "en_happy.mp3").read_bytes()
        with connect(place, additional_headers={"authorization": "Bearer a-token"}) as socket:
            assert ask(socket, "x", data, wav_format="mp3")["text"]


def test_an_upload_as_a_whole_has_a_time_limit(config: RunConfig) -> None:
    """A byte now and then does not hold a connection for ever."""
    hasty = config.service.model_copy(update={"upload_timeout_s": 1.0})
    with (
        serving(config.model_copy(update={"service": hasty})) as (found, _),
        connect(found.replace("http", "ws", 1)) as socket,
    ):
        socket.send(json.dumps({"mode": "offline"}))
        with pytest.raises(ConnectionClosed):
            for _ in range(100):
                socket.send(b"xx")
                time.sleep(0.1)
