"""One output and one explorer for all tests of this folder that do not change it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.explorer.app import create_app
from pipeline.explorer.settings import Settings
from pipeline.manifest.access import make_allowed_roots
from tests.support.explored import write_output
from tests.support.http import Client, serving

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_output(tmp_path_factory.mktemp("explored"))


def settings_for(root: str, **changes: object) -> Settings:
    allowed = make_allowed_roots("", [str(Path(root).parent / "audio")])
    values: dict[str, object] = {
        "root": root,
        "allowed": allowed,
        "reviewer": "ann",
        "token": TOKEN,
    }
    return Settings(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def client(root: str) -> Iterator[Client]:
    with serving(create_app(settings_for(root)), {"authorization": f"Bearer {TOKEN}"}) as found:
        yield found
