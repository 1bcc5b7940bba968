import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import ManifestError
from pipeline.manifest import files as manifest_files
from pipeline.manifest import rows as manifest_rows
from pipeline.manifest.access import canonical_uri
from pipeline.manifest.read import Manifest, read_manifest
from pipeline.manifest.rows import MANIFEST
from tests.support.sounds import encode, tone

Row = dict[str, Any]


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Read bytes as a manifest `tmp_path`/`name`."""

    def run(data: bytes | str, name: str = "manifest") -> Manifest:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return read_manifest(str(path), {}, ["/"])

    return run


def rows(manifest_: Manifest) -> list[Row]:
    assert manifest_.table.schema.equals(MANIFEST)
    return list(manifest_.table.to_pylist(maps_as_pydicts="strict"))


def lines(*values: Row) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


_CSV = "audio,recording_id,offset_s,duration_s,language,speaker\n/a.wav,one,1.5,2,en,Eve\n"
_VALUES: Row = {"audio": "/a.wav", "recording_id": "one", "offset_s": 1.5, "duration_s": 2}
_VALUES |= {"language": "en", "speaker": "Eve"}
_FORMATS = {
    "jsonl": lines(_VALUES).encode(),
    "csv": _CSV.encode(),
    "semicolons": _CSV.replace(",", ";").encode(),
    "tsv": _CSV.replace(",", "\t").encode(),
    "windows": ("\ufeff" + _CSV.replace("\n", "\r\n")).encode(),
    "parquet": parquet(pa.Table.from_pylist([_VALUES])),
}


# ---------------------------------------------------------------------------- formats


@pytest.mark.parametrize("packed", ["plain", "gz", "zst"])
@pytest.mark.parametrize("kind", _FORMATS)
def test_every_format_gives_the_same_row_whatever_it_is_called(
    kind: str, packed: str, read: Any
) -> None:
    pack: Any = {"plain": bytes, "gz": gzip.compress, "zst": zstandard.compress}[packed]
    (row,) = rows(read(pack(_FORMATS[kind]), "misleading.txt"))
    assert row == {
        "recording_id": "one",
        "uri": "/a.wav",
        "offset_s": 1.5,
        "length_s": 2.0,
        "channel": 0,
        "language": "en",
        "version": "",
        "bytes": 0,
        "start": 0,
        "extra": {"speaker": "Eve"},
        "error_stage": "",
        "error_type": "",
        "error_message": "",
    }


def test_rows_keep_the_order_of_the_manifest(read: Any) -> None:
    names = [f"/{index * 7919 % 1000}.wav" for index in range(1000)]
    assert read("audio\n" + "\n".join(names)).table["uri"].to_pylist() == names


def test_a_glob_reads_every_file_in_order(tmp_path: Path) -> None:
    for name in "ba":
        (tmp_path / f"{name}.csv").write_text(f"audio\n/{name}.wav\n")
    table = read_manifest(str(tmp_path / "*.csv"), {}).table
    assert table["uri"].to_pylist() == ["/a.wav", "/b.wav"]


def test_a_quoted_field_may_hold_line_breaks_and_delimiters(read: Any) -> None:
    (row,) = rows(read('audio,text\na.wav,"one, two\nthree ""four"""\n'))
    assert row["extra"] == {"text": 'one, two\nthree "four"'}


def test_unknown_columns_are_kept_as_text(read: Any) -> None:
    value = {"audio": "a", "n": 12345678901234567890, "day": "2026-01-02", "none": None}
    (row,) = rows(read(lines(value | {"nested": {"a": [1, "é"]}, "yes": True})))
    assert row["extra"] == {
        "n": "12345678901234567890",  # not a float: two ids could become one
        "day": "2026-01-02",  # not a timestamp
        "nested": '{"a": [1, "é"]}',
        "yes": "true",
    }


def test_parquet_with_unusual_types_is_read(read: Any) -> None:
    table = pa.table(
        {
            "audio": pa.array(["a.wav", "a.wav"]).dictionary_encode(),
            "offset_s": pa.array([0, 3], pa.int32()),
            "speaker": pa.array(["Eve", None], pa.large_string()),
            "score": pa.array([0.5, None]),
            "tags": pa.array([["x"], []]),
            "bytes": pa.array([b"\xff", b""]),
            "empty": pa.nulls(2),
        }
    )
    first, second = rows(read(parquet(table)))
    assert first["extra"] == {"speaker": "Eve", "score": "0.5", "tags": '["x"]'}
    assert second["extra"] == {"tags": "[]"}
    assert second["offset_s"] == 3.0


