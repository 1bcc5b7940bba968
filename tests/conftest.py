"""Fixtures that several tests share."""

from collections.abc import Iterator

import pytest

from tests.s3_server import S3, serve_s3


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server of this test session; `s3.new_bucket()` gives an empty root."""
    with serve_s3() as server:
        yield server
