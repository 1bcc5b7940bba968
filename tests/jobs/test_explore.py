"""The command that starts the explorer: its address, its refusals, and how it ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import explore
from pipeline.tables import connect
from tests.support.explored import write_output
from tests.support.http import Client

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_output(tmp_path_factory.mktemp("explore"))


@contextmanager
def started(root: str) -> Iterator[tuple["subprocess.Popen[str]", Client]]:
    """An explorer in a process of its own, and a client with its token."""
    command = [sys.executable, "-m", "jobs", "explore", root, "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = process.stderr.readline().strip()
            url, _, token = address.partition("/#token=")
            headers = {"authorization": f"Bearer {token}"}
            yield process, Client(int(url.rpartition(":")[2]), headers)
        finally:
            process.kill()


def test_it_prints_an_address_with_the_token_and_ends_at_ctrl_c(root: str, patience: None) -> None:
    with started(root) as (process, client):
        assert client.get("/api/state").json["n_segments"] == 6
        assert Client(client.port).get("/api/state").status == 401
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "give a --token of your own"),
        (["--seq", "99"], "there is no commit 99"),
        (["--fingerprint", "nothing"], "fits none of"),
    ],
)
def test_what_cannot_start_is_refused(root: str, arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(explore.app, [root, *arguments])
    assert done.exit_code == 2
    assert words in done.output


def test_an_output_that_names_no_audio_is_refused_with_the_option(tmp_path: Path) -> None:
    root = write_output(tmp_path)
    for path in (Path(root) / "_runs").iterdir():
        path.unlink()
    done = CliRunner().invoke(explore.app, [root])
    assert done.exit_code == 2
    assert "name it with --allowed-roots" in done.output


def test_what_was_saved_survives_a_kill(tmp_path: Path, patience: None) -> None:
    root = write_output(tmp_path)
    with started(root) as (process, client):
        body = {
            **{"segment_id": "ann-000000", "revision": 0, "verdict": "fixed", "text": "kept"},
            **{"language": "en", "emotion": "sad", "events": [], "request_id": "request-1"},
        }
        assert client.post("/api/reviews", body).status == 201
        process.kill()
        process.wait(60)
    with started(root) as (process, client):
        (row,) = client.get("/api/segments", where="verdict = 'fixed'").json["rows"]
        assert (row["segment_id"], row["review"]["text"]) == ("ann-000000", "kept")
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    rows = connect(root).sql("SELECT text FROM segment_reviews").fetchall()
    assert rows == [("kept",)]  # the explorer that ended in order has committed it
