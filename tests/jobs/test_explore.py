"""The command that starts the explorer: its address, its refusals, and how it ends."""

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import explore
from tests.support.explored import write_output

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_output(tmp_path_factory.mktemp("explore"))


def test_it_prints_an_address_with_the_token_and_ends_at_ctrl_c(root: str, patience: None) -> None:
    command = [sys.executable, "-m", "jobs", "explore", root, "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = process.stderr.readline().strip()
        url, _, token = address.partition("/#token=")
        request = urllib.request.Request(
            f"{url}/api/state", headers={"authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert b'"n_segments":6' in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
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
