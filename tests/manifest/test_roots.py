"""Roots of local corpora, and directories beside them whose names start with the same letters."""

from pathlib import Path

import pytest

from pipeline.manifest.access import canonical_uri, make_allowed_roots
from tests.manifest.test_access import is_allowed


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("corpus", "corpus-secret", "corp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").write_bytes(b"x")
    return tmp_path / "corpus"


def test_a_directory_whose_name_begins_like_the_root_is_outside(corpus: Path) -> None:
    for given in (str(corpus), f"{corpus}/"):
        allowed = make_allowed_roots("/lists/list.csv", [given])
        assert is_allowed(f"{corpus}/a.wav", allowed)
        assert not is_allowed(f"{corpus}-secret/a.wav", allowed)
        assert not is_allowed(f"{corpus.parent}/corp/a.wav", allowed)
        assert not is_allowed(f"{corpus.parent}/a.wav", allowed)
        assert not is_allowed("/etc/passwd", allowed)


def test_a_link_to_a_directory_with_a_similar_name_is_refused(corpus: Path) -> None:
    (corpus / "tunnel").symlink_to(f"{corpus}-secret")
    (corpus / "b.wav").symlink_to(f"{corpus}-secret/a.wav")
    allowed = make_allowed_roots(str(corpus))
    assert not is_allowed(f"{corpus}/tunnel/a.wav", allowed)
    assert not is_allowed(f"{corpus}/b.wav", allowed)


def test_dots_in_a_local_path_are_resolved(corpus: Path) -> None:
    allowed = make_allowed_roots(str(corpus))
    assert is_allowed(f"{corpus}/x/../a.wav", allowed)
    assert not is_allowed(f"{corpus}/../corpus-secret/a.wav", allowed)
    assert not is_allowed(f"{corpus}/%2e%2e/corpus-secret/a.wav", allowed)


def test_the_root_directory_allows_every_local_file(corpus: Path) -> None:
    allowed = make_allowed_roots("/lists/list.csv", ["/"])
    assert is_allowed(f"{corpus}-secret/a.wav", allowed)
    assert not is_allowed("s3://bucket/a.wav", allowed)


def test_similar_roots_on_the_web_are_different_roots() -> None:
    allowed = make_allowed_roots("/x", ["https://host/audio"], allow_http=True)
    assert is_allowed("https://host/audio/a.wav", allowed)
    assert not is_allowed("https://host/audio-secret/a.wav", allowed)
    assert not is_allowed("https://host.evil/audio/a.wav", allowed)


def test_every_address_has_one_spelling() -> None:
    assert canonical_uri("file:///data/a.wav") == "/data/a.wav"
    assert canonical_uri("file://localhost/data/a.wav") == "/data/a.wav"
    assert canonical_uri("b/../a.wav", "/data") == "/data/a.wav"
    assert canonical_uri("/data//b/./a.wav") == "/data/b/a.wav"
    assert canonical_uri("a.wav", "s3://bucket/x") == "s3://bucket/x/a.wav"
    assert canonical_uri("s3://bucket/x/../a.wav") == "s3://bucket/x/../a.wav"