def test_many_rows_are_read_in_slices(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (manifest_files, manifest_rows):
        monkeypatch.setattr(module, "ROWS", 16)
    values = [{"audio": f"/{index}", "n": index, "m": None} for index in range(100)]
    values[3] = {"audio": "/3", "late": "x"}
    table = rows(read(lines(*values)))
    assert [row["uri"] for row in table] == [f"/{index}" for index in range(100)]
    assert [row["extra"] for row in table[2:5]] == [{"n": "2"}, {"late": "x"}, {"n": "4"}]


@pytest.mark.parametrize("data", ["audio", "audio\n", parquet(pa.table({"audio": pa.nulls(0)}))])
def test_a_manifest_without_rows_is_a_table_without_rows(data: str, read: Any) -> None:
    assert rows(read(data)) == []


# -------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("audio", "uri"),
    [
        ("/a/b.wav", "/a/b.wav"),
        ("/a//b/../c.wav", "/a/c.wav"),
        ("file:///a/b.wav", "/a/b.wav"),
        ("file://localhost/a.wav", "/a.wav"),
        ("c.wav", "/base/c.wav"),
        ("./x/../c.wav", "/base/c.wav"),
        ("../c.wav", "/c.wav"),
        ("s3://b/k//x/../y.wav", "s3://b/k//x/../y.wav"),  # object stores have such keys
        ("cafe\u0301.wav", "/base/cafe\u0301.wav"),  # not folded to é
        ("a b%20+c.wav", "/base/a b%20+c.wav"),
    ],
)
def test_an_address_has_one_spelling(audio: str, uri: str) -> None:
    assert canonical_uri(audio, "/base") == uri


def test_relative_paths_start_at_the_manifest(read: Any, tmp_path: Path) -> None:
    table = read("audio\nx/a.wav\n../b.wav\n").table
    assert table["uri"].to_pylist() == [f"{tmp_path}/x/a.wav", f"{tmp_path.parent}/b.wav"]


def test_relative_paths_work_on_object_stores() -> None:
    fsspec.filesystem("memory").pipe("/corpus/list.csv", b"audio\na.wav\n../b.wav\n")
    table = read_manifest("memory://corpus/list.csv", {}).table
    MemoryFileSystem.store.clear()
    assert table["uri"].to_pylist() == ["memory://corpus/a.wav", "memory://b.wav"]


@pytest.mark.parametrize(
    ("range_s", "fragment"),
    [
        ({}, ""),
        ({"offset_s": 0}, ""),
        ({"offset_s": 10.5}, "#t=10.5"),
        ({"duration_s": 3}, "#t=0,3"),
        ({"offset_s": 0.1, "duration_s": 0.2}, "#t=0.1,0.3"),
    ],
)
def test_the_default_id_is_the_address_and_the_range(
    range_s: Row, fragment: str, read: Any
) -> None:
    (row,) = rows(read(lines({"audio": "/a.wav"} | range_s)))
    assert row["recording_id"] == f"/a.wav{fragment}"


# ------------------------------------------------------------------------ directories


