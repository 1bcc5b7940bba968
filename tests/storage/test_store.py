import errno
import io
import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StoreError
from pipeline.storage.probe import probe
from pipeline.storage.store import LocalStore, Store, filesystem_for, open_store, read_stream
from tests.support.s3_server import S3


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "root"))
    s3: S3 = request.getfixturevalue("s3")
    return open_store(f"{s3.new_bucket()}/a root", s3.storage_options)


def test_an_object_that_was_put_can_be_read(store: Store) -> None:
    store.put("a/b.bin", b"first")
    store.put("a/b.bin", b"second")
    assert store.get("a/b.bin") == b"second"


def test_a_missing_key_is_a_file_not_found(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.get("a/b.bin")


def test_put_if_absent_keeps_the_first_bytes(store: Store) -> None:
    assert store.put_if_absent("log/1", b"mine")
    assert not store.put_if_absent("log/1", b"theirs")
    assert store.get("log/1") == b"mine"


def test_put_if_absent_recognises_its_own_bytes(store: Store) -> None:
    store.put_if_absent("log/1", b"mine")
    assert store.put_if_absent("log/1", b"mine")


def test_one_of_many_writers_of_a_key_wins(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        for turn in range(5):
            data = [f"{turn} {writer}".encode() for writer in range(8)]
            won = list(pool.map(store.put_if_absent, [f"log/{turn}"] * 8, data))
            assert won.count(True) == 1
            assert store.get(f"log/{turn}") == data[won.index(True)]


def test_a_list_is_sorted_recursive_and_relative_to_the_root(store: Store) -> None:
    for key in ("log/2", "log/1", "log/deep/3", "logs/4", "other"):
        store.put(key, b"x")
    assert list(store.list("log/")) == ["log/1", "log/2", "log/deep/3"]


def test_a_list_of_nothing_is_empty(store: Store) -> None:
    assert list(store.list("log/")) == []


def test_a_list_skips_directory_markers(s3: S3) -> None:
    store = open_store(s3.new_bucket(), s3.storage_options)
    store.put("log/", b"")  # Arrow and web consoles create such objects
    store.put("log/1", b"x")
    assert list(store.list("log/")) == ["log/1"]


def test_a_list_skips_temporary_files_of_crashed_writers(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("log/1", b"x")
    (tmp_path / "log" / ".2.0123.tmp").write_bytes(b"torn")
    assert list(store.list("log/")) == ["log/1"]


def test_deleting_a_missing_object_is_no_error(store: Store) -> None:
    store.put("a", b"x")
    store.delete(["a", "b"])
    assert list(store.list("")) == []


def test_unusual_characters_in_keys_are_kept(store: Store) -> None:
    for name in ("a b", "50%", "x+y", "caf\u00e9", "c=d", "q'r", "[1]", "a*"):
        store.put(f"odd/{name}", name.encode())
        assert store.get(f"odd/{name}") == name.encode()
        assert store.put_if_absent(f"odd/{name}", b"other") is False


def test_a_uri_can_be_read_with_the_filesystem_of_the_store(store: Store) -> None:
    store.put("a/b.bin", b"0123456789")
    assert store.filesystem.cat_file(store.uri("a/b.bin"), start=2, end=5) == b"234"


def test_filesystem_for_reads_what_a_store_wrote(store: Store, s3: S3) -> None:
    store.put("a.wav", b"audio")
    filesystem, path = filesystem_for(store.uri("a.wav"), s3.storage_options)
    assert filesystem.cat_file(path) == b"audio"


def test_filesystem_for_leaves_local_paths_plain(tmp_path: Path) -> None:
    plain = str(tmp_path / "a b%20.wav")
    assert filesystem_for(plain)[1] == plain
    assert filesystem_for(f"file://{plain}")[1] == str(tmp_path / "a b .wav")


def test_filesystem_for_sees_what_others_wrote_after_a_listing(s3: S3) -> None:
    root = s3.new_bucket()
    store = open_store(root, s3.storage_options)
    store.put("audio/1.wav", b"x")
    filesystem, path = filesystem_for(f"{root}/audio", s3.storage_options)
    assert len(filesystem.ls(path)) == 1
    store.put("audio/2.wav", b"x")
    assert len(filesystem.ls(path)) == 2


@pytest.mark.parametrize("scheme", ["file://", "file://localhost", "file:", "FILE://", "local://"])
def test_every_spelling_of_a_local_output_is_one_directory(scheme: str, tmp_path: Path) -> None:
    assert open_store(f"{scheme}{tmp_path}/out").root == open_store(f"{tmp_path}/out").root


def test_spellings_of_s3_are_one_store(s3: S3) -> None:
    root = s3.new_bucket()
    other = root.replace("s3://", "S3A://")
    open_store(other, s3.storage_options).put("a", b"x")
    assert open_store(root, s3.storage_options).get("a") == b"x"


@pytest.mark.parametrize(
    "root",
    [
        *("file:x", "file://server/x", "s3:/bucket/x", "s3:bucket", " s3://bucket/x", "gs://b/x"),
        *("https:/h/x", "s3://", "s3:///x", "s3://key:s3cr3t@bucket/x", "x/s3://bucket/x", "az:/c"),
    ],
)
def test_a_misspelled_output_makes_no_directory(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError) as caught:
        open_store(root)
    assert "s3cr3t" not in str(caught.value)


def test_a_directory_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    assert open_store(f"{tmp_path}/run:1").root == f"{tmp_path}/run:1"


def test_a_directory_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(str(tmp_path))
    store.put("_log/a/1.json", b"x")
    assert store.list("_log/missing") == []
    scandir = os.scandir

    def fail(path: str) -> Any:
        if str(path).endswith("/a"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", fail)
    for prefix in ("_log/", "_log/a", ""):
        with pytest.raises(OSError, match=r"Input/output error: .*_log/a"):
            store.list(prefix)


def test_a_stream_without_a_length_is_read_to_its_end_or_its_limit() -> None:
    for limit, expected in ((10_000, 5_000), (5_000, 5_000), (100, 101)):
        with read_stream(io.BytesIO(b"x" * 5_000), limit) as (file, n_bytes):
            assert n_bytes == len(file.read()) == expected


def test_other_schemes_cannot_hold_tables() -> None:
    with pytest.raises(StoreError, match="ftp://host/x: cannot commit here"):
        open_store("ftp://host/x")


def test_the_probe_leaves_no_objects_in_a_correct_store(store: Store) -> None:
    probe(store)
    assert list(store.list("")) == []


def test_the_probe_refuses_a_store_that_ignores_conditions(s3: S3) -> None:
    store = open_store(s3.new_bucket("lying"), s3.storage_options)
    with pytest.raises(StoreError, match=r"lying-.* overwrote an existing object"):
        probe(store)


def test_the_probe_names_a_missing_bucket(s3: S3) -> None:
    with pytest.raises(StoreError, match="s3://nowhere: cannot be read and written"):
        probe(open_store("s3://nowhere", s3.storage_options))


def test_the_probe_names_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="check that the bucket or directory exists"):
        probe(open_store(str(tmp_path / "file" / "root")))


def test_a_write_whose_answer_was_lost_counts_as_written(s3: S3) -> None:
    store = open_store(s3.new_bucket("lost"), s3.storage_options)
    assert store.put_if_absent("log/1", b"mine")
    assert not store.put_if_absent("log/1", b"theirs")


@pytest.mark.parametrize("fault", ["busy", "bare", "flaky"])
def test_put_if_absent_handles_the_answers_of_real_stores(s3: S3, fault: str) -> None:
    store = open_store(s3.new_bucket(fault), s3.storage_options)
    assert store.put_if_absent("log/1", b"mine")
    assert not store.put_if_absent("log/1", b"theirs")
    assert store.get("log/1") == b"mine"


@pytest.mark.parametrize("write", [LocalStore.put, LocalStore.put_if_absent])
def test_a_full_disk_leaves_nothing_under_the_name(
    tmp_path: Path, write: Callable[[LocalStore, str, bytes], object]
) -> None:
    store = LocalStore(str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            write(store, "a/b.bin", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
