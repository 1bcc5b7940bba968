"""Manifests of other tools, each as that tool writes it, and our own exports read back."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.errors import ManifestError
from pipeline.export.write import Format, export
from pipeline.manifest.read import Manifest, read_manifest
from pipeline.storage.store import filesystem_for
from tests.support.s3_server import S3

LINES = "\n".join


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "audio" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, np.zeros(32_000), 16_000)
    return path


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text(LINES(map(json.dumps, rows)), encoding="utf-8")
    return path


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    return list(manifest.table.to_pylist(maps_as_pydicts="strict"))


def read(path: Path | str, **options: Any) -> list[dict[str, Any]]:
    return rows_of(read_manifest(str(path), {}, ["/"], **options))


def one(path: Path, **options: Any) -> dict[str, Any]:
    (row,) = read(path, **options)
    assert row["error_message"] == ""
    return row


def test_a_nemo_manifest_keeps_ranges_texts_and_languages(tmp_path: Path, wav: Path) -> None:
    """https://docs.nvidia.com/nemo-framework: audio_filepath, offset, duration, text, lang."""
    row = {"audio_filepath": "audio/a.wav", "offset": 0.5, "duration": 1.0, "text": "one two"}
    manifest = read_manifest(str(write(tmp_path / "m.json", row | {"lang": "en"})), {})
    (found,) = rows_of(manifest)
    assert (found["uri"], found["offset_s"], found["length_s"]) == (str(wav), 0.5, 1.0)
    assert (found["language"], found["extra"]) == ("en", {"ref_text": "one two"})
    assert "'audio_filepath' is audio" in manifest.notes[0]
    assert manifest.notes[0].endswith("if that is wrong, set manifest_format")


def test_a_sensevoice_jsonl_keeps_its_labels_as_references(tmp_path: Path, wav: Path) -> None:
    row = {
        **{"key": "utt1", "source": str(wav), "target": "twenty.", "source_len": 200},
        **{"text_language": "<|en|>", "emo_target": "<|HAPPY|>", "event_target": "<|Speech|>"},
        "with_or_wo_itn": "<|withitn|>",
    }
    found = one(write(tmp_path / "m.jsonl", row))
    assert (found["recording_id"], found["uri"], found["language"]) == ("utt1", str(wav), "en")
    assert found["extra"]["ref_text_itn"] == "twenty."
    assert (found["extra"]["ref_emotion"], found["extra"]["ref_event"]) == (
        *("<|HAPPY|>", "<|Speech|>"),
    )
    spoken = one(write(tmp_path / "n.jsonl", row | {"with_or_wo_itn": "<|woitn|>"}))
    assert spoken["extra"]["ref_text"] == "twenty."


def test_recordings_and_cuts_that_lhotse_writes(tmp_path: Path, wav: Path) -> None:
    recording = lhotse.Recording.from_file(wav)
    recordings = lhotse.RecordingSet.from_recordings([recording])
    recordings.to_file(tmp_path / "recordings.jsonl.gz")
    whole = one(tmp_path / "recordings.jsonl.gz")
    assert (whole["recording_id"], whole["uri"], whole["length_s"]) == ("a", str(wav), 0.0)

    supervision = lhotse.SupervisionSegment(
        id="s", recording_id="a", start=0.5, duration=1.0, text="one", language="en", speaker="ann"
    )
    cuts = lhotse.CutSet.from_manifests(
        recordings, lhotse.SupervisionSet.from_segments([supervision])
    )
    cuts.trim_to_supervisions().to_file(tmp_path / "cuts.jsonl.gz")
    cut = one(tmp_path / "cuts.jsonl.gz")
    assert (cut["offset_s"], cut["length_s"], cut["language"]) == (0.5, 1.0, "en")
    assert (cut["extra"]["ref_text"], cut["extra"]["speaker"]) == ("one", "ann")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "a", "tracks": []}, "a mixed cut"),
        ({"id": "a", "sources": [{"type": "command", "source": "cat x"}]}, "never run"),
        ({"id": "a", "sources": [1, 2]}, "a recording of 2 files"),
        ({"id": "s", "recording_id": "a", "start": 0.0}, "supervisions, which name no audio"),
    ],
)
def test_what_names_no_single_file_is_told(
    row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=reason):
        read(write(tmp_path / "m.jsonl", row))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_the_metadata_of_an_audiofolder(suffix: str, tmp_path: Path, wav: Path) -> None:
    """https://huggingface.co/docs/datasets/audio_dataset: file_name, relative to the metadata."""
    row = {"file_name": "audio/a.wav", "transcription": "hi", "language": "zh-CN", "id": "7"}
    path = tmp_path / f"metadata.{suffix}"
    if suffix == "jsonl":
        write(path, row)
    elif suffix == "csv":
        path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    found = one(path)
    assert (found["uri"], found["recording_id"], found["language"]) == (str(wav), str(wav), "zh")
    assert found["extra"] == {"ref_text": "hi", "id": "7"}


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(text)
    return folder


def test_a_kaldi_directory_with_segments(tmp_path: Path, wav: Path) -> None:
    folder = kaldi(
        tmp_path / "data",
        wav_scp=f"rec {wav}\n",
        segments="u1 rec 0.25 1.25\nu2 rec 1.5 -1\n",
        text="u1 one two\nu2 three\n",
        utt2spk="u1 ann\nu2 bob\n",
        utt2lang="u1 en\nu2 da\n",
    )
    for place in (folder, folder / "wav.scp"):
        first, second = read(place)
        assert (first["recording_id"], first["offset_s"], first["length_s"]) == ("u1", 0.25, 1.0)
        assert (second["offset_s"], second["length_s"]) == (1.5, 0.0)
        assert first["extra"] == {"ref_text": "one two", "speaker": "ann"}
        assert (first["language"], second["language"]) == ("en", "")
        assert second["extra"]["ref_language"] == "da"  # no prompt of SenseVoice's, and no error


