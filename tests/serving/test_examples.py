"""The examples of the service's README, run as they are against a service at another port."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.web.guard import SERVE_TOKEN
from tests.project.test_docs import blocks_of
from tests.serving.test_app import TOKEN, serving
from tests.support.demo import ROOT, demo_config

ADDRESS = "http://127.0.0.1:8000"
EXAMPLES = {
    block.language: block.text
    for block in blocks_of(ROOT / "pipeline" / "serving" / "README.md")
    if block.mark == "<!-- needs a server -->"
}
HEARD = "2072."
WHOLE = ("segment.whole_below_s=30",)  # as configs/demo.yaml has it


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(demo_config(tmp_path_factory.mktemp("examples"), *WHOLE)) as (found, _):
        yield found


def run(program: str, language: str, url: str, *options: str, token: str = "") -> str:
    """What the example prints. Skips the test where the program is not installed."""
    path = shutil.which(program)
    if not path:
        pytest.skip(f"{program} is not on this machine")
    text = EXAMPLES[language]
    assert ADDRESS in text
    done = subprocess.run(
        [path, *options],
        input=text.replace(ADDRESS, url),
        cwd=ROOT,
        env=os.environ | {SERVE_TOKEN: token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example(url: str) -> None:
    assert run(sys.executable, "python", url, "-") == f"{HEARD} happy\n"


def test_the_curl_example_with_and_without_a_token(url: str, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not on this machine")
    answer = json.loads(run("bash", "bash", url))
    assert (answer["text"], answer["segments"][0]["emotion"]) == (HEARD, "happy")
    with serving(demo_config(tmp_path, *WHOLE), frozenset({TOKEN})) as (closed, _):
        assert json.loads(run("bash", "bash", closed, token=TOKEN))["text"] == HEARD


def test_the_node_example(url: str) -> None:
    printed = run("node", "js", url, "--input-type=module", "-")
    events = [
        json.loads(line.removeprefix("data: "))
        for line in printed.splitlines()
        if line.startswith("data: ")
    ]
    assert [event["type"] for event in events] == [
        "transcript.text.delta",
        "transcript.text.done",
    ]
    assert events[-1]["text"] == HEARD
    assert events[0]["segment"]["emotion"] == "happy"
