"""Which rows are one recording, and what their ids show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ErrorType
from pipeline.manifest.identity import identities, name_of, names, redacted
from pipeline.manifest.read import read_manifest
from pipeline.planning.plan import make_plan
from pipeline.schema import TABLES

Read = Callable[..., Any]
AWS = "X-Amz-Date={0}&X-Amz-Signature=s{0}"
AZURE = "sv=1&se={0}&sig=s{0}"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(*audio: str, ids: bool = False) -> Any:
        header = "audio,audio_version" + (",recording_id\n" if ids else "\n")
        rows = [f"{uri},v1" + (",same\n" if ids else "\n") for uri in audio]
        (tmp_path / "list.csv").write_text(header + "".join(rows))
        return read_manifest(str(tmp_path / "list.csv"), {}, allow_http=True)

    return read


@pytest.mark.parametrize("name", ["id", "key", "se", "sp", "st", "auth", "token", "user", "q"])
def test_rows_that_differ_in_one_parameter_are_two_recordings(name: str, read: Read) -> None:
    manifest = read(*(f"https://h/a.wav?{name}={n}" for n in (1, 2, 3)))
    assert (manifest.n_rows, manifest.n_duplicates) == (3, 0)
    assert set(manifest.table["error_type"].to_pylist()) == {""}
    assert len(set(manifest.table["recording_id"].to_pylist())) == 3


@pytest.mark.parametrize("signature", [AWS, AZURE, "q-sign-time={0}&q-signature={0}"])
def test_an_object_signed_anew_each_night_is_one_recording(signature: str, read: Read) -> None:
    one, two = (f"https://h/a.wav?take=7&{signature.format(night)}" for night in (1, 2))
    assert read(one, two).n_duplicates == 1
    first, second = (
        make_plan(read(uri), TABLES["recordings"].empty_table(), "f", {}).todo for uri in (one, two)
    )
    for column in ("recording_id", "work_key"):
        assert first[column].to_pylist() == second[column].to_pylist()


def test_an_id_shows_no_hidden_value_and_stays_unique() -> None:
    one, two = (name_of(f"https://h/a.wav?user={n}") for n in ("ann", "bob"))
    assert one.startswith("https://h/a.wav?user=***~")
    assert one != two
    assert name_of("https://me:pw@h/a.wav?user=ann&access_token=x") == one


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "/data/a?b=1.wav",
            "s3://b/a.wav",
            "s3://b/what?.wav",
            "https://h/a.wav",
            "s3://b/t#1.wav",
        ),
        *("https://h/a.wav?id=5", "https://h/a.wav?page=2&versionId=x", "abfs://c@account/a.wav"),
    ],
)
def test_the_id_of_an_address_without_credentials_is_the_address(uri: str) -> None:
    assert name_of(uri) == uri
    assert names(pa.array([uri, ""])).to_pylist() == [uri, ""]
    assert identities(pa.chunked_array([[uri]])).to_pylist() == [uri]


def test_texts_of_other_columns_lose_only_the_credentials_of_addresses() -> None:
    texts = pa.array(["who? you@me #1", None, "https://h/a?sig=s", "x https://u:p@h/a, y", ""])
    assert redacted(texts).to_pylist() == [
        "who? you@me #1",
        None,
        "https://h/a?sig=***",
        "x https://***@h/a, y",
        "",
    ]


def test_a_line_break_hides_nothing_from_the_redaction() -> None:
    assert "s3cr3t" not in names(pa.array(["https://h/a\n?s3cr3t"]))[0].as_py()


def test_the_message_of_a_used_id_shows_no_credential(read: Read) -> None:
    table = read("https://u:s3cr3t@h/a.wav?q=s3cr3t", "https://h/b.wav", ids=True).table
    kinds, messages = (table[name].to_pylist() for name in ("error_type", "error_message"))
    assert kinds == ["", ErrorType.DUPLICATE_ID]
    assert "https://h/a.wav?q=***" in messages[1]
    assert "s3cr3t" not in messages[1]


def test_the_id_of_a_renamed_row_does_not_change_with_its_signature(read: Read) -> None:
    first, second = (
        read("https://h/a.wav", f"https://h/b.wav?{AWS.format(night)}", ids=True).table
        for night in (1, 2)
    )
    assert first["recording_id"].to_pylist() == second["recording_id"].to_pylist()


def test_a_given_id_that_is_a_signed_address_is_not_stored_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("audio,recording_id\nhttps://h/a.wav,https://h/a.wav?sig=s3cr3t&sv=1\n")
    ids = read_manifest(str(path), {}, allow_http=True).table["recording_id"].to_pylist()
    assert ids == ["https://h/a.wav"]
