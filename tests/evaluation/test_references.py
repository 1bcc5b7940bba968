"""References in what people have: each format from a small made file, and how they are joined."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluation.corpora import from_extra, read_references
from pipeline.evaluation.references import Reference, ReferenceSet, TimedWord, join, spoken_only
from pipeline.storage.store import filesystem_for
from tests.support.s3_server import S3


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Reference]:
    return {one.key: one for one in read_references(str(path)).references}


ROW = {
    "recording_id": "a",
    "ref_text": "one two",
    "ref_text_itn": "12.",
    "ref_language": "<|en|>",
    "ref_emotion": "HAPPY",
    "ref_event": "Speech, Laughter",
    "ref_speaker": "s1",
}
EXPECTED = Reference(
    key="a",
    text="one two",
    text_itn="12.",
    language="en",
    emotion="happy",
    events=("speech", "laughter"),
    speaker="s1",
)


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.csv", "r.tsv", "r.parquet"])
def test_a_table_of_our_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist([ROW]), path)
    elif ".jsonl" in name:
        data = (json.dumps(ROW) + "\n").encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    else:
        out = io.StringIO()
        writer = csv.DictWriter(out, list(ROW), delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writeheader()
        writer.writerow(ROW)
        write(path, out.getvalue())
    assert read(path) == {"a": EXPECTED}


def test_sensevoices_own_jsonl(tmp_path: Path) -> None:
    line = {
        "key": "YOU0000008470_S0000238_punc_itn",
        "text_language": "<|en|>",
        "emo_target": "<|EMO_UNKNOWN|>",
        "event_target": "<|Speech|>",
        "with_or_wo_itn": "<|withitn|>",
        "target": "Including legal due diligence.",
        "source": "/audio/YOU0000008470_S0000238.wav",
    }
    (found,) = read(write(tmp_path / "train.jsonl", json.dumps(line))).values()
    assert (found.text, found.language) == ("Including legal due diligence.", "en")
    assert (found.emotion, found.events) == (None, ("speech",))


def test_kaldi(tmp_path: Path) -> None:
    write(tmp_path / "text", "utt1 hello world\nutt2 你好\n\n")
    assert {key: one.text for key, one in read(tmp_path).items()} == {
        "utt1": "hello world",
        "utt2": "你好",
    }


def test_librispeech(tmp_path: Path) -> None:
    write(tmp_path / "84" / "121123" / "84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR\n")
    (found,) = read(tmp_path).values()
    assert found == Reference("84-121123-0000", "GO DO YOU HEAR", language="en", speaker="84")


def test_aishell(tmp_path: Path) -> None:
    text = "BAC009S0764W0121 甚至 出现 交易 ａｂｃ 几乎\n"
    write(tmp_path / "transcript" / "aishell_transcript_v0.8.txt", text)
    (found,) = read(tmp_path).values()
    assert (found.text, found.language, found.speaker) == ("甚至出现交易abc几乎", "zh", "S0764")


def test_common_voice_has_no_quoting(tmp_path: Path) -> None:
    text = 'client_id\tpath\tsentence\tlocale\nx\tcv_1.mp3\t"He said so.\tzh-CN\n'
    (found,) = read(write(tmp_path / "test.tsv", text)).values()
    assert (found.key, found.text, found.language) == ("cv_1.mp3", '"He said so.', "zh")


def test_lhotse_supervisions_with_word_times(tmp_path: Path) -> None:
    rows = [
        {"id": "b", "recording_id": "r", "start": 2.0, "duration": 1.0, "text": "two"}
        | {"alignment": {"word": [["two", 2.1, 0.5, 0.9]]}},
        {"id": "a", "recording_id": "r", "start": 0.0, "duration": 1.5, "text": "one"}
        | {"language": "English", "speaker": "s", "custom": {"emotion": "sad"}},
    ]
    data = "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "supervisions.jsonl.gz").write_bytes(gzip.compress(data))
    (found,) = read(tmp_path).values()
    assert (found.text, found.language, found.emotion) == ("one two", "en", "sad")
    assert found.speech == ((0.0, 1.5), (2.0, 3.0))
    assert found.words == (TimedWord("two", 2.1, 2.6),)


def test_esc50(tmp_path: Path) -> None:
    text = "filename,fold,target,category\n1-a.wav,1,22,clapping\n1-b.wav,1,0,dog\n"
    write(tmp_path / "meta" / "esc50.csv", text)
    found = read(tmp_path)
    assert (found["1-a.wav"].events, found["1-b.wav"].events) == (("applause",), ())


def test_ravdess_and_crema_d_say_it_in_the_name(tmp_path: Path) -> None:
    for name in (
        *("03-01-05-01-02-01-16", "03-01-02-01-01-01-07", "03-02-05-01-02-01-16"),
        *("1001_DFA_ANG_XX", "1002_IEO_NEU_HI", "other"),
    ):
        write(tmp_path / f"{name}.wav", "")
    found = {key: (one.emotion, one.speaker) for key, one in read(tmp_path).items()}
    assert found == {
        "03-01-05-01-02-01-16": ("angry", "16"),
        "03-01-02-01-01-01-07": (None, "07"),
        "1001_DFA_ANG_XX": ("angry", "1001"),
        "1002_IEO_NEU_HI": ("neutral", "1002"),
    }


def test_ravdess_calm_is_counted_and_told(tmp_path: Path) -> None:
    write(tmp_path / "03-01-02-01-01-01-07.wav", "")
    assert read_references(str(tmp_path)).unmapped == {"emotion: calm": 1}


def test_esd(tmp_path: Path) -> None:
    write(tmp_path / "0001" / "0001.txt", "0001_000001\t打远一看\tHappy\n")
    chinese = read(tmp_path / "0001" / "..")["0001_000001"]
    assert (chinese.language, chinese.emotion) == ("zh", "happy")
    (tmp_path / "0001" / "0001.txt").unlink()
    write(tmp_path / "0011" / "0011.txt", "0011_000001\tThe nine the eggs.\tNeutral\n")
    (found,) = read(tmp_path).values()
    assert (found.text, found.emotion, found.speaker) == ("The nine the eggs.", "neutral", "0011")


def test_what_has_no_label_is_counted_and_told(tmp_path: Path) -> None:
    rows = [{"id": str(n), "emotion": one} for n, one in enumerate(["bored", "bored", "calm", ""])]
    path = write(tmp_path / "r.jsonl", "\n".join(map(json.dumps, rows)))
    found = read_references(str(path))
    assert dict(found.unmapped) == {"emotion: bored": 2, "emotion: calm": 1}
    assert [one.emotion for one in found.references] == [None] * 4


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("r.jsonl", '{"a": 1}', "line 1 has none of the keys recording_id"),
        ("r.jsonl", "{", "cannot be read as references"),
        ("r.jsonl", "[1]", "line 1 is not an object"),
        ("r.jsonl", "", "holds no references"),
        ("r.docx", "", "no reader for this name"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_references(str(write(tmp_path / name, text)))
    with pytest.raises(ConfigError, match="does not exist"):
        read_references(str(tmp_path / "nothing"))


def test_the_manifests_own_columns() -> None:
    found = ReferenceSet("manifest")
    extra = {name: value for name, value in ROW.items() if name.startswith("ref_")}
    assert from_extra("a", extra, found) == EXPECTED
    assert from_extra("a", {"corpus": "x"}, found) is None
    one = from_extra("a", {"ref_text": "x", "speaker": "s9"}, found)
    assert one is not None
    assert one.speaker == "s9"


def test_an_event_without_a_label_is_not_the_absence_of_events(tmp_path: Path) -> None:
    events = ["siren", "Event_UNK", "siren, cough"]
    rows = [{"id": str(n), "event": one} for n, one in enumerate(events)]
    found = read_references(str(write(tmp_path / "r.jsonl", "\n".join(map(json.dumps, rows)))))
    assert [one.events for one in found.references] == [None, (), ("cough",)]
    assert found.unmapped == {"event: siren": 2}


def joined(keys: list[str], uris: dict[str, str]) -> Any:
    return join(ReferenceSet("r", [Reference(key) for key in keys]), uris)


def test_a_key_is_an_id_or_a_name_of_a_file() -> None:
    uris = {"id1": "s3://b/x/one.wav", "id2": "s3://b/y/two.flac", "id3": "s3://b/z/two.wav"}
    found = joined(["id3", "one.mp3", "s3://b/y/two.flac", "three"], uris)
    assert set(found.by_recording) == {"id1", "id2", "id3"}
    assert (found.n_missing, found.n_without) == (1, 0)
    ambiguous = joined(["two", "id1"], uris)
    assert set(ambiguous.by_recording) == {"id1"}
    assert ambiguous.n_missing == 1


def test_a_repeated_key_and_an_empty_join_are_refused() -> None:
    with pytest.raises(ConfigError, match="the key 'a' occurs more than once"):
        joined(["a", "b", "a"], {"a": "/a.wav"})
    with pytest.raises(ConfigError, match=r"'a' and 'b\.wav' are the same recording"):
        joined(["a", "b.wav"], {"a": "/b.wav"})
    with pytest.raises(ConfigError, match="keys like 'x', the tables recording_ids like 'a'"):
        joined(["x"], {"a": "/a.wav"})


def test_spelled_numbers_are_recognised() -> None:
    assert spoken_only([Reference("a", "one two"), Reference("b", "three")])
    assert not spoken_only([Reference("a", "one 2")])
    assert not spoken_only([Reference("a", "one two", text_itn="12")])
    assert not spoken_only([Reference("a", emotion="sad")])


def test_references_in_an_object_store_are_read_as_local_ones(s3: S3) -> None:
    bucket = s3.new_bucket()
    fs, path = filesystem_for(bucket, s3.storage_options)
    fs.pipe(f"{path}/r.jsonl", b'{"key": "a", "text": "one two"}')
    fs.pipe(f"{path}/kaldi/text", b"a one two")
    for place in (f"{bucket}/r.jsonl", f"{bucket}/kaldi"):
        found = read_references(place, s3.storage_options)
        assert [(one.key, one.text) for one in found.references] == [("a", "one two")]
        assert found.source == place
    with pytest.raises(ConfigError, match="cannot be read as references"):
        read_references(f"{bucket}/none.jsonl", s3.storage_options)


@pytest.mark.parametrize(
    ("text", "speech"),
    [
        ('[{"start_s": 1.5, "end_s": 4}, {"start_s": 5, "end_s": 6}]', ((1.5, 4.0), (5.0, 6.0))),
        ("[[1.5, 4]]", ((1.5, 4.0),)),
        ("not json", None),
        ('[{"from": 1}]', None),
        ("", None),
    ],
)
def test_the_manifests_own_intervals_of_speech(text: str, speech: object) -> None:
    own = from_extra("a", {"ref_segments": text}, ReferenceSet("manifest"))
    assert (own.speech if own else None) == speech
