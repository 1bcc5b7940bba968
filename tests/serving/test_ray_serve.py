"""The service on Ray Serve: the same answers from many replicas, also while one of them dies."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import psutil
import pytest
from ray import serve
from typer.testing import CliRunner
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from jobs import __main__ as commands
from pipeline.errors import ConfigError, ModelError
from pipeline.serving.answers import join_texts
from pipeline.serving.ray_serve import Replica, options_of, serving_on_ray
from pipeline.tables import open_snapshot
from pipeline.web.guard import SERVE_TOKEN
from pipeline.web.listening import listen
from tests.serving.test_app import transcribe
from tests.serving.test_funasr_socket import ask
from tests.support.demo import AS_TESTED, AUDIO, LONG, ROOT, SHORT, demo_config, execute

TOKEN = "a-token-of-this-test"
BEARER = {"authorization": f"Bearer {TOKEN}"}
FORM = BEARER | {"content-type": "multipart/form-data; boundary=x"}
REPLICA = "ray::ServeReplica:sensevoice"


@dataclass(frozen=True, slots=True)
class OnRay:
    """The command with --ray, in a process of its own."""

    process: "subprocess.Popen[str]"
    url: str

    def replicas(self) -> list[psutil.Process]:
        """Its replicas, at work or about to be."""
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if one.cmdline()[0].startswith(REPLICA):
                    found.append(one)
            except (psutil.Error, IndexError):
                continue
        return found

    def client(self, max_retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=TOKEN, max_retries=max_retries, timeout=60
        )


@contextmanager
def on_ray(output: Path, *settings: str) -> Iterator[OnRay]:
    """The service of the demo's model on a Ray of its own; it is stopped at the end."""
    overrides = ("service.port=0", *AS_TESTED, f"output={output}", *settings)
    command = [sys.executable, "-m", "jobs", "serve", str(ROOT / "configs" / "demo.yaml"), "--ray"]
    command += [part for setting in overrides for part in ("--set", setting)]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {SERVE_TOKEN: TOKEN},
    ) as process:
        assert process.stderr is not None
        url = process.stderr.readline().strip().removesuffix("/v1")
        try:
            assert re.fullmatch(r"http://127.0.0.1:\d+", url)
            yield OnRay(process, url)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    settings = "service.replicas=2", f"service.max_upload_bytes={2 << 20}"
    with on_ray(tmp_path_factory.mktemp("serve") / "out", *settings) as found:
        yield found


Segments = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Segments:
    """The texts that a run has written, by the recording that they are of, in the order of time."""
    root = tmp_path_factory.mktemp("tables")
    execute(demo_config(root, "ray.local=always"))
    found: Segments = {}
    rows = open_snapshot(str(root)).read("transcripts").to_pylist(maps_as_pydicts="strict")
    for row in sorted(rows, key=lambda row: float(row["start_s"])):
        found.setdefault(row["recording_id"], []).append(row)
    return found


@pytest.mark.usefixtures("own_ray")
def test_every_replica_answers_with_the_labels_of_the_tables(
    served: OnRay, tables: Segments
) -> None:
    assert len(served.replicas()) == 2
    files = [*SHORT, LONG] * 2
    with ThreadPoolExecutor(8) as pool:
        client = served.client()
        ask_one = partial(transcribe, client, response_format="verbose_json")
        answers = list(pool.map(ask_one, [row["audio"] for row in files]))
    for row, answer in zip(files, answers, strict=True):
        expected = tables.get(row["recording_id"], [])  # the VAD hears nothing in two of them
        assert [(one.start, one.end, one.text) for one in answer.segments] == [
            (one["start_s"], one["end_s"], one["text"]) for one in expected
        ]
        assert [one.model_extra["rich_text"] for one in answer.segments] == [
            one["rich_text"] for one in expected
        ]
    busy_s = [sum(one.cpu_times()[:2]) for one in served.replicas()]
    assert min(busy_s) > 0


@pytest.mark.usefixtures("own_ray")
def test_events_and_websockets_pass_through_the_proxy(served: OnRay, tables: Segments) -> None:
    text = join_texts(tables[LONG["recording_id"]])
    *deltas, done = transcribe(served.client(), LONG["audio"], stream=True)
    assert "".join(event.delta for event in deltas) == done.text == text
    file = (AUDIO / LONG["audio"]).read_bytes()
    with connect(served.url.replace("http", "ws"), additional_headers=BEARER) as socket:
        assert ask(socket, "long", file, wav_format="mp3")["text"] == text


@pytest.mark.usefixtures("own_ray")
def test_token_host_and_size_are_checked_behind_the_proxy(served: OnRay) -> None:
    models = f"{served.url}/v1/models"
    assert httpx.get(models).json()["error"]["code"] == "no_token"
    answer = httpx.get(models, headers=BEARER | {"x-request-id": "my-id"})
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (200, ["my-id"])
    strange = httpx.get(models, headers=BEARER | {"host": "evil.example"})
    assert strange.json()["error"]["code"] == "wrong_host"
    other = httpx.get(models, headers=BEARER | {"origin": "https://evil.example"})
    assert other.json()["error"]["code"] == "wrong_origin"
    with pytest.raises(InvalidStatus, match="403"), connect(served.url.replace("http", "ws")):
        raise AssertionError("it let a client without a token in")
    part = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    zeros = [bytes(1 << 20)] * 3
    for body in (b"".join([part, *zeros]), iter([part, *zeros])):  # with a length, and without
        large = httpx.post(f"{served.url}/v1/audio/transcriptions", headers=FORM, content=body)
        assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    with pytest.raises(openai.BadRequestError):
        transcribe(served.client(), "broken_empty.wav")
    assert httpx.get(f"{served.url}/readyz").json() == {"status": "ready"}


