"""What a client can do to the service: slow, large, many, gone. And what each is told."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import psutil
import pytest

from pipeline.config import RunConfig
from tests.serving.test_app import TOKEN, post, serving, transcribe
from tests.support.demo import AUDIO, ROOT, demo_config

PATH = "/v1/audio/transcriptions"
PART = '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
SHORT = (AUDIO / "en_happy.mp3").read_bytes()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return demo_config(tmp_path_factory.mktemp("limits") / "out")


def limited(config: RunConfig, **keys: Any) -> RunConfig:
    return config.model_copy(update={"service": config.service.model_copy(update=keys)})


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def port_of(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


@contextmanager
def half_an_upload(url: str, n_bytes: int = 1000) -> Iterator[socket.socket]:
    """A connection on which an upload of 100 MB has begun."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\n\r\n{PART}"
    )
    with socket.create_connection(port_of(url), timeout=30) as connection:
        connection.sendall(head.encode() + bytes(n_bytes))
        yield connection


# ------------------------------------------------------------ what is told


def test_what_the_guard_refuses_has_openais_fields_and_every_answer_an_id(
    config: RunConfig,
) -> None:
    with serving(limited(config, max_upload_bytes=100_000), frozenset({TOKEN})) as (url, _):
        right = {"authorization": f"Bearer {TOKEN}"}
        asked = {
            401: httpx.get(f"{url}/v1/models"),
            403: httpx.get(f"{url}/v1/models", headers=right | {"origin": "https://evil.example"}),
            413: httpx.post(f"{url}{PATH}", headers=right, files={"file": bytes(200_000)}),
            421: httpx.get(f"{url}/v1/models", headers=right | {"host": "evil.example"}),
            404: httpx.get(f"{url}/v1/models/gpt-9", headers=right),
            415: httpx.post(f"{url}{PATH}", headers=right, json={}),
            200: httpx.get(f"{url}/healthz"),
        }
        for status, answer in asked.items():
            assert answer.status_code == status
            if status != 200:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        types = {
            status: answer.json()["error"]["type"]
            for status, answer in asked.items()
            if status != 200
        }
        assert types[401] == "authentication_error"
        assert types[403] == "permission_error"
        assert types[413] == types[421] == "invalid_request_error"
        ids = {answer.headers["x-request-id"] for answer in asked.values()}
        assert len(ids) == len(asked)
        with pytest.raises(openai.AuthenticationError) as error:
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
        assert (error.value.type, error.value.code) == ("authentication_error", "no_token")
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0)
        assert transcribe(client, "en_happy.mp3")._request_id not in {None, error.value.request_id}


def test_a_stream_that_waits_gets_comments_and_then_its_events(config: RunConfig) -> None:
    with serving(limited(config, ping_s=0.1)) as (url, service):
        assert service.labelling is not None
        asked: Any = {"files": {"file": SHORT}, "data": {"stream": "true"}, "timeout": 30}
        service.labelling.cores.acquire()  # decoding waits for it
        with httpx.stream("POST", f"{url}{PATH}", **asked) as answer:
            lines = answer.iter_lines()
            assert [next(lines), next(lines), next(lines)] == [": ping", "", ": ping"]
            service.labelling.cores.release()
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        assert [one["type"] for one in events] == [
            "transcript.text.delta",
            "transcript.text.done",
        ]
        service.labelling.cores.acquire()
        with httpx.stream("POST", f"{url}{PATH}", **asked | {"files": {"file": b"x"}}) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": ping"
            service.labelling.cores.release()
            told = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        assert [one["error"]["code"] for one in told] == ["NotAudio"]  # a 400 comes too late


# ------------------------------------------------------------ connections


