"""Fixtures that several tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.storage.store import Store, open_store
from pipeline.tables import Snapshot, open_snapshot
from tests.support.demo import ROOT, demo_config, execute
from tests.support.s3_server import S3, serve_s3


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
