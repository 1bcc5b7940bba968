"""Which URIs a manifest may name. test_hostile_inputs has the error rows for the other ones."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.manifest.access import (
    AllowedRoots,
    check_allowed,
    find_disallowed,
    make_allowed_roots,
)

S3 = AllowedRoots(("s3://corpus/speech/",))
WEB = AllowedRoots(("https://host/audio/",), allow_http=True)


def is_allowed(uri: str, allowed: AllowedRoots) -> bool:
    """The answer of both functions, which must be the same."""
    one = check_allowed(uri, allowed) is None
    assert one == (not find_disallowed(pa.array([uri]), allowed))
    return one


@pytest.mark.parametrize(
    "uri",
    [
        "s3://corpus/speech/a.wav",
        "s3a://corpus/speech/a.wav",
        "S3://corpus/speech/a.wav",
        "s3://corpus/speech/a//b.wav",
        "s3://corpus/speech/x/../a.wav",
        "s3://corpus/speech/100%25/a.wav",
        "s3://corpus/speech/a..b/..c.wav",
    ],
)
def test_objects_under_a_root_are_allowed(uri: str) -> None:
    assert is_allowed(uri, S3)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://corpus/speech-secret/a.wav",
        "s3://corpus/speech/../secret/a.wav",
        "s3://corpus/speech/%2e%2e/secret/a.wav",
        "s3://corpus/speech/%2E%2E%2fsecret/a.wav",
        "s3://corpus/speech/%252e%252e/secret/a.wav",
        "s3://corpus/speech/..%2f..%2fother/a.wav",
        "s3://other/speech/a.wav",
        "s3://other/s3://corpus/speech/a.wav",
        "gs://corpus/speech/a.wav",
        "/corpus/speech/a.wav",
        "zip://a.wav::s3://corpus/secret/a.zip",
        "tar://a.wav::tar://b.tar::s3://corpus/speech/c.tar",
        "simplecache::s3://corpus/speech/a.wav",
        "http://host/a.wav",
    ],
)
def test_objects_outside_the_roots_are_not_allowed(uri: str) -> None:
    assert not is_allowed(uri, S3)


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("https://host/audio/a.wav", True),
        ("https://HOST/audio/a.wav?id=1", True),
        ("https://user:pw@host/audio/a.wav", True),
        ("https://host@evil/audio/a.wav", False),
        ("https://host:8080/audio/a.wav", False),
        ("https://host/audio/../private", False),
        ("https://host/audio/%2e%2e/private", False),
        ("https://evil/?x=https://host/audio/a.wav", False),
        ("http://host/audio/a.wav", False),
        ("https://host/audio/x/../a.wav", True),
        ("https://host/audio/a%20b/c.wav", True),
        ("https://host/audio/a%3Fb.wav", True),
        ("https://host/audio/x://../../../../private/secret.wav", False),
        ("https://host/audio/x://%2e%2e/../../../private/secret.wav", False),
        ("https://host/audio/a%3F/..%2f..%2fprivate", False),
        ("https://host/audio/..\\..\\private", False),
        ("https://host/audio/..%5cprivate", False),
        ("https://host/audio/..;a=1/private", False),
        ("https://host/private//../audio/a.wav", False),  # is /private/audio/a.wav
        ("https://host/audio/.\t./private", False),  # clients leave out tabs
        ("https://host/audio", False),
        ("https://host:x/audio/a.wav", False),
        ("https://[host/audio/a.wav", False),
        ("https://ho\u2025st/audio/a.wav", False),
    ],
)
def test_web_addresses_are_compared_by_their_real_host(uri: str, allowed: bool) -> None:
    assert is_allowed(uri, WEB) == allowed


@pytest.mark.parametrize("scheme", ["sftp", "ftp", "smb", "webhdfs", "hdfs", "memory"])
def test_no_scheme_with_directories_leaves_its_root(scheme: str) -> None:
    allowed = make_allowed_roots("/lists/list.csv", [f"{scheme}://host/public"])
    assert is_allowed(f"{scheme}://host/public/a.wav", allowed)
    assert is_allowed(f"{scheme}://host/public/x/../a.wav", allowed)
    for path in ("x://../../../../private/s", "../private/s", "%2e%2e/private/s", "x//../../s"):
        assert not is_allowed(f"{scheme}://host/public/{path}", allowed)


def test_a_root_with_spaces_or_letters_of_any_language_fits_its_addresses() -> None:
    for root in ("https://host/my audio/", "https://host/\u97f3/", "https://host/my%20audio"):
        allowed = make_allowed_roots("/x", [root], allow_http=True)
        assert is_allowed(f"{root.rstrip('/')}/a.wav", allowed)


def test_a_local_name_with_the_sign_of_a_scheme_is_local(tmp_path: Path) -> None:
    allowed = make_allowed_roots(str(tmp_path))
    assert is_allowed(f"{tmp_path}/x:/a.wav", allowed)
    for name in ("x://../../../../../../etc/passwd", "https://host/../../../../etc/passwd"):
        assert not is_allowed(f"{tmp_path}/{name}", allowed)


@pytest.mark.parametrize("name", ["a\0b.wav", "a%00b.wav", "x" * 5000, "\ud800.wav"])
def test_a_name_that_no_file_can_have_is_an_error_of_its_row(name: str, tmp_path: Path) -> None:
    fault = check_allowed(f"{tmp_path}/{name}", make_allowed_roots(str(tmp_path)))
    assert fault is None or fault[0] == "BadUri"


def test_a_message_shows_no_password_of_a_root() -> None:
    allowed = make_allowed_roots(
        "/x", ["sftp://me:s3cr3t@host/a", "https://me:s3cr3t@h/b?t=s3cr3t"]
    )
    assert "s3cr3t" not in explain("s3://other/a.wav", allowed)


def test_a_link_out_of_the_root_is_refused_and_one_inside_is_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    for place in (root / "sub", outside):
        (place / "a.wav").write_bytes(b"x")
    (root / "inner.wav").symlink_to(root / "sub" / "a.wav")
    (root / "outer.wav").symlink_to(outside / "a.wav")
    (root / "tunnel").symlink_to(outside)
    allowed = make_allowed_roots(str(root))
    assert is_allowed(f"{root}/inner.wav", allowed)
    assert not is_allowed(f"{root}/outer.wav", allowed)
    assert not is_allowed(f"{root}/tunnel/a.wav", allowed)
    assert f"links to {outside}/a.wav" in explain(f"{root}/outer.wav", allowed)


def explain(uri: str, allowed: AllowedRoots) -> str:
    fault = check_allowed(uri, allowed)
    assert fault
    return fault[1]


def test_a_root_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    allowed = make_allowed_roots(str(tmp_path / "link"))
    assert is_allowed(f"{tmp_path}/link/a.wav", allowed)
    assert is_allowed(f"{tmp_path}/real/a.wav", allowed)


def test_the_message_says_what_to_set() -> None:
    assert explain("s3://other/x/a.wav", S3) == (
        "s3://other/x/a.wav is outside of s3://corpus/speech/; "
        "to allow it, set allowed_roots=[s3://corpus/speech/, s3://other/]"
    )
    assert "allow_http=true" in explain("http://host/a.wav", S3)
    assert "secret" not in explain("https://me:secret@host/a.wav?sig=secret", WEB)


@pytest.mark.parametrize(
    ("source", "roots"),
    [
        ("s3://bucket/lists/*.parquet", ("s3://bucket/",)),
        ("/data/no/list.csv", ("/data/no/",)),
        ("/data/*/list.csv", ("/data/",)),
        ("/data/part-[0-9].csv", ("/data/",)),
        ("memory://list.csv", ("memory://",)),
    ],
)
def test_the_default_root_is_the_manifests_own(source: str, roots: tuple[str, ...]) -> None:
    assert make_allowed_roots(source).roots == roots


def test_a_directory_is_its_own_root_and_relative_ones_start_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        make_allowed_roots(str(tmp_path)).roots
        == make_allowed_roots(".").roots
        == (f"{tmp_path}/",)
    )
    assert make_allowed_roots("list.csv", ["audio", "/", "s3://b"]).roots == (
        f"{tmp_path}/audio/",
        "/",
        "s3://b/",
    )


def test_http_without_a_web_root_allows_every_public_host() -> None:
    anywhere = make_allowed_roots("/data/list.csv", allow_http=True)
    assert is_allowed("https://any.host/a.wav", anywhere)
    named = make_allowed_roots("/data/list.csv", ["https://one.host/"], allow_http=True)
    assert not is_allowed("https://any.host/a.wav", named)
    assert not is_allowed("https://one.host/a.wav", make_allowed_roots("/x", ["https://one.host/"]))


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
def test_a_member_is_allowed_where_its_archive_is(kind: str) -> None:
    assert is_allowed(f"{kind}://../../a.wav::s3://corpus/speech/a.zip", S3)
    assert not is_allowed(f"{kind}://a.wav::s3://corpus/speech/../secret/a.zip", S3)


def test_a_chain_of_filesystems_is_allowed_if_it_is_a_root() -> None:
    chain: Any = "zip://a.wav::s3://corpus/b.zip"
    allowed = AllowedRoots(("zip://a.wav::s3://corpus/",))
    assert is_allowed(chain, allowed)
    for path in ("../secret/b.zip", "%2e%2e/secret/b.zip"):
        assert not is_allowed(f"zip://a.wav::s3://corpus/{path}", allowed)