def test_a_directory_means_all_the_audio_in_it(tmp_path: Path) -> None:
    names = ["b.wav", "sub/a.MP3", ".hidden.wav", ".cache/x.wav", "notes.txt", "list.csv"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    table = read_manifest(f"{tmp_path}/", {}).table
    wanted = [f"{tmp_path}/b.wav", f"{tmp_path}/sub/a.MP3"]
    assert table["uri"].to_pylist() == table["recording_id"].to_pylist() == wanted


def test_a_hidden_parent_does_not_hide_a_corpus(tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.wav").write_bytes(b"x")
    assert read_manifest(str(tmp_path / ".data"), {}).table.num_rows == 1


def test_a_glob_or_a_single_name_may_be_audio(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode(tone(0.1)))
    for uri in (tmp_path / "a.wav", tmp_path / "*.wav"):
        assert read_manifest(str(uri), {}).table["uri"].to_pylist() == [f"{tmp_path}/a.wav"]


def test_a_directory_may_be_named_relative_to_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.wav").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (uri,) = read_manifest("../corpus", {}).table["uri"].to_pylist()
    assert uri == str(tmp_path / "corpus" / "a.wav")


def test_the_error_for_a_directory_without_audio_lists_its_files(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("audio\n")
    with pytest.raises(
        ManifestError, match=r"without audio; it contains list\.csv.*name that file"
    ):
        read_manifest(str(tmp_path), {})


# --------------------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({"audio": ""}, "BadManifestRow", "audio is empty"),
        ({"audio": None}, "BadManifestRow", "audio is empty"),
        ({"audio": "a\nb"}, "BadManifestRow", "control character"),
        ({"audio": "a\0b"}, "BadManifestRow", "control character"),
        ({"audio": "a", "offset_s": -1}, "BadRange", "offset_s is -1.0; it must be at least 0"),
        ({"audio": "a", "offset_s": "12,5"}, "BadManifestRow", "offset_s '12,5' is not a number"),
        ({"audio": "a", "offset_s": [1]}, "BadManifestRow", "offset_s '[1]' is not a number"),
        ({"audio": "a", "offset_s": "1e999"}, "BadRange", "offset_s is inf"),
        ({"audio": "a", "duration_s": 0}, "BadRange", "duration_s is 0.0; it must be more than 0"),
        ({"audio": "a", "duration_s": "nan"}, "BadManifestRow", "'nan' is not a number"),
        (
            {"audio": "a", "language": "klingon"},
            "BadLanguage",
            "language 'klingon' is not one of auto, zh",
        ),
    ],
)
def test_a_row_that_cannot_be_used_becomes_an_error_row(
    value: Row, kind: str, message: str, read: Any
) -> None:
    good, bad = rows(read(lines({"audio": "good"}, value)))
    assert (good["error_stage"], good["error_type"]) == ("", "")
    assert (bad["error_stage"], bad["error_type"]) == ("manifest", kind)
    assert bad["error_message"].startswith("row 2: ")
    assert message in bad["error_message"]
    assert bad["recording_id"].endswith("#row=2")
    assert (bad["offset_s"], bad["length_s"]) == (0, 0)


def test_nan_in_a_float_column_is_a_bad_row(read: Any) -> None:
    """Parquet has nulls for what is absent."""
    table = pa.table({"audio": ["a", "b"], "offset_s": [float("nan"), 1.0]})
    first, second = rows(read(parquet(table)))
    assert "offset_s is nan" in first["error_message"]
    assert not second["error_message"]


def test_nan_in_json_means_that_the_value_is_absent(read: Any) -> None:
    nan = float("nan")
    values: list[Row] = [{"audio": "/a", "offset_s": nan, "duration_s": nan, "score": nan}]
    values += [{"audio": "/b", "offset_s": 1.0, "duration_s": 2.0, "score": 0.5}]
    first, second = rows(read(lines(*values)))
    assert (first["error_message"], second["error_message"]) == ("", "")
    assert (first["recording_id"], first["offset_s"], first["length_s"]) == ("/a", 0.0, 0.0)
    assert (first["extra"], second["extra"]) == ({}, {"score": "0.5"})


def test_nan_in_a_json_column_of_text_means_absent(read: Any) -> None:
    nan = float("nan")
    (row,) = rows(read(lines({"audio": "/a", "recording_id": nan, "language": nan, "text": nan})))
    assert (row["recording_id"], row["language"], row["error_type"]) == ("/a", "", "")
    assert row["extra"] == {}


def test_languages_are_read_in_any_case(read: Any) -> None:
    assert rows(read("audio,language\na, EN \n"))[0]["language"] == "en"


def test_a_broken_json_line_is_an_error_row_in_its_place(read: Any) -> None:
    table = rows(
        read(
            '{"audio": "/a"}\n\n{"audio": \n[1]\n{"audio": "/b"}\n{"audio": "\\ud800"}\n'
            + "".join(f'{{"audio": "/{index}"}}\n' for index in range(9))
        )
    )
    messages = [row["error_message"][:26] for row in table]
    assert messages[:5] == [
        *("", "row 3 is not a JSON object", "row 4 is not a JSON object"),
        *("", "row 6 is not a JSON object"),
    ]
    assert table[1]["recording_id"].endswith("#row=3")


def test_a_csv_row_with_too_few_fields_is_an_error_row_in_its_place(read: Any) -> None:
    table = rows(read("audio,x\n/a,1\n/b\n/c,3\n"))
    assert [row["uri"] for row in table] == ["/a", "", "/c"]
    assert table[1]["error_message"] == "row 2 has 1 fields instead of 2"


# -------------------------------------------------------------------------- identical


def test_repeated_rows_are_dropped_and_counted(read: Any) -> None:
    result = read("audio,text\n/a,1\n/b,2\n/a,3\n/a,4\n")
    assert [row["uri"] for row in rows(result)] == ["/a", "/b"]
    assert result.n_duplicates == 2


def test_the_same_file_with_another_range_is_another_recording(read: Any) -> None:
    result = read("audio,offset_s\n/a,\n/a,1\n/a,2\n")
    assert result.n_duplicates == 0
    assert len({row["recording_id"] for row in rows(result)}) == 3


def test_the_first_row_keeps_an_id_and_the_others_become_errors(read: Any) -> None:
    result = read("audio,recording_id\n/a,x\n/b,x\n/c,x\n/b,x\n")
    first, second, third = rows(result)
    assert (first["recording_id"], first["error_type"]) == ("x", "")
    assert second["error_type"] == third["error_type"] == "DuplicateId"
    assert "row 2: row 1 (/a) has the same recording_id" in second["error_message"]
    assert second["recording_id"].startswith("x~")
    assert len({first["recording_id"], second["recording_id"], third["recording_id"]}) == 3
    assert result.n_duplicates == 1


# ----------------------------------------------------------------------- bad manifests


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        ("audio_path,text\na,b\n", "no column 'audio'; found 'audio_path', 'text'; rename 'audio_"),
        (lines({"wav": "a"}), "rename 'wav' "),
        ("audio,audio\na,b\n", "two columns have the name 'audio'"),
        ("audio\ncaf\u00e9\n".encode("latin-1"), "not UTF-8"),
        (b"audio,x\n/a,1\n/\xe9\n", "not UTF-8"),  # in a row with too few fields
        (b'{"audio": "/\xe9"}\n', "row 1 is not a JSON object"),
        ("audio\na\n".encode("utf-16"), "UTF-16"),
        (b"\x00\x01\x02\x03" * 100, "neither parquet, JSON lines nor CSV"),
        ('[{"audio": "a"}]', "JSON array"),
        ('{"audio": \n' * 3 + '{"audio": "a"}\n', "most rows are broken: row 1 "),
        (gzip.compress(b"audio\n" + b"a.wav\n" * 99, mtime=0)[:-12], "cut short"),
        (zstandard.compress(b"audio\n" + b"a.wav\n" * 99)[:-5], "cut short"),
        (gzip.compress(gzip.compress(b"audio\na\n", mtime=0), mtime=0), "compressed twice"),
        (_FORMATS["parquet"][:-100], "cut short"),
        (b"PAR1", "cut short"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_by_name(
    data: bytes | str, message: str, read: Any
) -> None:
    with pytest.raises(ManifestError) as caught:
        read(data, "list.csv")
    assert message in str(caught.value)
    assert "list.csv: " in str(caught.value)


def test_a_decompression_bomb_is_refused(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "_MAX_TEXT", 1 << 20)
    with pytest.raises(ManifestError, match="split it"):
        read(gzip.compress(b"audio\n" + b"a" * (1 << 21)))


@pytest.mark.parametrize("uri", ["{}/none.csv", "{}/*.none", "gopher://host/list.csv"])
def test_a_missing_manifest_is_an_error(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        read_manifest(uri.format(tmp_path), {})


# ------------------------------------------------------------------------------- fuzz


_FUZZ = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@_FUZZ
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(alphabet='audio,;"\t\n\r{}[]:01.-e\\\ufeffé\0', max_size=80).map(str.encode),
        st.binary(max_size=60).map(lambda data: b"audio,offset_s\n" + data),
        st.binary(max_size=60).map(lambda data: b'{"audio": "' + data),
        st.binary(max_size=60).map(gzip.compress),
    )
)
@example(data=b'{"audio": ' + b"[" * 100_000)
@example(data=b"audio")
@example(data=b'audio\n"')
def test_any_bytes_give_a_manifest_error_or_a_table(data: bytes, read: Any) -> None:
    try:
        table = rows(read(data))
    except ManifestError:
        return
    assert len({row["recording_id"] for row in table}) == len(table)


@_FUZZ
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_parquet_gives_a_manifest_error_or_a_table(
    edits: list[tuple[float, int]], read: Any
) -> None:
    damaged = bytearray(_FORMATS["parquet"])
    for place, value in edits:
        damaged[int(place * (len(damaged) - 1))] = value
    try:
        rows(read(bytes(damaged)))
    except ManifestError:
        return
