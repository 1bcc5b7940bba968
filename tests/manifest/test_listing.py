"""Directories and globs: links, names, unreadable parts, our own outputs, what is left out."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from pipeline.archives.endings import AUDIO_SUFFIXES
from pipeline.audio import ffmpeg
from pipeline.errors import ManifestError
from pipeline.manifest.read import Manifest, read_manifest

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    MemoryFileSystem.store.clear()


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(manifest: Manifest, root: Path) -> list[str]:
    return [uri.removeprefix(f"{root}/") for uri in manifest.table["uri"].to_pylist()]


# ------------------------------------------------------------------------------- suffixes


def test_every_ending_that_the_decoders_read_is_listed() -> None:
    """But playlists and descriptions of other files, and endings of other kinds of files."""
    other = {"apl", "ism", "psp", "sf", "avif", "heic", "heif", "mks", "mod"}
    known: set[str] = set()
    for name in ffmpeg._FORMATS.split(","):
        if name in av.formats_available:
            known |= set(av.ContainerFormat(name, "r").extensions)
    missing = {f".{ending}" for ending in known - other} - set(AUDIO_SUFFIXES)
    assert not missing


def test_what_a_listing_leaves_out_is_counted_by_ending(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.MP2", "c.m4b", "d.ape", "e.dsf", "f.WMV", "g.3g2", "h.snd")
    touch(tmp_path, "x.txt", "sub/y.TXT", "z.json", "Makefile", ".hidden.wav", ".git/k.wav")
    manifest = read_manifest(str(tmp_path), {})
    assert manifest.n_rows == 8
    text = "\n".join(manifest.notes)
    assert "left out 4 files that do not have the name of audio: .txt 2, .json 1, others 1" in text
    assert "left out 1 files that are hidden" in text


def test_a_directory_of_audio_alone_says_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    assert read_manifest(str(tmp_path), {}).notes == []


# ---------------------------------------------------------------------------------- links


def test_a_linked_directory_inside_the_roots_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "corpus/a.wav", "disk2/b.wav", "disk2/sub/c.wav")
    (tmp_path / "corpus" / "more").symlink_to(tmp_path / "disk2")
    (tmp_path / "corpus" / "again").symlink_to(tmp_path / "disk2")
    manifest = read_manifest(str(tmp_path / "corpus"), {}, [str(tmp_path)])
    found = names(manifest, tmp_path / "corpus")
    assert found == ["a.wav", "again/b.wav", "again/sub/c.wav"]
    assert set(manifest.table["error_type"].to_pylist()) == {""}


def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "sub/b.wav")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "sub" / "twin").symlink_to("../sub")
    assert names(read_manifest(str(tmp_path), {}), tmp_path) == ["a.wav", "sub/b.wav"]


def test_a_linked_directory_outside_the_roots_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "corpus/a.wav", "other/b.wav")
    (tmp_path / "corpus" / "link").symlink_to(tmp_path / "other")
    manifest = read_manifest(str(tmp_path / "corpus"), {})
    assert names(manifest, tmp_path / "corpus") == ["a.wav"]
    (note,) = manifest.notes
    assert "left out 1 links to directories outside the allowed roots" in note
    assert str(tmp_path / "corpus" / "link") in note


def test_a_link_whose_target_is_gone_is_a_row(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "gone.wav")
    assert names(read_manifest(str(tmp_path), {}), tmp_path) == ["a.wav", "b.wav"]


def test_a_glob_follows_linked_directories(tmp_path: Path) -> None:
    touch(tmp_path, "corpus/one/a.wav", "disk2/b.wav")
    (tmp_path / "corpus" / "two").symlink_to(tmp_path / "disk2")
    for pattern in ("corpus/*/*.wav", "corpus/**/*.wav", "corpus/**"):
        manifest = read_manifest(f"{tmp_path}/{pattern}", {}, [str(tmp_path)])
        assert names(manifest, tmp_path) == ["corpus/one/a.wav", "corpus/two/b.wav"]


def test_a_glob_of_directories_says_what_to_do(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.wav", "two/b.wav")
    with pytest.raises(ManifestError, match="matches only directories"):
        read_manifest(f"{tmp_path}/*", {})


# ---------------------------------------------------------------------------------- names


def test_a_name_that_is_no_utf8_is_an_error_row(tmp_path: Path) -> None:
    touch(tmp_path, "good.wav", "caf\\xe9.wav")
    for name in (b"caf\xe9.wav", b"caf\xe8.wav"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
    table = read_manifest(str(tmp_path), {}).table
    bad = [row for row in table.to_pylist() if row["error_type"]]
    assert (table.num_rows, len(bad)) == (4, 2)
    assert {row["error_type"] for row in bad} == {"BadUri"}
    assert all("is not UTF-8; rename the file" in row["error_message"] for row in bad)
    assert all("caf\\x" in row["recording_id"] for row in bad)


def test_the_id_of_a_refused_file_does_not_move(tmp_path: Path) -> None:
    touch(tmp_path, "b\nc.wav", "d.wav")
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9.wav"))).write_bytes(b"x")

    def refused() -> dict[str, str]:
        rows = read_manifest(str(tmp_path), {}).table.to_pylist()
        return {row["recording_id"]: row["error_message"] for row in rows if row["error_type"]}

    before = refused()
    touch(tmp_path, "a.wav", "aa.wav")
    (tmp_path / "d.wav").unlink()
    assert refused() == before
    assert len(before) == 2


@pytest.mark.parametrize(
    "name",
    ["a%00b.wav", "n" * 300 + ".wav", "x/" * 2500 + "a.wav", "loop/a.wav", "file:///x/a%00b.wav"],
)
def test_one_odd_row_does_not_end_the_manifest(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "good.wav")
    (tmp_path / "loop").symlink_to("loop")
    rows = [{"audio": "good.wav"}, {"audio": name}, {"audio": "good.wav", "offset_s": 1}]
    (tmp_path / "list").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_manifest(str(tmp_path / "list"), {}).table
    assert table.num_rows == 3
    first, _, third = table["error_type"].to_pylist()
    assert (first, third) == ("", "")


def test_a_file_uri_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(
        f"audio\nfile://{tmp_path}/a%20b.wav\nfile:{tmp_path}/c%C3%A9.wav\nfile:///x/%E9.wav\n"
    )
    first, second, bad = read_manifest(str(tmp_path / "list"), {}).table.to_pylist()
    assert (first["uri"], second["uri"]) == (f"{tmp_path}/a b.wav", f"{tmp_path}/cé.wav")
    assert bad["error_type"] == "BadUri"


def test_a_listed_name_with_percent_signs_is_taken_as_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "a%20b.wav", "100% sure.wav")
    assert names(read_manifest(str(tmp_path), {}), tmp_path) == ["100% sure.wav", "a%20b.wav"]


# ------------------------------------------------------------------------- unreadable parts


@pytest.mark.skipif(IS_ROOT, reason="root can list everything")
def test_a_directory_without_permission_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "closed/b.wav")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(ManifestError, match=r"closed cannot be listed \(Permission denied\)"):
            read_manifest(str(tmp_path), {})
    finally:
        (tmp_path / "closed").chmod(0o755)


@pytest.mark.parametrize("pattern", ["", "/*/*.wav", "/**/*.wav"])
def test_an_error_of_a_listing_is_an_error(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.wav", "closed/b.wav", "open/c.wav")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ManifestError, match="closed cannot be listed"):
        read_manifest(f"{tmp_path}{pattern}", {})


class _HalfDown(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A filesystem that refuses to list one of its directories."""

    protocol = "halfdown"

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if "closed" in path:
            raise PermissionError("403 Forbidden")
        directories = {
            "": ["corpus"],
            "corpus": ["corpus/open", "corpus/closed"],
            "corpus/open": [],
        }
        if path not in directories:
            raise FileNotFoundError(path)
        files = [{"name": f"{path}/a.wav", "type": "file", "size": 1}]
        return files + [{"name": name, "type": "directory"} for name in directories[path]]