def test_a_kaldi_directory_without_segments_and_with_a_command(tmp_path: Path, wav: Path) -> None:
    folder = kaldi(tmp_path / "data", wav_scp=f"a {wav}\nb sox in.wav -t wav - |\n", text="a hi\n")
    good, bad = read(folder)
    assert (good["uri"], good["extra"]) == (str(wav), {"ref_text": "hi"})
    assert bad["error_type"] == "BadUri"
    assert "commands are never run" in bad["error_message"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"wav_scp": ""}, "it is empty"),
        ({"wav_scp": "a x.wav\na y.wav\n"}, "line 2: 'a' occurs a second time"),
        ({"wav_scp": "a x.wav\n", "segments": "u b 0 1\n"}, "'u' names no recording"),
        ({"wav_scp": "a x.wav\n", "segments": "u a zero 1\n"}, "could not convert"),
    ],
)
def test_a_kaldi_directory_that_contradicts_itself_is_refused(
    files: dict[str, str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=reason):
        read(kaldi(tmp_path / "data", **files))


def test_a_kaldi_directory_in_an_object_store(s3: S3) -> None:
    bucket = s3.new_bucket()
    fs, path = filesystem_for(bucket, s3.storage_options)
    fs.pipe(f"{path}/data/wav.scp", f"a {bucket}/audio/a.wav\n".encode())
    (row,) = rows_of(read_manifest(f"{bucket}/data", s3.storage_options, [f"{bucket}/"]))
    assert (row["recording_id"], row["uri"]) == ("a", f"{bucket}/audio/a.wav")


@pytest.mark.parametrize(
    ("wanted", "row", "reason"),
    [
        ("nemo", {"audio": "a.wav"}, "needs the column 'audio_filepath'; found 'audio'"),
        ("table", {"audio_filepath": "a.wav"}, "rename 'audio_filepath'"),
        (
            "sensevoice",
            {"audio_filepath": "a.wav", "text": ""},
            "the columns are those of manifest_format nemo",
        ),
        ("kaldi", {"audio": "a.wav"}, "name the directory of a wav.scp"),
    ],
)
def test_a_format_that_does_not_fit_is_told_with_the_columns_found(
    wanted: Any, row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=reason):
        read(write(tmp_path / "m.jsonl", row), manifest_format=wanted)


def test_a_named_format_overrules_the_guess(tmp_path: Path, wav: Path) -> None:
    """A table of ours may have a column of NeMo's, too."""
    both = {"audio": "audio/a.wav", "audio_filepath": "elsewhere.wav"}
    ours = one(write(tmp_path / "m.jsonl", both))
    assert (ours["uri"], ours["extra"]) == (str(wav), {"audio_filepath": "elsewhere.wav"})
    theirs = one(write(tmp_path / "m.jsonl", both), manifest_format="nemo")
    assert theirs["uri"] == str(tmp_path / "elsewhere.wav")


EXPORTS: dict[Format, Callable[[Path], Path]] = {
    "nemo": lambda folder: next(folder.glob("*.jsonl")),
    "sensevoice": lambda folder: next(folder.glob("*.jsonl")),
    "lhotse": lambda folder: next(folder.glob("*cuts*")),
    "kaldi": lambda folder: folder,
    "audiofolder": lambda folder: next(folder.glob("metadata.*")),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_our_own_exports_are_manifests(name: Format, labelled_root: str, tmp_path: Path) -> None:
    """A segment of the tables is a recording there, with its text as the reference."""
    target = tmp_path / name
    export(labelled_root, target, name, audio="clips" if name == "kaldi" else None)
    rows = read(EXPORTS[name](target))
    assert len(rows) >= 20
    assert {row["error_type"] for row in rows} == {""}
    texts = {row["extra"].get("ref_text") or row["extra"].get("ref_text_itn") for row in rows}
    assert "00083." in texts


def test_a_kaldi_file_may_have_tabs_and_other_ends_of_lines(tmp_path: Path, wav: Path) -> None:
    folder = kaldi(tmp_path / "data", wav_scp=f"a\t{wav}\n", text="a one\u2028two\n")
    (row,) = read(folder)
    assert (row["uri"], row["extra"]) == (str(wav), {"ref_text": "one\u2028two"})


def test_a_cut_of_one_channel_of_two_is_that_channel(tmp_path: Path) -> None:
    path = tmp_path / "two.wav"
    soundfile.write(path, np.zeros((16_000, 2)), 16_000)
    recordings = lhotse.RecordingSet.from_recordings([lhotse.Recording.from_file(path)])
    cut = recordings[0].to_cut().to_mono()[1]
    lhotse.CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl.gz")
    (row,) = read(tmp_path / "cuts.jsonl.gz")
    assert (cut.channel, row["channel"]) == (1, 2)  # Lhotse counts from 0


def test_a_directory_says_that_its_metadata_is_not_read(tmp_path: Path, wav: Path) -> None:
    """Its ids are those of the metadata's rows, so that either may be the manifest."""
    write(wav.parent / "metadata.jsonl", {"file_name": "a.wav", "transcription": "one"})
    manifest = read_manifest(str(wav.parent), {})
    assert any("metadata.jsonl is not read; name it" in note for note in manifest.notes)
    (plain,) = rows_of(manifest)
    told = one(wav.parent / "metadata.jsonl")
    assert told["recording_id"] == plain["recording_id"]
    assert told["extra"] == {"ref_text": "one"}
