"""Fixtures that several tests share, and the markers that follow from them.

No test is marked by hand: what it needs says what it is (`MARKS`), and `slow` is whatever starts
Ray, FunASR, a browser or Spark, kills processes, or asks for `patience`. `-m "not slow"` is the
fast set of CONTRIBUTING.md.

CI runs what needs no Ray in two processes, each file with its fixtures in one of them, and then
what needs Ray in one process, so that Ray is started once and has the machine for itself.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from pipeline.config import load_config
from pipeline.storage.store import Store, open_store
from pipeline.tables import Snapshot, open_snapshot
from tests.support.chromium import BINARY
from tests.support.demo import ROOT, demo_config, execute
from tests.support.s3_server import S3, serve_s3

MARKS = {
    "ray": {
        *("ray_session", "labelled", "labelled_root", "head", "demo_job", "changed"),
        *("own_ray", "start_driver"),
    },
    "s3": {"s3", "wire", "shared", "output"},
    "funasr": {"funasr"},
    "kill": {"start_driver", "kills"},
    "browser": {"chromium"},
    "spark": {"spark"},
    "slow": {"patience"},
}
_SLOW = {"ray", "funasr", "kill", "browser", "spark"}

# The same examples on every machine of CI, and no time limit for one: machines differ by a factor
# of three. `HYPOTHESIS_PROFILE=explore` looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test by the fixtures that it uses."""
    used = set(getattr(item, "fixturenames", ()))
    marks = {mark for mark, fixtures in MARKS.items() if used & fixtures}
    for mark in marks | ({"slow"} if marks & _SLOW else set()):
        item.add_marker(mark)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Take back the threads that a test gives torch: two processes of them wait for each other."""
    yield
    if (torch := sys.modules.get("torch")) and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def funasr() -> Any:
    """FunASR, the reference: 11 s and 1 GB to import, once for the session."""
    import funasr

    return funasr


@pytest.fixture(scope="session")
def chromium() -> str:
    """A real browser; without one the test is skipped."""
    if not BINARY:
        pytest.skip("no Chromium on this machine; `apt-get install chromium` installs it")
    return BINARY


@pytest.fixture(scope="session")
def spark() -> None:
    """What Spark needs; without it the test is skipped."""
    if not shutil.which("java"):
        pytest.skip("Spark needs Java 17")


@pytest.fixture
def patience() -> None:
    """For tests that take over 20 s without Ray: a day of audio, a full-size model."""


@pytest.fixture
def kills() -> None:
    """For tests that kill processes at random moments."""


@pytest.fixture
def own_ray() -> None:
    """For tests that start a Ray of their own, in a process of their own."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty output on the local disk."""
    return open_store(str(tmp_path / "root"))


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server of this test session; `s3.new_bucket()` gives an empty root."""
    with serve_s3() as server:
        yield server


@pytest.fixture(scope="session")
def ray_session(s3: S3) -> Iterator[None]:
    """One Ray for all tests that do not need to kill theirs; its workers know the keys of `s3`."""
    from pipeline.flow import session

    with session.ray_session(load_config(ROOT / "configs" / "demo.yaml").ray):
        yield


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace FlashAttention's kernel for clips of any length, which only GPUs have."""
    from torch.nn.attention import varlen

    from tests.support.kernels import varlen_attn

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)


@pytest.fixture(scope="session")
def labelled_root(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the tables of the demo corpus lie, labelled once for all tests that only look."""
    root = tmp_path_factory.mktemp("labelled")
    execute(demo_config(root))
    return str(root)


@pytest.fixture(scope="session")
def labelled(labelled_root: str) -> Snapshot:
    """The demo corpus, labelled once for all tests that only look at it."""
    return open_snapshot(labelled_root)
