"""What is found in an archive, by manifest rows: names, texts, and what is wrong with it."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import datasets
import lhotse
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from lhotse.shar import SharWriter

from pipeline.errors import ManifestError
from pipeline.manifest.read import Manifest, read_manifest
from pipeline.storage.address import archive_of, quote_name, split_member
from tests.support.demo import AUDIO, SHORT
from tests.support.shards import (
    WRITERS,
    demo_files,
    lines,
    write_parquet,
    write_tar,
    write_webdataset,
    write_zip,
)

WAV = (AUDIO / SHORT[0]["audio"]).read_bytes()


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    return list(manifest.table.to_pylist(maps_as_pydicts="strict"))


def read(path: Path | str) -> list[dict[str, Any]]:
    return rows_of(read_manifest(str(path), {}, ["/"]))


def names_of(rows: list[dict[str, Any]]) -> list[str]:
    return [member.name for row in rows if (member := split_member(row["uri"]))]


@pytest.mark.parametrize("name", WRITERS)
def test_every_archive_is_a_list_of_its_recordings(name: str, tmp_path: Path) -> None:
    files = demo_files()
    path = WRITERS[name](tmp_path / name, files)
    rows = read(path)
    kind = "parquet" if name.endswith("parquet") else "zip" if name.endswith("zip") else "tar"
    assert [row["uri"] for row in rows] == [f"{kind}://{one}::{path}" for one in files]
    assert [row["recording_id"] for row in rows] == [row["uri"] for row in rows]
    assert {row["error_message"] for row in rows} == {""}
    assert all(row["start"] for row in rows)
    if kind != "parquet":  # there, sizes are read with the audio only
        assert [row["bytes"] for row in rows] == [*map(len, files.values())]


@pytest.mark.parametrize("name", ["odd.dat", "zip", "rows"])
def test_an_archive_is_known_by_its_bytes(name: str, tmp_path: Path) -> None:
    writers: dict[str, Any] = {"odd.dat": write_tar, "zip": write_zip, "rows": write_parquet}
    assert len(read(writers[name](tmp_path / name, demo_files(2)))) == 2


def test_a_webdataset_says_what_stands_beside_its_audio(tmp_path: Path) -> None:
    path = write_webdataset(tmp_path / "a.tar", SHORT[:2])
    rows = read(path)
    for row, reference in zip(rows, SHORT, strict=False):
        assert row["extra"]["ref_text"] == reference["ref_text"]


def test_texts_belong_to_the_recordings_of_their_sample(tmp_path: Path) -> None:
    told = json.dumps({"text": "of both", "lang": "zh-CN", "speaker_id": 7, "duration": 1.5})
    files = {
        "d/a.left.wav": WAV,
        "d/a.right.wav": WAV,
        "d/a.json": told.encode(),
        "d/b.1.wav": WAV,
        "d/b.1.txt": b"one\n",
        "d/b.2.wav": WAV,
        "d/b.2.txt": b"two\n",
        "d/c.cls": b"3",
        "d/c.wav": WAV,
        "d/e.wav": WAV,
        "d/e.json": b"{not json",
        "d/e.npy": b"0",
        "d/.e.wav": b"0",
    }
    manifest = read_manifest(str(write_tar(tmp_path / "a.tar", files)), {})
    left, right, one, two, c, e = rows_of(manifest)
    assert left["extra"] == right["extra"]
    assert left["extra"] == {"ref_text": "of both", "speaker": "7", "duration": "1.5"}
    assert left["language"] == "zh"
    assert (one["extra"], two["extra"]) == ({"ref_text": "one"}, {"ref_text": "two"})
    assert (c["extra"], e["extra"]) == ({"cls": "3"}, {})
    (note,) = [note for note in manifest.notes if "left out" in note]
    assert "left out 3 files that are no audio" in note
    assert all(kind in note for kind in ("broken .json 1", ".npy 1", "hidden 1"))


def test_a_dataset_of_hugging_face_keeps_its_columns(tmp_path: Path) -> None:
    """Written by `datasets` itself, from its own audio files."""
    paths = [str(AUDIO / row["audio"]) for row in SHORT[:3]]
    made = datasets.Dataset.from_dict(
        {"clip": paths, "sentence": ["x", "y", "z"], "locale": ["en", "da", "zh"]}
    ).cast_column("clip", datasets.Audio(decode=False))
    embedded = made.map(
        lambda row: {"clip": {"bytes": Path(row["clip"]["path"]).read_bytes(), "path": None}}
    )
    embedded.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    rows = read(tmp_path / "*.parquet")
    assert names_of(rows) == ["row=1", "row=2", "row=3"]
    assert [row["extra"]["ref_text"] for row in rows] == ["x", "y", "z"]
    assert [row["language"] for row in rows] == ["en", "", "zh"]
    assert rows[1]["extra"]["ref_language"] == "da"


def test_a_shar_of_lhotse_has_the_texts_of_its_cuts(tmp_path: Path) -> None:
    """Written by lhotse.shar: recording.000000.tar beside cuts.000000.jsonl.gz."""
    wav = tmp_path / "in.wav"
    soundfile.write(wav, np.zeros(16_000), 16_000)
    recording = lhotse.Recording.from_file(wav, recording_id="rec")
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}) as writer:
        for index in range(2):
            cut = recording.to_cut().with_id(f"cut-{index}")
            cut.supervisions = [
                lhotse.SupervisionSegment(
                    f"s{index}", "rec", 0, 1, text=f"text {index}", language="en", speaker="p"
                )
            ]
            writer.write(cut)
    rows = read(tmp_path / "shar")
    assert names_of(rows) == ["cut-0.flac", "cut-1.flac"]
    for index, row in enumerate(rows):
        told = {name: row["extra"][name] for name in ("ref_text", "speaker")}
        assert told == {"ref_text": f"text {index}", "speaker": "p"}
        assert row["language"] == "en"


def test_tarred_nemo_names_the_members_of_its_shards(tmp_path: Path) -> None:
    files = demo_files(2)
    first, second = files
    write_tar(tmp_path / "audio_0.tar", {first: files[first]})
    write_tar(tmp_path / "audio_1.tar", {second: files[second]})
    manifest = tmp_path / "tarred_audio_manifest.json"
    manifest.write_text(
        lines(
            {"audio_filepath": second, "duration": 1.0, "text": "b", "shard_id": 1},
            {"audio_filepath": first, "duration": 1.0, "text": "a", "shard_id": 0},
            {"audio_filepath": "gone.wav", "duration": 1.0, "text": "c", "shard_id": 0},
        )
    )
    two, one, gone = read(manifest)
    assert one["uri"] == f"tar://{first}::{tmp_path}/audio_0.tar"
    assert two["uri"] == f"tar://{second}::{tmp_path}/audio_1.tar"
    assert (one["extra"], one["bytes"]) == ({"ref_text": "a"}, len(files[first]))
    assert one["start"] and two["start"]
    assert gone["error_type"] == "FileMissing"
    assert "has no member 'gone.wav'" in gone["error_message"]


def test_a_directory_without_audio_is_its_archives(tmp_path: Path) -> None:
    write_tar(tmp_path / "b.tar", demo_files(1))
    write_zip(tmp_path / "a.zip", demo_files(1))
    (tmp_path / "notes.md").write_text("x")
    assert [archive_of(row["uri"]) for row in read(tmp_path)] == [
        f"{tmp_path}/a.zip",
        f"{tmp_path}/b.tar",
    ]


def test_a_directory_with_audio_keeps_its_ids_beside_archives(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(WAV)
    before = read(tmp_path)
    write_tar(tmp_path / "b.tar", demo_files(1))
    manifest = read_manifest(str(tmp_path), {})
    assert rows_of(manifest) == before
    assert any(".tar 1" in note for note in manifest.notes)


def test_archives_outside_the_roots_are_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    secret = write_tar(tmp_path / "secret.tar", demo_files(1))
    (tmp_path / "in" / "m.jsonl").write_text(lines({"audio": f"tar://a.wav::{secret}"}))
    (row,) = rows_of(read_manifest(str(tmp_path / "in" / "m.jsonl"), {}))
    assert row["error_type"] == "NotAllowed"


def test_a_path_in_a_parquet_that_leads_outside_is_not_allowed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    audio = [
        {"bytes": None, "path": "../secret.wav"},
        {"bytes": None, "path": "beside.wav"},
        {"bytes": WAV, "path": "../inside.wav"},
        {"bytes": None, "path": None},
    ]
    path = tmp_path / "in" / "a.parquet"
    pq.write_table(pa.table({"audio": audio}), path)
    outside, beside, inside, null = rows_of(read_manifest(str(path), {}))
    assert outside["error_type"] == "NotAllowed"
    assert (beside["uri"], beside["error_message"]) == (f"{tmp_path}/in/beside.wav", "")
    assert inside["uri"] == f"parquet://%2E%2E/inside.wav::{path}"
    assert inside["error_message"] == ""
    assert "audio is null" in null["error_message"]


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("/etc/a.wav", "%2Fetc/a.wav"),
        ("../../a.wav", "%2E%2E/%2E%2E/a.wav"),
        ("./a.wav", "%2E/a.wav"),
        ("a#b?c@d%20:e\\.wav", "a%23b%3Fc%40d%2520%3Ae%5C.wav"),
        ("a\nb.wav", "a%0Ab.wav"),
        ("語.wav", "語.wav"),
        ("a.b/c..wav", "a.b/c..wav"),
    ],
)
def test_a_name_never_leads_out_of_its_archive(name: str, address: str, tmp_path: Path) -> None:
    assert quote_name(name) == address
    (row,) = read(write_tar(tmp_path / "a.tar", {name: WAV}))
    assert (row["uri"], row["error_message"]) == (f"tar://{address}::{tmp_path}/a.tar", "")


def test_a_name_that_is_no_utf8_is_quoted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("caf\udce9.wav")
        tar.addfile(info)
    assert names_of(read(tmp_path / "a.tar")) == ["caf%E9.wav"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_whole(format: int, tmp_path: Path) -> None:
    name = f"{'d' * 120}/{'n' * 200}.wav"
    path = write_tar(tmp_path / "a.tar", {name: WAV, "b.wav": WAV}, format=format)
    assert names_of(read(path)) == [name, "b.wav"]


def test_two_members_with_one_name_are_two_recordings(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for text in ("first", "second"):
            for name, data in (("a.wav", WAV), ("a.txt", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            tar.addfile(tarfile.TarInfo("between.npy"))
    rows = read(path)
    assert names_of(rows) == ["a.wav", "a.wav~2"]
    assert [row["extra"]["ref_text"] for row in rows] == ["first", "second"]


@pytest.mark.parametrize("cut", [512, 700, 4_000, -1024])
def test_a_truncated_tar_gives_what_is_whole_and_one_error(cut: int, tmp_path: Path) -> None:
    files = demo_files(3)
    path = write_tar(tmp_path / "a.tar", files)
    data = path.read_bytes()
    whole = len(read(path))
    used = 512 + -(-len(files[SHORT[0]["audio"]]) // 512) * 512
    path.write_bytes(data[: used + cut] if cut > 0 else data[:-10_240])
    manifest = read_manifest(str(path), {})
    *good, bad = rows_of(manifest)
    assert 1 <= len(good) <= whole
    assert {row["error_message"] for row in good} == {""}
    assert bad["error_type"] == "BadManifestRow"
    assert "the archive is damaged after" in bad["error_message"]
    assert any("1 archives are damaged" in note for note in manifest.notes)


@pytest.mark.parametrize("name", ["shard.tar.gz", "shard.tar.zst", "shard.tar.bz2"])
def test_a_truncated_compressed_tar_gives_an_error(name: str, tmp_path: Path) -> None:
    noise = {f"{i}.wav": np.random.default_rng(i).bytes(3_000_000) for i in range(5)}
    path = WRITERS[name](tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[:9_000_000])
    *good, bad = read(path)
    assert len(good) < 5
    assert "the archive is damaged after" in bad["error_message"]


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.wav": b"x" * 512, "b.wav": b"y" * 512})
    data = bytearray(path.read_bytes())
    data[1024:1028] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    good, bad = read(path)
    assert good["error_message"] == ""
    assert "no header where one should be" in bad["error_message"]


def test_an_encrypted_member_is_an_error_row(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.wav": WAV, "b.wav": WAV}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1  # the flag in the directory
    path.write_bytes(data)
    bad, good = sorted(read(path), key=lambda row: row["error_message"], reverse=True)
    assert "a.wav: is encrypted" in bad["error_message"]
    assert good["error_message"] == ""


def test_a_zip_without_its_directory_is_an_error_row(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", demo_files(2))
    path.write_bytes(path.read_bytes()[:-60])
    (bad,) = read(path)
    assert "the archive is damaged after 0 recordings" in bad["error_message"]


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_what_is_no_archive_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not an archive" * 100)
    with pytest.raises(ManifestError, match="neither a tar, a zip nor a parquet file"):
        read(tmp_path / name)


def test_an_archive_without_audio_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.npy": b"x", "b.jpg": b"y"})
    with pytest.raises(ManifestError, match=r"an archive without audio; it has \.npy 1, \.jpg 1"):
        read(path)


def test_one_damaged_shard_of_many_does_not_stop_the_others(tmp_path: Path) -> None:
    """An upload that broke off leaves an empty tar, or a parquet without its end."""
    write_tar(tmp_path / "a.tar", demo_files(1))
    (tmp_path / "b.tar").write_bytes(b"")
    whole = write_parquet(tmp_path / "c.parquet", demo_files(2))
    (tmp_path / "d.parquet").write_bytes(whole.read_bytes()[:-100])
    tar, empty = read(tmp_path / "*.tar")
    assert tar["error_message"] == ""
    assert "it is neither a tar, a zip nor a parquet file with audio" in empty["error_message"]
    first, second, cut = read(tmp_path / "*.parquet")
    assert first["error_message"] == second["error_message"] == ""
    assert cut["recording_id"] == f"{tmp_path}/d.parquet#row=1"
    assert "the archive is damaged after 0 recordings" in cut["error_message"]
