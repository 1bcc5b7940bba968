"""The service over HTTP: OpenAI's client, SenseVoice's shape, errors, limits, and its labels."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import uvicorn
from typer.testing import CliRunner

from jobs import __main__ as commands
from pipeline.config import RunConfig
from pipeline.serving.answers import join_texts, read_language
from pipeline.serving.app import create_app
from pipeline.serving.labelling import Labelling
from pipeline.serving.service import Service
from pipeline.stages.one_file import FileLabeller
from pipeline.web.connections import HEADER_S, limited_protocol
from tests.support.demo import AS_TESTED, AUDIO, GOOD, LONG, ROOT, SHORT, demo_config

TOKEN = "a-token-of-this-test"


@contextmanager
def serving(
    config: RunConfig, tokens: frozenset[str] = frozenset(), header_s: float = HEADER_S
) -> Iterator[tuple[str, Service]]:
    """A real server on a free port of loopback: its address, and the service behind it."""
    http = limited_protocol(config.service.max_connections, header_s)
    service = Service(config)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(service, tokens),
            port=0,
            loop="asyncio",
            http=http,
            log_level="warning",
            timeout_graceful_shutdown=5,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(600):
        if server.started and service.state()[1] != "loading":
            break
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", service
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return demo_config(tmp_path_factory.mktemp("serve") / "out")


@pytest.fixture(scope="module")
def served(config: RunConfig) -> Iterator[tuple[str, Service]]:
    with serving(config) as found:
        yield found


@pytest.fixture(scope="module")
def url(served: tuple[str, Service]) -> str:
    return served[0]


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def expected(config: RunConfig) -> dict[str, Any]:
    """What a run's own code says of each file of the demo."""
    labeller = FileLabeller(config)
    return {row["audio"]: labeller.label(str(AUDIO / row["audio"])) for row in [*GOOD, LONG]}


def names(events: Any) -> list[str]:
    return [one["event"] for one in events]


def post(url: str, path: str, data: bytes | None, **fields: Any) -> httpx.Response:
    files = {} if data is None else {"file": ("x", data)}
    sent = files or {"a": ("a", b"")}
    return httpx.post(f"{url}{path}", data=fields, files=sent, timeout=60, verify=False)


def transcribe(client: openai.OpenAI, name: str, **wish: Any) -> Any:
    with (AUDIO / name).open("rb") as file:
        return client.audio.transcriptions.create(model="whisper-1", file=file, **wish)


def test_labels_are_those_of_a_run_for_every_file_of_the_demo(
    client: openai.OpenAI, expected: dict[str, Any]
) -> None:
    for name, labelled in expected.items():
        got = transcribe(client, name, response_format="verbose_json").to_dict()
        assert got["duration"] == pytest.approx(labelled.duration_s, abs=1e-3)
        assert len(got["segments"]) == len(labelled.segments)
        for ours, theirs in zip(got["segments"], labelled.segments, strict=True):
            assert (ours["start"], ours["end"]) == (theirs["start_s"], theirs["end_s"])
            for key in ("text", "rich_text", "language", "emotion", "emotion_forced"):
                assert ours[key] == theirs[key]
            assert ours["language_probability"] == pytest.approx(
                theirs["language_probability"], abs=1e-4
            )
            assert [one["event"] for one in ours["events"]] == [
                one["event"] for one in theirs["events"]
            ]


def test_32_clients_at_once_each_get_their_own_answer(
    client: openai.OpenAI, served: tuple[str, Service], expected: dict[str, Any]
) -> None:
    files = ([row["audio"] for row in SHORT] * 3)[:32]
    with ThreadPoolExecutor(32) as pool:
        got = list(pool.map(lambda name: transcribe(client, name).text, files))
    assert got == [join_texts(expected[name].segments) for name in files]
    labelling = served[1].labelling
    assert labelling is not None
    assert labelling.model.waiting_s == 0