@pytest.mark.parametrize("pattern", ["corpus", "corpus/*/*.wav", "corpus/**"])
def test_an_error_of_another_filesystem_is_an_error_too(pattern: str) -> None:
    fsspec.register_implementation("halfdown", _HalfDown, clobber=True)
    with pytest.raises(ManifestError, match="403"):
        read_manifest(f"halfdown://{pattern}", {})


def test_another_filesystem_is_listed_as_a_disk_is() -> None:
    fsspec.register_implementation("halfdown", _HalfDown, clobber=True)
    for pattern in ("corpus/open", "corpus/o*/*.wav", "corpus/open/**"):
        uris = read_manifest(f"halfdown://{pattern}", {}).table["uri"].to_pylist()
        assert uris == ["halfdown://corpus/open/a.wav"]


# ----------------------------------------------------------------------------- our outputs

_EXPORT = {"format": "kaldi", "audio": "clips", "root": "/out", "seq": 3, "fingerprint": "f"}


OURS = {
    "labels/_log/00000000000000000001.json": "{}",
    "labels/_bundles/x.parquet": "x",
    "labels/recordings/p.parquet": "x",
    "labels/recordings/kept.wav": "x",  # not ours: a corpus may have such a directory
    "labels/clips/export.json": json.dumps(_EXPORT),
    "labels/clips/audio/00/a.wav": "x",
    "export/export.json": json.dumps(_EXPORT),
    "export/audio/ff/b.wav": "x",
    "other/export.json": '{"a": 1}',
    "other/c.wav": "x",
    "d.wav": "x",
}
KEPT = ["d.wav", "labels/recordings/kept.wav", "other/c.wav"]


def test_our_outputs_and_exports_are_left_out_of_a_listing(tmp_path: Path) -> None:
    for name, text in OURS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    manifest = read_manifest(str(tmp_path), {})
    assert sorted(names(manifest, tmp_path)) == KEPT
    assert any("left out 3 outputs or exports of this program" in note for note in manifest.notes)
    clips = read_manifest(str(tmp_path / "export"), {})  # asked for by name
    assert clips.n_rows == 1


def test_the_same_in_another_filesystem(memory: Any) -> None:
    for name, text in OURS.items():
        memory.pipe(f"/corpus/{name}", text.encode())
    manifest = read_manifest("memory://corpus", {})
    uris = sorted(manifest.table["uri"].to_pylist())
    assert [uri.partition("corpus/")[2] for uri in uris] == KEPT
    assert any("left out 3 outputs or exports" in note for note in manifest.notes)


def test_a_corpus_that_is_also_the_output_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "recordings/b.wav", "_log/00000000000000000001.json")
    assert names(read_manifest(str(tmp_path), {}), tmp_path) == ["a.wav", "recordings/b.wav"]
