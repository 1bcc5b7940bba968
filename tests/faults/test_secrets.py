"""A secret in every place where a user can write an address: it is used and never written down."""

import base64
import gzip
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner

from jobs.__main__ import app
from pipeline.benchmark.loop import Loop
from pipeline.config import RunConfig
from pipeline.report.card import write_report
from pipeline.runs.execute import prepare
from pipeline.runs.other_labels import run_settings
from pipeline.tables import open_snapshot
from pipeline.tables.publisher import publish
from pipeline.tables.run_records import RunRecord
from tests.support.demo import AUDIO, DEMO, GOOD, run_command
from tests.support.secrets import IN_URI, SECRET, files_with_secret, traces


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """The demo corpus and model on the web, behind a name and a password."""
    handler = partial(_Quiet, directory=str(DEMO))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:{IN_URI}@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "written" / "cache"))


def rows(web: str) -> list[dict[str, Any]]:
    """Rows that are labelled, and rows that fail in every stage before the model."""
    audio = [row["audio"] for row in GOOD[:2]]
    signed = f"X-Amz-Signature={IN_URI}&q={IN_URI}&sign={IN_URI}&{IN_URI}#access_token={IN_URI}"
    link = f"https://h/a.wav?sig={IN_URI}&sv=1&jwt={IN_URI}"
    good: list[dict[str, Any]] = [
        {"audio": f"{web}/audio/{audio[0]}?{signed}", "link": link, "text": f"curl '{link}' -o a"},
        {"audio": str(AUDIO / audio[1]), "nested": {"url": [f"https://me:{IN_URI}@h/a"]}},
        {"audio": str(AUDIO / audio[0]), "recording_id": link},
    ]
    bad = [
        *(
            f"{web}/missing.wav?token={IN_URI}",
            f"sftp://you:{IN_URI}@h/a.wav",
            f"foo://me:{IN_URI}@h",
        ),
        *(f"https:/h/a?sig={IN_URI}", f" https://me:{IN_URI}@h/a", f"s3://AKIA:{IN_URI}@bucket/a"),
        *(f"http://h/a\n?{IN_URI}", f"| curl https://me:{IN_URI}@h", f"gs://b/a?token={IN_URI}"),
        *(f"https://me:{IN_URI}@[h/a?b={IN_URI}", f"zip://a::https://me:{IN_URI}@h/b?c={IN_URI}"),
        f"https://me:{SECRET}@h/a?password={SECRET}",
    ]
    same: list[dict[str, Any]] = [
        {"audio": f"{web}/a?q={IN_URI}{n}", "recording_id": "same"} for n in (1, 2)
    ]
    return [*good, *({"audio": uri} for uri in bad), *same]


def settings(web: str, folder: Path) -> dict[str, Any]:
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows(web)))
    host = web.rpartition("@")[2]
    return {
        "manifest": str(manifest),
        "output": str(folder / "written" / "out"),
        "model": f"{web}/model/",
        "vad": "none",
        "allowed_roots": ["/", f"http://{host}/", f"sftp://me:{IN_URI}@h/corpus/"],
        "allow_http": True,
        "storage_options": {"allow_private_hosts": True, "key": "AKIA", "secret": SECRET},
        "ray": {"local": "never", "num_cpus": 2, "batch_audio_s": 20},
        "error_exit_code": 0,
    }


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return f"{done.output}{done.stderr}"


def test_the_search_finds_a_secret_in_every_form(tmp_path: Path) -> None:
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + SECRET.encode() + b"tail")
        assert "base64" in traces(b"a" + encoded)
    assert "percent-encoded" in traces(IN_URI.encode())
    pq.write_table(pa.table({"a": [[{"b": SECRET}]]}), tmp_path / "a.parquet", compression="zstd")
    (tmp_path / "b.gz").write_bytes(gzip.compress(SECRET.encode()))
    (tmp_path / "c.zst").write_bytes(zstandard.compress(SECRET.encode()))
    (tmp_path / "d.txt").write_text("nothing")
    found = {line.partition(":")[0] for line in files_with_secret(tmp_path)}
    assert found == {"a.parquet", "b.gz", "c.zst"}


def test_no_stage_and_no_command_writes_a_secret_down(
    web: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = tmp_path / "written"
    values = settings(web, tmp_path)
    config = RunConfig.model_validate(values)
    Loop(config).run()
    store, run = prepare(config)
    publish(store, run)
    record = RunRecord(run.run_id, run.fingerprint, run.vad, 3, 9, 1, 1, {}, run_settings(config))
    write_report(config.output, {}, record)

    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    out = config.output
    printed = [
        invoke("label", str(path), "--dry-run"),
        invoke("plan", str(path), "--json"),
        invoke("report", out, "-o", str(written / "report.html")),
        invoke("verify", out),
        invoke("query", out, "SELECT * FROM recordings", "--csv"),
        *(
            invoke("export", out, str(written / name), "--format", name)
            for name in ("jsonl", "kaldi", "srt")
        ),
    ]
    recordings = open_snapshot(out).read("recordings").to_pylist()
    assert sum(row["status"] == "ok" for row in recordings) == 3
    assert sum(row["status"] == "error" for row in recordings) >= 10
    (written / "printed.txt").write_text("".join(printed) + caplog.text)
    assert files_with_secret(written) == []


@pytest.mark.parametrize(
    "setting",
    [
        *(
            "storage_options.secret=%{0}",
            "storage_options.secret=*{0}",
            "storage_options.secret:{0}",
        ),
        *("model=http://me:{1}@127.0.0.1:9/m?sig={1}", "model=/x/https://me:{1}@h/m?sig={1}"),
        *("model=s3://AKIA:{1}@bucket/m", "vad=https://me:{1}@127.0.0.1:9/v?sig={1}"),
        *("output=s3://AKIA:{1}@bucket/x", "output=ftp://me:{1}@h/x", "output=https://h/?a={1}"),
        *("manifest=http://me:{1}@127.0.0.1:9/m.csv?sig={1}", "manifest=foo://me:{1}@h"),
        *("manifest=/no/https://me:{1}@h/x", 'allowed_roots=["https://me:{1}@[h/?a={1}"]'),
        *("ray.num_cpus=https://me:{1}@h", "label.device=https://me:{1}@h/?a={1}"),
    ],
)
def test_no_refusal_prints_a_secret(
    setting: str, web: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(settings(web, tmp_path) | {"model": str(DEMO / "model")}))
    shown = invoke("label", str(path), "--dry-run", "--set", setting.format(SECRET, IN_URI))
    assert "refused" in shown
    assert traces((shown + caplog.text).encode()) == []


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray's directory. Its sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


@pytest.mark.usefixtures("own_ray")
def test_a_run_on_ray_leaves_no_secret_anywhere(web: str, tmp_path: Path, session: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(settings(web, tmp_path)))
    done = run_command([sys.executable, "-m", "jobs.label", str(path)])
    assert done.returncode == 0, done.stderr
    written = tmp_path / "written"
    (written / "printed.txt").write_text(done.stdout + done.stderr)
    assert any(session.rglob("*.log")), "Ray wrote its logs to another directory"
    assert files_with_secret(session) == []
    assert files_with_secret(written) == []