def test_every_format_that_openai_has(client: openai.OpenAI, expected: dict[str, Any]) -> None:
    name = "en_happy.mp3"
    (segment,) = expected[name].segments
    plain = transcribe(client, name)
    assert (plain.text, plain.usage.type) == (segment["text"], "duration")
    assert plain.to_dict()["seconds_labelled"] > 1
    assert transcribe(client, name, response_format="text") == segment["text"] + "\n"
    srt = transcribe(client, name, response_format="srt")
    assert srt.startswith("1\n00:00:0") and segment["text"] in srt
    assert transcribe(client, name, response_format="vtt").startswith("WEBVTT\n")
    words = transcribe(
        client, name, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert [one.word for one in words.words] == [one["word"] for one in segment["words"]]
    assert words.language == "en"
    required = {"id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob"}
    assert required <= words.segments[0].to_dict().keys()


def test_segments_come_as_a_stream_and_their_deltas_are_the_text(client: openai.OpenAI) -> None:
    events = list(transcribe(client, LONG["audio"], stream=True))
    *deltas, done = events
    assert {one.type for one in deltas} == {"transcript.text.delta"}
    assert len(deltas) > 5
    assert done.type == "transcript.text.done"
    assert "".join(one.delta for one in deltas) == done.text
    assert [one.to_dict()["segment"]["id"] for one in deltas] == list(range(len(deltas)))


def test_language_and_text_normalisation_are_the_clients(client: openai.OpenAI) -> None:
    name = "en_happy.mp3"
    itn, raw = (
        transcribe(client, name, extra_body={"use_itn": itn}).text for itn in ("true", "false")
    )
    assert itn != raw
    prompted = transcribe(client, "yue_sad.ogg", language="zh", response_format="verbose_json")
    assert prompted.language == "zh"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "auto"),
        ("en-US", "en"),
        ("zh_CN", "zh"),
        ("zh-HK", "yue"),
        ("Japanese", "ja"),
        ("fr", None),
    ],
)
def test_names_of_languages(text: str, language: str | None) -> None:
    assert read_language(text) == language


def test_senseVoices_own_clients_get_its_shape(url: str) -> None:
    names = ["en_happy.mp3", "zh_angry.flac"]
    files = [("files", (name, (AUDIO / name).read_bytes())) for name in names]
    got = httpx.post(f"{url}/api/v1/asr", files=files, data={"keys": "a,b", "lang": "auto"}).json()
    first, second = got["result"]
    assert (first["key"], second["key"]) == ("a", "b")
    assert first["raw_text"].startswith("<|en|><|HAPPY|><|Speech|><|woitn|>")
    assert first["text"].endswith("😊") and "<|" not in first["clean_text"]


def test_models_are_listed_and_others_not_found(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["sensevoice"]
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("whisper-9")
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "data", "status", "code"),
    [
        ({}, None, 400, "missing_required_parameter"),
        ({}, b"", 400, "EmptyFile"),
        ({}, b"<html><body>no</body></html>", 400, "NotAudio"),
        ({}, b"PK\x03\x04" + bytes(100), 400, "NotAudio"),
        ({}, bytes(range(256)) * 40, 400, "NotAudio"),
        ({"model": "gpt-9"}, b"x", 404, "model_not_found"),
        ({"response_format": "xml"}, b"x", 400, "invalid_value"),
        ({"language": "fr"}, b"x", 400, "invalid_value"),
        ({"stream": "perhaps"}, b"x", 400, "invalid_value"),
        ({"timestamp_granularities[]": "word"}, b"x", 400, "invalid_value"),
    ],
)
def test_bad_input_is_told_in_openais_shape(
    fields: dict[str, str], data: bytes | None, status: int, code: str, url: str
) -> None:
    got = post(url, "/v1/audio/transcriptions", data, **fields)
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert got.json()["error"]["message"]
    assert "/proc" not in got.text


def test_the_file_of_a_stream_is_refused_before_the_stream_begins(url: str) -> None:
    got = post(url, "/v1/audio/transcriptions", b"%PDF-1.4 no audio", stream="true")
    assert (got.status_code, got.json()["error"]["code"]) == (400, "NotAudio")