@pytest.mark.usefixtures("own_ray", "kills")
def test_a_replica_that_dies_costs_no_client_its_answer(served: OnRay, tables: Segments) -> None:
    """Each gets its own answer, or an error after which its client asks again by itself."""
    names = [row["audio"] for row in SHORT]
    texts = [join_texts(tables.get(row["recording_id"], [])) for row in SHORT]
    once, patient = served.client(), served.client(max_retries=8)
    dead, *_ = served.replicas()
    statuses: Counter[int] = Counter()

    def ask_once(index: int) -> None:
        try:
            assert transcribe(once, names[index % len(names)]).text == texts[index % len(names)]
            statuses[200] += 1
        except openai.InternalServerError as error:
            statuses[error.status_code] += 1

    def ask_again(index: int) -> str:
        return str(transcribe(patient, names[index % len(names)]).text)

    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask_once, index) for index in range(200)]
        again = [pool.submit(ask_again, index) for index in range(100)]
        while statuses[200] < 20:
            time.sleep(0.01)
        dead.kill()
        for one in asked:
            one.result(60)
        assert [one.result(60) for one in again] == [
            texts[index % len(texts)] for index in range(100)
        ]
    assert statuses.total() == 200
    assert set(statuses) <= {200, 500, 503}
    assert statuses[200] >= 200 - 16  # what the dead one held: as many as there are threads
    for _ in range(600):
        whole = [one for one in served.replicas() if one.pid != dead.pid]
        if len(whole) == 2 and httpx.get(f"{served.url}/readyz").status_code == 200:
            break
        time.sleep(0.1)
    assert len(whole) == 2
    assert [transcribe(once, name).text for name in names] == texts


@pytest.mark.usefixtures("own_ray", "kills")
def test_sigterm_finishes_what_is_under_way_and_leaves_no_process(served: OnRay) -> None:
    family = psutil.Process(served.process.pid).children(recursive=True)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(transcribe, served.client(), LONG["audio"])
        time.sleep(0.2)
        served.process.send_signal(signal.SIGTERM)
        assert answer.result(60).text
    assert served.process.wait(60) == 0
    _, left = psutil.wait_procs(family, timeout=20)
    assert left == []


def test_a_replica_without_a_token_that_is_needed_or_without_a_model_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SERVE_TOKEN, raising=False)
    with pytest.raises(ConfigError, match=f"set {SERVE_TOKEN} in the environment of every node"):
        Replica(demo_config(tmp_path), needs_token=True)
    lost = demo_config(tmp_path).model_copy(update={"model": str(tmp_path / "none")})
    with pytest.raises(ModelError, match="none"):
        Replica(lost, needs_token=False)


def test_a_replica_that_is_not_ready_is_told_to_ray_serve(tmp_path: Path) -> None:
    replica = Replica(demo_config(tmp_path), needs_token=False)
    replica.check_health()
    replica.service.close()
    with pytest.raises(ModelError, match="the replica is draining"):
        replica.check_health()


def test_the_limits_and_the_replicas_are_those_of_the_configuration(tmp_path: Path) -> None:
    config = demo_config(tmp_path, "service.replicas=2", "ray.label_cpus=3", "service.drain_s=7")
    fixed = options_of(config)
    assert fixed["num_replicas"] == 2
    assert fixed["max_ongoing_requests"] > config.service.max_requests
    assert fixed["ray_actor_options"]["num_cpus"] == 4
    assert fixed["graceful_shutdown_timeout_s"] == 7
    scaled = options_of(demo_config(tmp_path, "service.replicas=2", "service.replicas_max=8"))
    found = scaled["autoscaling_config"]
    assert (found.min_replicas, found.max_replicas, found.target_ongoing_requests) == (2, 8, 8)


def test_fewer_replicas_at_most_than_at_least_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"service.replicas_max \(2\) is less than"):
        demo_config(tmp_path, "service.replicas=3", "service.replicas_max=2")


def test_an_address_that_is_taken_is_refused_before_ray_starts(tmp_path: Path) -> None:
    with closing(listen("127.0.0.1", 0)) as socket:
        port = socket.getsockname()[1]
        settings = [f"output={tmp_path}", f"service.port={port}"]
        arguments = ["serve", str(ROOT / "configs" / "demo.yaml"), "--ray"]
        arguments += [part for setting in settings for part in ("--set", setting)]
        done = CliRunner().invoke(commands.app, arguments)
    assert (done.exit_code, f"cannot listen on 127.0.0.1:{port}" in done.stderr) == (2, True)


def test_a_cluster_on_which_ray_serve_runs_already_is_refused(
    ray_session: None, tmp_path: Path
) -> None:
    """Its proxies listen where somebody else has said, and others may reach them."""
    serve.start(http_options={"port": 0})
    try:
        with (
            pytest.raises(ConfigError, match="Ray Serve runs on this cluster already"),
            serving_on_ray(demo_config(tmp_path), 8000, needs_token=False),
        ):
            raise AssertionError("it served at another address")
    finally:
        serve.shutdown()
