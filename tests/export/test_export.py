"""Exports, read back by the libraries that use the formats."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import sentencepiece

from pipeline.errors import ExportError
from pipeline.export.captions import cue_text, vtt_time, write_vtt
from pipeline.export.formats import write_kaldi
from pipeline.export.rows import ExportRow, ExportTarget
from pipeline.export.write import FORMATS, export
from pipeline.models.sensevoice.decoding import EMOTION_TAGS, EVENT_TAGS, TEXT_NORM_TAGS
from pipeline.schema import SAMPLE_RATE
from pipeline.storage.store import open_store
from pipeline.tables import connect
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.demo import AUDIO, MODEL, ROOT, waveform_of
from tests.support.s3_server import S3

SPEECH = "text <> ''"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def texts_of(root: str, where: str = SPEECH) -> dict[str, str]:
    sql = f"SELECT segment_id, text FROM segments WHERE {where}"
    return dict(connect(root).execute(sql).fetchall())


def row(**fields: Any) -> ExportRow:
    values: dict[str, Any] = {
        **{"key": "a-000000", "name": "a", "subfolder": "00", "recording_id": "a"},
        **{"segment_id": "a-000000", "uri": "/audio/a.wav", "start_s": 1.0, "end_s": 2.5},
        **{"text": "one two", "language": "en", "emotion": "happy", "event": "speech"},
        **{"sounds": (), "confidence": 0.9, "itn": True, "words": ()},
        **{"recording_end_s": 9.0, "sample_rate_hz": 16_000, "channels": 1},
    }
    return ExportRow(**(values | fields))


# ------------------------------------------------------------------------- SenseVoice


def test_sensevoice_lines_have_the_keys_of_its_example(labelled_root: str, tmp_path: Path) -> None:
    export(labelled_root, tmp_path / "x", "sensevoice", "recording_id = 'en_neutral'")
    (line,) = lines_of(tmp_path / "x" / "train.jsonl")
    assert line == {
        "key": "en_neutral-000000",
        "text_language": "<|en|>",
        "emo_target": "<|NEUTRAL|>",
        "event_target": "<|Speech|>",
        "with_or_wo_itn": "<|withitn|>",
        "target": "00083.",
        "source": line["source"],
        "target_len": 6,
        "source_len": pytest.approx(307, abs=20),  # frames of 10 ms
    }
    clip = read_wav(Path(line["source"]))
    assert line["source_len"] == clip.size // 160


@pytest.mark.usefixtures("funasr")
def test_funasr_reads_the_sensevoice_lines(labelled_root: str, tmp_path: Path) -> None:
    from funasr.datasets.audio_datasets.index_ds import IndexDSJsonlRankFull

    export(labelled_root, tmp_path / "x", "sensevoice", SPEECH)
    read = IndexDSJsonlRankFull(str(tmp_path / "x" / "train.jsonl"), max_token_length=2000)
    assert len(read) == len(texts_of(labelled_root))
    assert read[0]["text_language"] == "<|en|>"
    assert Path(read[0]["source"]).is_file()


def test_every_label_has_a_tag_of_the_vocabulary() -> None:
    tokenizer = sentencepiece.SentencePieceProcessor()
    tokenizer.load(str(MODEL / "chn_jpn_yue_eng_ko_spectok.bpe.model"))
    tags = [*EMOTION_TAGS.values(), *EVENT_TAGS.values(), *TEXT_NORM_TAGS.values()]
    assert [tag for tag in tags if tokenizer.piece_to_id(tag) == tokenizer.unk_id()] == []


# ------------------------------------------------------------------------------ clips


def test_clips_are_the_samples_that_were_labelled(labelled_root: str, tmp_path: Path) -> None:
    export(labelled_root, tmp_path / "x", "sensevoice", "recording_id = 'long_mixed'")
    waveform = waveform_of(AUDIO / "long_mixed.mp3")
    sql = "SELECT segment_id, start_s, end_s FROM segments WHERE recording_id = 'long_mixed'"
    segments = connect(labelled_root).execute(sql).fetchall()
    lines = {line["key"]: line for line in lines_of(tmp_path / "x" / "train.jsonl")}
    assert len(segments) == len(lines) > 15
    for key, start_s, end_s in segments:
        expected = waveform[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
        assert np.array_equal(read_wav(Path(lines[key]["source"])), expected)


def test_clips_are_cut_from_audio_on_s3(s3: S3, tmp_path: Path) -> None:
    root = tmp_path / "tables"
    bucket = s3.new_bucket()
    store = open_store(bucket, s3.storage_options)
    store.put("ko.flac", (AUDIO / "ko_neutral.flac").read_bytes())
    publish_rows(str(root), window("ko", n_segments=1) | {"uri": f"{bucket}/ko.flac"})
    export(str(root), tmp_path / "x", "nemo", audio="clips", options=s3.storage_options)
    (line,) = lines_of(tmp_path / "x" / "manifest.jsonl")
    assert read_wav(tmp_path / "x" / line["audio_filepath"]).size == 2.5 * SAMPLE_RATE


def publish_rows(root: str, *rows: dict[str, Any]) -> None:
    store = open_store(root)
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)


def test_a_recording_with_missing_audio_is_left_out_and_listed(tmp_path: Path) -> None:
    root = str(tmp_path / "tables")
    publish_rows(
        root,
        window("here", n_segments=1) | {"uri": str(AUDIO / "en_sad.opus")},
        window("gone") | {"uri": str(tmp_path / "gone.wav")},
        window("shorter", n_segments=2) | {"uri": str(AUDIO / "ko_angry.m4a")},
    )
    done = export(root, tmp_path / "x", "audiofolder")
    assert (done.n_recordings, done.n_segments) == (1, 1)
    assert "FileMissing" in done.skipped["gone"]
    assert "label it again" in done.skipped["shorter"]
    assert len(list((tmp_path / "x" / "audio").rglob("*.wav"))) == 1
    assert json.loads((tmp_path / "x" / "export.json").read_text())["skipped"] == done.skipped


def test_an_export_without_any_readable_audio_gives_a_reason(tmp_path: Path) -> None:
    root = str(tmp_path / "tables")
    publish_rows(root, window("missing") | {"uri": str(tmp_path / "missing.wav")})
    with pytest.raises(ExportError, match=r"no recording can be read, e\.g\. missing: FileMissing"):
        export(root, tmp_path / "x", "audiofolder")


# ------------------------------------------------------------------- other libraries


def test_nemo_lines_have_the_offset_in_the_file(labelled_root: str, tmp_path: Path) -> None:
    export(labelled_root, tmp_path / "x", "nemo", "recording_id = 'long_mixed'")
    first = lines_of(tmp_path / "x" / "manifest.jsonl")[0]
    assert first["audio_filepath"] == str(AUDIO / "long_mixed.mp3")
    assert (first["text"], first["pred_text"], first["lang"]) == ("02745.", "02745.", "en")
    assert first["offset"] == pytest.approx(1.5, abs=0.35)
    assert first["duration"] == pytest.approx(2.6, abs=0.7)


@pytest.mark.parametrize("audio", ["reference", "clips"])
def test_lhotse_loads_the_cuts_and_their_audio(
    labelled_root: str, tmp_path: Path, audio: Any
) -> None:
    lhotse = pytest.importorskip("lhotse")
    where = "recording_id IN ('zh_neutral_44k_stereo', 'ko_neutral', 'en_neutral')"
    export(labelled_root, tmp_path / "x", "lhotse", where, audio)
    cuts = list(lhotse.CutSet.from_file(tmp_path / "x" / "cuts.jsonl.gz"))
    texts = {cut.supervisions[0].custom["segment_id"]: cut.supervisions[0].text for cut in cuts}
    assert texts == texts_of(labelled_root, where)
    for cut in cuts:
        lhotse.qa.validate(cut)
        samples = cut.load_audio()
        assert samples.shape[-1] == round(cut.duration * cut.sampling_rate)
        words = cut.supervisions[0].alignment["word"]
        assert 0 <= words[0].start <= words[-1].end <= cut.duration + 0.1


def test_lhotse_recordings_and_supervisions_are_consistent(
    labelled_root: str, tmp_path: Path
) -> None:
    lhotse = pytest.importorskip("lhotse")
    export(labelled_root, tmp_path / "x", "lhotse", SPEECH)
    recordings = lhotse.RecordingSet.from_file(tmp_path / "x" / "recordings.jsonl.gz")
    supervisions = lhotse.SupervisionSet.from_file(tmp_path / "x" / "supervisions.jsonl.gz")
    lhotse.qa.validate_recordings_and_supervisions(recordings, supervisions)
    assert len(list(supervisions)) == len(texts_of(labelled_root))


def test_hugging_face_datasets_loads_the_parquet(labelled_root: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export(labelled_root, tmp_path / "x", "parquet", SPEECH)
    loaded = datasets.load_dataset(str(tmp_path / "x"), split="train", cache_dir=str(tmp_path))
    assert loaded.features["audio"] == datasets.Audio(sampling_rate=SAMPLE_RATE)
    raw = loaded.cast_column("audio", datasets.Audio(decode=False))  # decoding needs torchcodec
    assert {row["segment_id"]: row["text"] for row in raw} == texts_of(labelled_root)
    assert raw[0]["audio"]["bytes"].startswith(b"RIFF")


def test_hugging_face_datasets_loads_the_audiofolder(
    labelled_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    export(labelled_root, tmp_path / "x", "audiofolder", "recording_id = 'long_mixed'")
    # Audio.encode_example imports this for arrays. Our examples are paths, which do not use it.
    encoders: Any = ModuleType("torchcodec.encoders")
    encoders.AudioEncoder = None
    monkeypatch.setitem(sys.modules, "torchcodec.encoders", encoders)
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    loaded = datasets.load_dataset(
        "audiofolder", data_dir=str(tmp_path / "x"), split="train", cache_dir=str(tmp_path)
    )
    assert loaded.features["audio"] == datasets.Audio()
    raw = loaded.cast_column("audio", datasets.Audio(decode=False))
    rows = {row["segment_id"]: row for row in raw}
    where = "recording_id = 'long_mixed'"
    assert {name: row["text"] for name, row in rows.items()} == texts_of(labelled_root, where)
    for name, row in rows.items():
        assert Path(row["audio"]["path"]).name == f"{name}.wav"
        assert read_wav(Path(row["audio"]["path"])).size == round(row["duration_s"] * SAMPLE_RATE)


def test_a_parquet_export_has_no_separate_clips(labelled_root: str, tmp_path: Path) -> None:
    export(labelled_root, tmp_path / "x", "parquet", SPEECH)
    names = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert names == ["README.md", "data", "export.json"]


# ------------------------------------------------------------------------ timed text


def test_srt_and_vtt_have_a_cue_per_segment(labelled_root: str, tmp_path: Path) -> None:
    export(labelled_root, tmp_path / "srt", "srt")
    export(labelled_root, tmp_path / "vtt", "vtt")
    srt = (tmp_path / "srt" / "en_neutral.srt").read_text(encoding="utf-8")
    number, times, text = srt.splitlines()
    assert (number, text) == ("1", "00083.")
    assert times.startswith("00:00:00,") and " --> 00:00:03," in times
    vtt = (tmp_path / "vtt" / "long_mixed.vtt").read_text(encoding="utf-8")
    assert vtt.startswith("WEBVTT\n\nlong_mixed-000000\n00:00:01.")
    assert "[laughter]" in vtt


@pytest.mark.parametrize(("format", "codec"), [("srt", "srt"), ("vtt", "webvtt")])
def test_ffmpeg_reads_the_cues(labelled_root: str, tmp_path: Path, format: Any, codec: str) -> None:
    where = f"{SPEECH} AND recording_id = 'long_mixed'"
    export(labelled_root, tmp_path / "x", format, where)
    with av.open(str(tmp_path / "x" / f"long_mixed.{format}")) as file:
        (stream,) = file.streams.subtitles
        assert stream.codec_context.name == codec
        cues = [packet for packet in file.demux(stream) if packet.size]
    sql = f"SELECT text, start_s, end_s - start_s FROM segments WHERE {where} ORDER BY segment_id"
    rows = connect(labelled_root).execute(sql).fetchall()
    for cue, (text, start_s, length_s) in zip(cues, rows, strict=True):
        assert bytes(cue).decode() == text
        assert (cue.pts, cue.duration) == (round(start_s * 1000), round(length_s * 1000))


def test_a_time_carries_seconds_and_has_no_limit_of_hours() -> None:
    assert vtt_time(59.9996) == "00:01:00.000"
    assert vtt_time(360_000.5) == "100:00:00.500"


def test_a_cue_shows_events_only_if_it_has_no_text() -> None:
    laughter = {"event": "laughter", "start_s": 0, "end_s": 1, "probability": 1}
    speech = laughter | {"event": "speech"}
    assert cue_text("ha\n\nha", [laughter]) == "ha ha"
    assert cue_text("", [speech, laughter, laughter]) == "[laughter]"
    assert cue_text("", [speech]) == ""


def test_text_cannot_end_a_vtt_cue(tmp_path: Path) -> None:
    target = ExportTarget(tmp_path, str(tmp_path), clips=False)
    write_vtt([row(text="a <b>\n\n--> 00:00 & c")], target)
    assert "a &lt;b&gt; --&gt; 00:00 &amp; c\n" in (tmp_path / "a.vtt").read_text()


def test_rttm_lines_have_ten_fields(labelled_root: str, tmp_path: Path) -> None:
    export(labelled_root, tmp_path / "x", "rttm")
    for name, label in (("languages", "en"), ("events", "laughter")):
        lines = (tmp_path / "x" / f"{name}.rttm").read_text(encoding="utf-8").splitlines()
        assert {len(line.split(" ")) for line in lines} == {10}
        assert label in {line.split(" ")[7] for line in lines}
    assert "nospeech" not in (tmp_path / "x" / "languages.rttm").read_text()


def test_lhotse_reads_the_rttm(labelled_root: str, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    export(labelled_root, tmp_path / "x", "rttm", SPEECH)
    supervisions = lhotse.SupervisionSet.from_rttm(tmp_path / "x" / "languages.rttm")
    rows = connect(labelled_root).execute(
        f"SELECT recording_id, start_s, language FROM segments WHERE {SPEECH}"
    )
    assert {(one.recording_id, one.start, one.speaker) for one in supervisions} == set(
        rows.fetchall()
    )


# ----------------------------------------------------------------------------- Kaldi


def test_lhotse_loads_the_kaldi_directory(labelled_root: str, tmp_path: Path) -> None:
    kaldi = pytest.importorskip("lhotse.kaldi")
    export(labelled_root, tmp_path / "x", "kaldi", SPEECH, "clips")
    recordings, supervisions, _ = kaldi.load_kaldi_data_dir(tmp_path / "x", SAMPLE_RATE)
    assert {one.id: one.text for one in supervisions} == texts_of(labelled_root)
    for recording in recordings:
        assert recording.load_audio().shape[1] == recording.num_samples


@pytest.mark.parametrize("audio", ["reference", "clips"])
def test_a_kaldi_directory_is_sorted_and_complete(
    labelled_root: str, tmp_path: Path, audio: Any
) -> None:
    export(labelled_root, tmp_path / "x", "kaldi", SPEECH, audio)
    keys = {}
    for path in (tmp_path / "x").glob("[!a-e]*"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines == sorted(lines, key=lambda line: line.split(" ")[0].encode())
        keys[path.name] = [line.split(" ")[0] for line in lines]
    assert keys["text"] == keys["utt2spk"] == sorted(texts_of(labelled_root))
    assert keys["text"] == keys["wav.scp" if audio == "clips" else "segments"]


def test_kaldi_keys_are_sorted_if_a_name_starts_with_another(tmp_path: Path) -> None:
    root = str(tmp_path / "tables")
    publish_rows(root, window("a"), window("a-b"), window("a.b"), window("A"))
    export(root, tmp_path / "x", "kaldi")
    keys = [line.split(" ")[0] for line in (tmp_path / "x" / "text").read_text().splitlines()]
    assert keys == sorted(keys)
    assert len(keys) == 8


def test_the_command_in_wav_scp_quotes_the_name(tmp_path: Path) -> None:
    uri = "/audio/$(touch pwned); `x` 'y'.wav"
    write_kaldi([row(uri=uri)], ExportTarget(tmp_path, str(tmp_path), clips=False))
    name, command = (tmp_path / "wav.scp").read_text().rstrip().split(" ", 1)
    assert name == "a"
    assert shlex.split(command)[5] == uri


# ----------------------------------------------------------------- complete or absent


@pytest.mark.parametrize("format", FORMATS)
def test_a_condition_that_fits_nothing_is_refused_and_writes_nothing(
    labelled_root: str, tmp_path: Path, format: Any
) -> None:
    with pytest.raises(ExportError, match="nothing to export"):
        export(labelled_root, tmp_path / "x", format, "language = 'none'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["colour = 'red'", "true); DROP VIEW segments; SELECT (true"])
def test_a_wrong_condition_is_refused_with_its_reason(
    labelled_root: str, tmp_path: Path, where: str
) -> None:
    with pytest.raises(ExportError, match="is not an SQL condition"):
        export(labelled_root, tmp_path / "x", "nemo", where)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_empty_is_left_unchanged(
    labelled_root: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ExportError, match="not empty"):
        export(labelled_root, tmp_path, "nemo")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_directory_is_filled(labelled_root: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    export(labelled_root, tmp_path / "x", "nemo")
    assert (tmp_path / "x" / "manifest.jsonl").exists()


@pytest.mark.parametrize(
    ("format", "audio", "reason"),
    [("sensevoice", "reference", "use --audio clips"), ("srt", "clips", "has no clips")],
)
def test_a_kind_of_audio_that_a_format_cannot_have_is_refused(
    labelled_root: str, tmp_path: Path, format: Any, audio: Any, reason: str
) -> None:
    with pytest.raises(ExportError, match=reason):
        export(labelled_root, tmp_path / "x", format, audio=audio)


def test_no_name_writes_outside_of_the_directory(tmp_path: Path) -> None:
    root = str(tmp_path / "tables")
    ids = [
        "../../evil",
        "/etc/passwd",
        "s3://b/a b.wav",
        ".hidden",
        "中文",
        "x" * 300,
        "a/b",
        "a_b",
    ]
    publish_rows(
        root, *(window(i, n_segments=1) | {"uri": str(AUDIO / "en_sad.opus")} for i in ids)
    )
    export(root, tmp_path / "deep" / "er" / "x", "audiofolder")
    folder = tmp_path / "deep" / "er" / "x"
    clips = [folder / line["file_name"] for line in lines_of(folder / "metadata.jsonl")]
    assert len(set(clips)) == len(ids)
    assert all(clip.resolve().is_relative_to(folder) and clip.is_file() for clip in clips)
    assert {path.name for path in tmp_path.iterdir()} == {"tables", "deep"}
    assert any(clip.name == "中文-000000.wav" for clip in clips)


def run_job(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "jobs.export", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )


def test_the_job_shows_what_it_wrote(labelled_root: str, tmp_path: Path) -> None:
    target = str(tmp_path / "x")
    done = run_job(labelled_root, "--format", "nemo", "-o", target, "--where", "language = 'ko'")
    assert done.returncode == 0, done.stderr
    assert "segments of" in done.stdout and "as nemo in" in done.stdout
    again = run_job(labelled_root, "--format", "nemo", "-o", target)
    assert again.returncode == 2
    assert "not empty" in again.stderr and "Traceback" not in again.stderr


def mangled(recording_id: str) -> str:
    """The name that an export gives to an id that is not a good file name."""
    return f"a_b--{hashlib.sha256(recording_id.encode()).hexdigest()[:32]}"


def test_an_id_that_looks_like_the_name_of_another_does_not_replace_it(tmp_path: Path) -> None:
    md5 = hashlib.md5(b"a/b", usedforsecurity=False).hexdigest()
    ids = ["a/b", mangled("a/b"), f"a_b-{md5[:10]}", "a_b", "a b", mangled(mangled("a/b"))]
    store = open_store(str(tmp_path / "root"))
    write_bundle(store, RUN, bundle(*map(window, ids)))
    publish(store, RUN)
    done = export(store.root, tmp_path / "x", "srt")
    files = [path for path in (tmp_path / "x").iterdir() if path.suffix == ".srt"]
    assert len(files) == done.n_recordings == len(ids)
    first_lines = {path.read_text().splitlines()[2] for path in files}
    assert first_lines == {f"{' '.join(name.split())} v1 a1 0.0" for name in ids}
    assert (tmp_path / "x" / f"{mangled('a/b')}.srt").read_text().splitlines()[2].startswith("a/b ")