def test_a_damaged_recording_is_an_error_and_never_half_an_answer(url: str) -> None:
    whole = (AUDIO / "zh_angry.flac").read_bytes()
    got = post(url, "/v1/audio/transcriptions", whole[: len(whole) // 2])
    assert (got.status_code, got.json()["error"]["param"]) == (400, "file")


def test_what_is_no_upload_is_refused(url: str) -> None:
    plain = httpx.post(f"{url}/v1/audio/transcriptions", json={"file": "/etc/passwd"})
    assert (plain.status_code, plain.json()["error"]["code"]) == (415, "not_multipart")
    broken = httpx.post(
        f"{url}/v1/audio/transcriptions",
        content=b"--x\r\nnonsense",
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert broken.status_code == 400
    path = httpx.post(
        f"{url}/v1/audio/transcriptions", data={"file": "/etc/passwd"}, files={"a": b""}
    )
    assert path.json()["error"]["code"] == "missing_required_parameter"
    assert httpx.get(f"{url}/nowhere").json()["error"]["code"] == "not_found"
    assert httpx.post(f"{url}/v1/audio/translations").json()["error"]["code"] == "unsupported"
    evil = httpx.get(f"{url}/v1/models", headers={"origin": "https://evil.example"})
    assert evil.status_code == 403


def test_health_readiness_and_figures(url: str, client: openai.OpenAI) -> None:
    transcribe(client, "en_happy.mp3")
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{url}/readyz").json() == {"status": "ready"}
    figures = httpx.get(f"{url}/metrics").text
    assert 'sensevoice_requests_total{path="/v1/audio/transcriptions",status="200"}' in figures
    assert "sensevoice_batch_clips_count" in figures
    assert "sensevoice_waiting_audio_seconds 0.0" in figures


def test_nothing_is_answered_without_the_token_and_large_bodies_never(config: RunConfig) -> None:
    service = config.service.model_copy(update={"max_upload_bytes": 1000})
    small = config.model_copy(update={"service": service})
    with serving(small, frozenset({TOKEN})) as (url, _):
        assert httpx.get(f"{url}/healthz").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0)
        assert len(list(client.models.list())) == 1
        with pytest.raises(openai.APIStatusError) as error:
            transcribe(client, LONG["audio"])
        assert error.value.status_code == 413


def test_too_many_requests_are_told_when_to_come_again(config: RunConfig) -> None:
    limits = config.service.model_copy(update={"max_requests": 1})
    with serving(config.model_copy(update={"service": limits})) as (url, service):
        assert service.labelling is not None
        data = (AUDIO / "en_happy.mp3").read_bytes()
        with ThreadPoolExecutor(1) as pool:
            with service.labelling.cores:  # decoding waits for it, so the first request stays
                first = pool.submit(post, url, "/v1/audio/transcriptions", data)
                while not service.n_under_way:
                    time.sleep(0.01)
                second = post(url, "/v1/audio/transcriptions", data)
            assert first.result(30).status_code == 200
        assert second.status_code == 429
        assert second.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(second.headers["retry-after"]) <= 120


def test_a_client_that_goes_away_leaves_nothing_behind(served: tuple[str, Service]) -> None:
    url, service = served
    data = (AUDIO / LONG["audio"]).read_bytes()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{url}/v1/audio/transcriptions",
            files={"file": data},
            timeout=httpx.Timeout(30, read=0.05),
        )
    for _ in range(400):
        if not service.n_under_way:
            break
        time.sleep(0.05)
    assert not service.n_under_way
    assert service.labelling is not None
    assert service.labelling.model.waiting_s == 0
    assert json.loads(post(url, "/v1/audio/transcriptions", data).text)["text"]


def test_until_the_model_is_loaded_and_if_it_never_is_the_answer_is_503(
    config: RunConfig, tmp_path: Path
) -> None:
    with serving(config.model_copy(update={"model": str(tmp_path / "none")})) as (url, _):
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(f"{url}/readyz").json() == {"status": "failed"}
        got = post(url, "/v1/audio/transcriptions", b"x")
        assert (got.status_code, got.json()["error"]["code"]) == (503, "failed")
    service = Service(config)
    assert service.state() == (False, "loading")
    service.close()
    assert service.state() == (False, "draining")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate of this machine's own for a day."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    files = ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    subprocess.run([*request, *files], check=True, capture_output=True)
    return key, certificate


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_the_command_serves_by_tls_until_sigterm_and_finishes_what_is_under_way(
    tmp_path: Path,
) -> None:
    key, certificate = make_certificate(tmp_path)
    overrides = (
        *("service.port=0", *AS_TESTED, f"output={tmp_path / 'out'}"),
        *(f"service.tls_key={key}", f"service.tls_certificate={certificate}"),
    )
    command = [sys.executable, "-m", "jobs", "serve", str(ROOT / "configs" / "demo.yaml")]
    for setting in overrides:
        command += ["--set", setting]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().strip().removesuffix("/v1")
        assert url.startswith("https://127.0.0.1:")
        for _ in range(600):
            if httpx.get(f"{url}/readyz", verify=False).status_code == 200:
                break
            time.sleep(0.1)
        libraries = Path(f"/proc/{process.pid}/maps").read_text()
        assert not re.search("uvloop|httptools|raylet", libraries)  # extras do not change it
        with ThreadPoolExecutor(1) as pool:
            data = (AUDIO / LONG["audio"]).read_bytes()
            answer = pool.submit(post, url, "/v1/audio/transcriptions", data)
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert answer.result(60).status_code == 200
        assert process.wait(60) == 0


def test_the_command_refuses_a_public_address_without_a_token(tmp_path: Path) -> None:
    arguments = ["serve", str(ROOT / "configs" / "demo.yaml"), "--set", f"output={tmp_path}"]
    public = CliRunner().invoke(commands.app, [*arguments, "--set", "service.host=0.0.0.0"])
    assert (public.exit_code, "set SENSEVOICE_SERVE_TOKEN" in public.stderr) == (2, True)
    half = CliRunner().invoke(commands.app, [*arguments, "--set", "service.tls_key=x"])
    assert (half.exit_code, "are set together" in half.stderr) == (2, True)
    split = CliRunner().invoke(commands.app, [*arguments, "--set", "audio.channels=split"])
    assert (split.exit_code, "have no channel" in split.stderr) == (2, True)
    lost = ["--set", "service.tls_key=/no/key", "--set", "service.tls_certificate=/no/crt"]
    missing = CliRunner().invoke(commands.app, [*arguments, *lost])
    assert (missing.exit_code, "/no/crt: no such file" in missing.stderr) == (2, True)


def test_a_client_that_leaves_a_stream_leaves_nothing_behind(served: tuple[str, Service]) -> None:
    url, service = served
    data = (AUDIO / LONG["audio"]).read_bytes()
    with httpx.stream(
        "POST", f"{url}/v1/audio/transcriptions", files={"file": data}, data={"stream": "true"}
    ) as answer:
        next(answer.iter_lines())
    for _ in range(400):
        if not service.n_under_way:
            break
        time.sleep(0.05)
    assert not service.n_under_way


def test_what_is_not_finished_when_the_service_closes_is_answered_with_503(
    config: RunConfig,
) -> None:
    with serving(config) as (url, service):
        assert service.labelling is not None
        data = (AUDIO / "en_happy.mp3").read_bytes()
        with ThreadPoolExecutor(2) as pool:
            with service.labelling.cores:  # decoding waits for it
                answer = pool.submit(post, url, "/v1/audio/transcriptions", data)
                while not service.n_under_way:
                    time.sleep(0.01)
                closing = pool.submit(service.close)
                while not service.is_draining:
                    time.sleep(0.01)
            closing.result(30)
            got = answer.result(30)
        assert (got.status_code, got.json()["error"]["code"]) == (503, "draining")


def test_a_model_that_fails_to_load_in_any_way_is_told(config: RunConfig) -> None:
    def load(config: RunConfig, figures: object) -> Labelling:
        raise ZeroDivisionError

    service = Service(config, load)
    service.load()
    assert service.state() == (False, "failed")
    service.close()


def test_a_segment_without_text_has_no_confidence_in_any_format(config: RunConfig) -> None:
    """As in the tables; OpenAI's own keys stay numbers, which its clients demand."""
    segment = config.segment.model_copy(update={"whole_below_s": 30})  # the VAD hides applause
    with serving(config.model_copy(update={"segment": segment})) as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        (whole,) = transcribe(
            client, "event_applause.opus", response_format="verbose_json"
        ).segments
        event, done = transcribe(client, "event_applause.opus", stream=True)
        told = transcribe(client, "event_applause.opus", response_format="srt")
    assert (whole.text, whole.model_extra["confidence"], whole.avg_logprob) == ("", None, -100.0)
    assert event.model_extra["segment"]["confidence"] is None
    assert (event.delta, done.text) == ("", "")
    assert "[applause]" in told
