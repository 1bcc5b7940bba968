"""What is requested for an address, and which paths a server may make of it."""

from pathlib import Path

import pytest

from pipeline.storage.address import has_dots, local_path, readings, requested
from pipeline.storage.store import filesystem_for


@pytest.mark.parametrize(
    ("uri", "request_for"),
    [
        ("https://cdn/public/x://../../../../private/s.wav", "https://cdn/private/s.wav"),
        ("https://cdn/public/%2e%2e/private", "https://cdn/private"),
        ("https://cdn/secret//../public/a", "https://cdn/secret/public/a"),
        ("HTTPS://CDN/a b?x=1", "https://cdn/a%20b?x=1"),
        ("sftp://h/public/x://../../../../private/s.wav", "sftp://h/private/s.wav"),
        ("sftp://h/public//a/./b/", "sftp://h/public//a/b/"),
        ("ftp://h/a/..", "ftp://h/"),
        # Names of objects, not paths
        ("S3://b/x/../a.wav", "s3://b/x/../a.wav"),
        ("s3a://b/x//a.wav", "s3://b/x//a.wav"),
        ("gs://b/./a.wav", "gs://b/./a.wav"),
        ("/data/x://a.wav", "/data/x://a.wav"),
        ("zip://a::s3://b/c", "zip://a::s3://b/c"),
    ],
)
def test_the_address_that_is_requested(uri: str, request_for: str) -> None:
    assert requested(uri) == request_for
    assert requested(request_for) == request_for  # so a second reading changes nothing


def test_what_is_opened_is_what_is_requested() -> None:
    for uri in ("https://cdn/public/x://../../../../private/s.wav", "memory://a/../../b/./c"):
        assert filesystem_for(uri)[1] == requested(uri)
    assert filesystem_for("S3a://bucket/x/../a")[1] == "bucket/x/../a"


@pytest.mark.parametrize(
    ("path", "reading"),
    [
        *(("/a/../b", "/b"), ("/a/%2e%2e/b", "/b"), ("/a/%252E%252e%252fb", "/b")),
        *(("/a/..\\b", "/b"), ("/a/..;x/b", "/b"), ("/a//../b", "/a/b"), ("/a//../b", "/b")),
        *(("/a%3F/..%2f..%2fb", "/b"), ("/a/..", "/"), ("/a/b", "/a/b")),
    ],
)
def test_a_server_may_read_a_path_in_several_ways(path: str, reading: str) -> None:
    assert reading in set(readings(path))


def test_dots_are_found_in_every_spelling() -> None:
    assert has_dots("zip://a::s3://b/%252e%252e/c")
    assert has_dots("/a/.")
    assert not has_dots("/a..b/...c/.d")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        *(("file:///x/a.wav", "/x/a.wav"), ("file://localhost/x", "/x"), ("file:/x", "/x")),
        *(("FILE://LOCALHOST/x", "/x"), ("local:///x", "/x"), ("file:////x", "/x")),
        *(("file:///x/a%20b.wav", "/x/a b.wav"), ("/x", None), ("s3://b/x", None)),
        *(("file:x", None), ("files:/x", None)),
    ],
)
def test_the_path_of_a_file_uri(uri: str, path: str | None) -> None:
    assert local_path(uri) == path
    if path is not None:
        assert filesystem_for(uri)[1] == path


def test_a_file_that_has_a_percent_sign_in_its_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "a%20b.wav").touch()
    assert local_path(f"file://{tmp_path}/a%20b.wav") == f"{tmp_path}/a%20b.wav"


def test_a_file_on_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"machine 'server'.* file:///server/x"):
        local_path("file://server/x")
