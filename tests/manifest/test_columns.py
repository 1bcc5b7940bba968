"""Names of columns: ours in any case, near misses and other tools' names refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ManifestError
from pipeline.manifest.read import Manifest, read_manifest


def read(tmp_path: Path, data: str | pa.Table) -> Manifest:
    path = tmp_path / "list"
    if isinstance(data, str):
        path.write_text(data)
    else:
        pq.write_table(data, path)
    return read_manifest(str(path), {}, ["/"])


def refusal(tmp_path: Path, data: str | pa.Table) -> str:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, data)
    return str(caught.value)


def lines(*values: dict[str, Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        *(("offset", "offset_s"), ("start", "offset_s"), ("begin", "offset_s")),
        *(("Start_Time", "offset_s"), ("ofset_s", "offset_s"), ("offset-s", "offset_s")),
        *(("offset_ms", "offset_s"), ("segment_start", "offset_s"), ("offests", "offset_s")),
        *(("duration", "duration_s"), ("dur", "duration_s"), ("end", "duration_s")),
        *(("length_s", "duration_s"), ("duration (s)"[:8], "duration_s"), ("stop", "duration_s")),
        *(("durations", "duration_s"), ("DurationS", "duration_s")),
        *(("lang", "language"), ("langauge", "language"), ("languag", "language")),
        *(("language_id", "language"), ("locale", "language")),
        *(("id", "recording_id"), ("key", "recording_id"), ("utt_id", "recording_id")),
        *(("recordingId", "recording_id"), ("recording-id", "recording_id")),
        *(("recordingid", "recording_id"), ("audio-version", "audio_version")),
    ],
)
def test_a_column_that_is_probably_one_of_ours_is_refused(
    name: str, own: str, tmp_path: Path
) -> None:
    for data in (
        f"audio,{name}\na.wav,1\na.wav,2\n",
        lines({"audio": "a.wav", name: 1}, {"audio": "a.wav", name: 2}),
        pa.table({"audio": ["a.wav", "a.wav"], name: [1, 2]}),
    ):
        assert f"{name!r} -> {own!r}" in refusal(tmp_path, data)


def test_all_such_columns_are_named_with_their_units(tmp_path: Path) -> None:
    message = refusal(tmp_path, lines({"audio": "a.wav", "offset": 0, "duration": 1}))
    assert "'offset' -> 'offset_s', 'duration' -> 'duration_s'" in message
    assert "duration_s is a length in seconds" in message
    assert "'x_offset'" in message


@pytest.mark.parametrize("name", ["x_offset", "text", "speaker", "ref_text", "emotion"])
def test_other_data_stays_in_extra(name: str, tmp_path: Path) -> None:
    (row,) = read(tmp_path, f"audio,{name}\na.wav,1\n").table.to_pylist(maps_as_pydicts="strict")
    assert row["extra"] == {name: "1"}


def test_another_tools_column_stays_in_extra_beside_our_own(tmp_path: Path) -> None:
    value = {"audio": "/a.wav", "recording_id": "r", "offset_s": 1, "duration_s": 2}
    value |= {"language": "en"}
    other = {"audio_filepath": "x", "id": "7", "start": "3", "duration": "4", "lang": "de"}
    for data in (lines(value | other), pa.Table.from_pylist([value | other])):
        (row,) = read(tmp_path, data).table.to_pylist(maps_as_pydicts="strict")
        assert row["extra"] == other
        assert (row["recording_id"], row["offset_s"], row["length_s"]) == ("r", 1.0, 2.0)


def test_our_names_are_read_in_any_case_with_blanks_around_them(tmp_path: Path) -> None:
    value = {" Audio": "/a.wav", "OFFSET_S ": 1, "Duration_S": 2, "\ufefflanguage": "en"}
    csv = ",".join(value) + "\n/a.wav,1,2,en\n"
    for data in (csv, lines(value), pa.Table.from_pylist([value])):
        (row,) = read(tmp_path, data).table.to_pylist()
        found = (row["uri"], row["offset_s"], row["length_s"], row["language"])
        assert found == ("/a.wav", 1.0, 2.0, "en")


def test_two_spellings_of_one_name_are_refused(tmp_path: Path) -> None:
    for data in ("audio,Audio\na,b\n", lines({"audio": "a", "AUDIO ": "b"})):
        assert "two columns have the name 'audio'" in refusal(tmp_path, data)


def test_a_later_row_of_json_with_such_a_key_is_named(tmp_path: Path) -> None:
    data = lines({"audio": "a", "offset_s": 0}, {"audio": "a", "offset": 1})
    assert "row 2: " in refusal(tmp_path, data)
    assert "'offset' -> 'offset_s'" in refusal(tmp_path, data)


def test_columns_that_no_format_has_are_named_all_at_once(tmp_path: Path) -> None:
    data = lines({"audio_path": "a.wav", "offset": 0, "duration": 1, "text": "x"})
    message = refusal(tmp_path, data)
    assert "rename 'audio_path' (nearest) to 'audio', 'offset' to 'offset_s'" in message


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("utt1 /data/a.wav\nutt2 /data/b.wav\n", "Kaldi's wav.scp"),
        ("utt1 sph2pipe -f wav a.sph |\n", "Kaldi's wav.scp"),
        ("audio|text\na.wav|hello\n", "separated by '|'"),
        ("/data/a.wav\n/data/b.wav\n", "list of paths"),
        ("a.wav\nb.wav\n", "list of paths"),
        ("audio text\na.wav hello\n", "separated by blanks"),
    ],
)
def test_another_format_gets_a_hint_that_fits(data: str, hint: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, data)
    assert hint in message
    assert "nearest" not in message


_BYTES = b"RIFF" + bytes(range(256))


@pytest.mark.parametrize(
    "audio",
    [
        pa.array([_BYTES[:16]], pa.binary(16)),
        pa.array([{"array": [0.1, 0.2], "sampling_rate": 16000}]),
        pa.array([[0.1, 0.2]]),
    ],
)
def test_samples_inside_a_parquet_file_are_refused(audio: pa.Array, tmp_path: Path) -> None:
    message = refusal(tmp_path, pa.table({"audio": audio}))
    assert "column 'audio' holds" in message
    assert len(message) < 600


def test_a_binary_id_is_refused_by_name(tmp_path: Path) -> None:
    table = pa.table({"audio": ["a.wav"], "recording_id": [b"\x01\x02"]})
    assert "column 'recording_id' holds binary" in refusal(tmp_path, table)


def test_other_binary_columns_are_not_kept_and_said(tmp_path: Path) -> None:
    image = pa.array([{"bytes": _BYTES, "path": "a.png"}])
    manifest = read(tmp_path, pa.table({"audio": ["/a.wav"], "image": image, "text": ["x"]}))
    (row,) = manifest.table.to_pylist(maps_as_pydicts="strict")
    assert row["extra"] == {"text": "x"}
    assert any("column 'image' holds binary data" in note for note in manifest.notes)


@pytest.mark.parametrize("value", [{"path": "a.wav", "bytes": "UklGRg=="}, [0.1, 0.2]])
def test_audio_inside_a_json_row_is_an_error_of_the_row(value: Any, tmp_path: Path) -> None:
    manifest = read(tmp_path, lines({"audio": "/a"}, {"audio": value}, {"audio": "/b"}))
    _, bad, _ = manifest.table.to_pylist()
    assert bad["error_type"] == "BadManifestRow"
    assert "audio is not a path" in bad["error_message"]


@pytest.mark.parametrize("column", ["audio", "recording_id"])
def test_a_huge_text_never_becomes_a_path_or_an_id(column: str, tmp_path: Path) -> None:
    value = {"audio": "/a.wav", "recording_id": "r"} | {column: "QUJD" * 50_000}
    _, bad = read(tmp_path, lines({"audio": "/b"}, value)).table.to_pylist()
    assert bad["error_type"] == "BadManifestRow"
    assert "200,000 characters" in bad["error_message"]
    assert len(str(bad)) < 2000


def test_dropped_rows_that_differ_in_other_columns_are_said(tmp_path: Path) -> None:
    manifest = read(tmp_path, "audio,take\n/a.wav,0\n/a.wav,1\n/b.wav,0\n")
    assert (manifest.n_rows, manifest.n_duplicates) == (2, 1)
    (note,) = manifest.notes
    assert "row 2 repeats" in note
    assert "differs in take" in note
    assert not read(tmp_path, "audio,take\n/a.wav,0\n/a.wav,0\n").notes


def test_a_channel_counts_from_one_and_is_part_of_the_default_id(tmp_path: Path) -> None:
    rows = read(tmp_path, "audio,channel,offset_s\n/a.wav,1,\n/a.wav, 2.0 ,1.5\n/a.wav,,\n").table
    assert rows["channel"].to_pylist() == [1, 2, 0]
    assert rows["recording_id"].to_pylist() == [
        *("/a.wav#channel=1", "/a.wav#t=1.5&channel=2", "/a.wav")
    ]


@pytest.mark.parametrize("value", ["0", "-1", "left", "1.5", "123456"])
def test_what_is_no_channel_is_an_error_of_its_row(value: str, tmp_path: Path) -> None:
    (row,) = read(tmp_path, f"audio,channel\n/a.wav,{value}\n").table.to_pylist()
    assert (row["error_type"], row["channel"]) == ("BadManifestRow", 0)
    assert f"channel {value!r} is not a channel; they count from 1" in row["error_message"]