def test_connections_are_limited_and_one_without_a_request_is_closed(config: RunConfig) -> None:
    with serving(limited(config, max_connections=2), header_s=1.0) as (url, _):
        idle = [socket.create_connection(port_of(url), timeout=30) for _ in range(2)]
        refused = httpx.get(f"{url}/v1/models", headers={"x-request-id": "mine"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.headers["x-request-id"] == "mine"
        assert refused.json()["error"]["code"] == "too_many_connections"
        assert httpx.get(f"{url}/healthz").status_code == 200
        more = [socket.create_connection(port_of(url), timeout=30) for _ in range(2)]
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{url}/healthz")
        idle[0].sendall(b"GET /v1/models HTTP/1.1\r\nHost: loc")  # and never the rest
        assert [one.recv(100) for one in (*idle, *more)] == [b""] * 4  # closed by the service
        assert httpx.get(f"{url}/v1/models").status_code == 200
        for one in (*idle, *more):
            one.close()


# ------------------------------------------------------------ uploads


def test_a_slow_upload_is_ended_and_holds_up_no_other(config: RunConfig) -> None:
    with serving(limited(config, upload_timeout_s=5.0), header_s=1.0) as (url, service):
        with half_an_upload(url) as slow:
            trickle = threading.Event()

            def send() -> None:
                while not trickle.wait(0.05):
                    slow.send(b"x")

            with ThreadPoolExecutor(1) as pool:
                sending = pool.submit(send)
                other = post(url, PATH, SHORT)
                is_first = not select.select([slow], [], [], 0)[0]
                told = b""  # the body may come after the headers
                while b"request_timeout" not in told and (more := slow.recv(10_000)):
                    told += more
                with pytest.raises(OSError):  # the connection ends, though bytes still come
                    sending.result(30)
                trickle.set()
        assert (other.status_code, is_first) == (200, True)
        assert told.startswith(b"HTTP/1.1 408") and b'"code":"request_timeout"' in told
        assert service.n_under_way == 0


def test_a_large_upload_goes_to_the_disk_and_not_to_memory(config: RunConfig) -> None:
    """60 MB that are no audio, so that nothing but the upload takes memory."""
    process, peak, is_done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss)

    def body() -> Iterator[bytes]:
        yield PART.encode()
        for _ in range(240):
            yield bytes(250_000)
        yield b"\r\n--x--\r\n"

    kind = {"content-type": "multipart/form-data; boundary=x"}
    with serving(config) as (url, _), ThreadPoolExecutor(1) as pool:
        assert post(url, PATH, SHORT).status_code == 200
        before = process.memory_info().rss
        watching = pool.submit(watch)
        got = httpx.post(f"{url}{PATH}", content=body(), headers=kind, timeout=60)
        is_done.set()
        watching.result()
    assert (got.status_code, got.json()["error"]["code"]) == (400, "NotAudio")
    assert 0 < peak[0] - before < 20e6


def unnamed_files(process: str = "self") -> set[str]:
    """Those that a process has open, by their inode."""
    found = set()
    for path in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found.add(os.readlink(path))
    return {name for name in found if name.endswith("(deleted)")}


def test_a_client_that_leaves_in_the_middle_frees_its_place_and_its_file(
    config: RunConfig,
) -> None:
    """One place: the next client gets it, whether the one before left its upload or its stream."""
    with serving(limited(config, max_requests=1, ping_s=0.1)) as (url, service):
        assert service.labelling is not None
        before = unnamed_files()
        with half_an_upload(url, 5_000_000):
            wait_until(lambda: unnamed_files() > before)
        wait_until(lambda: unnamed_files() == before)
        asked: Any = {"files": {"file": SHORT * 50}, "data": {"stream": "true"}}
        with service.labelling.cores:  # decoding waits for it
            with httpx.stream("POST", f"{url}{PATH}", **asked) as answer:
                assert next(answer.iter_lines()) == ": ping"
                assert post(url, PATH, SHORT).status_code == 429
            time.sleep(0.3)  # it is noticed, but a thread may still read the file
        wait_until(lambda: service.n_under_way == 0)
        assert post(url, PATH, SHORT).status_code == 200
        wait_until(lambda: unnamed_files() == before)


@pytest.mark.usefixtures("kills")
def test_a_service_that_is_killed_leaves_no_file_of_an_upload(tmp_path: Path) -> None:
    """There is nothing to remove at the next start: an upload never has a name."""
    spool = tmp_path / "tmp"
    spool.mkdir()
    command = [sys.executable, "-m", "jobs", "serve", str(ROOT / "configs" / "demo.yaml")]
    environment = os.environ | {"TMPDIR": str(spool)}
    with subprocess.Popen(
        [*command, "--set", "service.port=0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stderr is not None
        url = process.stderr.readline().strip().removesuffix("/v1")
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        names = sorted(spool.rglob("*"))
        with half_an_upload(url, 5_000_000):
            wait_until(lambda: any(str(spool) in one for one in unnamed_files(f"{process.pid}")))
            process.send_signal(signal.SIGKILL)
            assert process.wait(30) == -signal.SIGKILL
    assert sorted(spool.rglob("*")) == names
