"""The bytes of members: in few requests, never more than is asked for, and each error alone."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.archives.listing import list_archive
from pipeline.archives.opened import Place, version_of_bytes
from pipeline.archives.read import read_members
from pipeline.archives.tar import neighbours
from pipeline.audio.sources import open_source
from pipeline.config import AudioConfig
from pipeline.errors import RecordingError
from pipeline.storage.address import member_uri
from tests.support.shards import WRITERS, demo_files, write_tar, write_zip

MOST = 1 << 30
MiB = 1 << 20


def places_of(uri: str) -> list[Place]:
    listing = list_archive(uri, {})
    assert listing is not None
    columns = ["name", "start", "bytes"]
    return [Place(*row.values()) for row in listing.members.select(columns).to_pylist()]


def read(uri: str, places: Sequence[Place], max_bytes: int = MOST) -> list[bytes | str]:
    """The bytes of each member, or its error_type."""
    found: list[bytes | str] = []
    for item in read_members(uri, places, {}, max_bytes):
        if isinstance(item, RecordingError):
            found.append(item.kind)
            continue
        with item.closing, item.file:
            data = item.file.read()
            assert item.size == len(data)
            found.append(data)
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_a_resumed_run_reads_only_what_it_asks_for(name: str, tmp_path: Path) -> None:
    files = demo_files(5)
    uri = str(WRITERS[name](tmp_path / name, files))
    places = places_of(uri)
    assert read(uri, places) == [*files.values()]
    assert read(uri, places[1::2]) == [*files.values()][1::2]


@pytest.mark.parametrize("name", WRITERS)
def test_a_member_is_opened_by_its_address_alone(name: str, tmp_path: Path) -> None:
    files = demo_files(3)
    path = WRITERS[name](tmp_path / name, files)
    kind = "parquet" if name.endswith("parquet") else "zip" if name.endswith("zip") else "tar"
    for one, data in files.items():
        with open_source(member_uri(kind, one, str(path)), AudioConfig(), {}) as source:
            assert source.read() == data
    with (
        pytest.raises(RecordingError, match=r"has no 'gone\.wav'"),
        open_source(member_uri(kind, "gone.wav", str(path)), AudioConfig(), {}),
    ):
        pass


@pytest.mark.parametrize("name", [name for name in WRITERS if "bz2" not in name])
def test_a_large_member_is_read_in_pieces(name: str, tmp_path: Path) -> None:
    """More than 32 MB: from its place in the archive, or through a temporary file."""
    files = {"a.wav": b"a", "b.wav": np.random.default_rng(0).bytes(33 * MiB), "c.wav": b"c"}
    uri = str(WRITERS[name](tmp_path / name, files))
    places = places_of(uri)
    assert read(uri, places) == [*files.values()]
    assert read(uri, places, 32 * MiB) == [b"a", "TooLarge", b"c"]
    if "zip" not in name:
        (item,) = read_members(uri, places[1:2], {}, MOST)
        assert not isinstance(item, RecordingError)
        item.closing.close()
        assert item.version == version_of_bytes(files["b.wav"])


def test_neighbours_share_a_request_of_8_mib() -> None:
    def place(start: int, size: int) -> Place:
        return Place("", start, size)

    near = [place(512, MiB), place(2 * MiB, MiB), place(4 * MiB - 1, MiB)]
    far = [place(7 * MiB, 1), place(12 * MiB, 40 * MiB), place(53 * MiB, 1)]
    assert [*neighbours(near)] == [near]
    assert [*neighbours(far)] == [[one] for one in far]
    row = [place(n * MiB, MiB) for n in range(20)]
    assert [len(group) for group in neighbours(row)] == [8, 8, 4]
    assert [*neighbours([])] == []


def test_a_tar_in_a_store_takes_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 clips of 3 s: 24 ranges instead of 2,000 objects."""
    clips = {f"{n:04d}.wav": bytes([n % 251]) * 96_044 for n in range(2_000)}
    file = io.BytesIO()
    import tarfile

    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in clips.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    MemoryFileSystem().pipe_file("/shards/a.tar", file.getvalue())
    asked: list[int] = []
    whole = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: int, end: int, **options: Any) -> bytes:
        asked.append(end - start)
        data: bytes = whole(self, path, start=start, end=end, **options)
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    uri = "memory://shards/a.tar"
    assert read(uri, places_of(uri)) == [*clips.values()]
    assert len(asked) == 25  # and one for the first header
    assert max(asked) <= 8 * MiB + 512
    MemoryFileSystem().rm("/shards/a.tar")


def test_a_damaged_member_of_a_zip_fails_alone(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", demo_files(3), zipfile.ZIP_STORED)
    places = places_of(str(path))
    data = bytearray(path.read_bytes())
    data[places[1].start + 2_000] ^= 0xFF
    path.write_bytes(data)
    found = read(str(path), places)
    assert found[1] == "Undecodable"
    assert [found[0], found[2]] == [*demo_files(3).values()][::2]


def test_a_zip_that_unpacks_to_more_than_allowed_is_not_unpacked(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"bomb.wav": bytes(200 * MiB), "a.wav": b"a"})
    assert path.stat().st_size < MiB
    assert read(str(path), places_of(str(path)), 100 * MiB) == ["TooLarge", b"a"]


def test_an_empty_member_is_an_error_of_its_own(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        uri = str(write(tmp_path / name, {"a.wav": b"", "b.wav": b"b"}))
        assert read(uri, places_of(uri)) == ["EmptyFile", b"b"], name


def test_an_archive_that_is_gone_fails_every_member(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", demo_files(2))
    places = places_of(str(path))
    path.unlink()
    assert read(str(path), places) == ["FileMissing", "FileMissing"]


@pytest.mark.parametrize("name", WRITERS)
def test_an_archive_that_was_rewritten_is_never_mistaken(name: str, tmp_path: Path) -> None:
    files = demo_files(3)
    path = WRITERS[name](tmp_path / name, files)
    places = places_of(str(path))
    WRITERS[name](path, {"0.wav": b"0" * 1000, **files})
    for data, expected in zip(read(str(path), places), files.values(), strict=True):
        # Of parquet, a row is a row: its bytes are other bytes, and get another version.
        assert data == "ChangedWhileRead" or name.endswith("parquet") or data == expected
