"""Whole files of captions and of Kaldi, as literals of one recording with two segments."""

from pathlib import Path

import pytest

from pipeline.export.captions import srt_time, vtt_time, write_rttm, write_srt, write_vtt
from pipeline.export.formats import write_kaldi
from pipeline.export.rows import ExportRow, ExportTarget
from tests.export.test_export import row

LAUGHTER = {"event": "laughter", "start_s": 70.25, "end_s": 71.0, "probability": 0.625}
SPEECH = {"event": "speech", "start_s": 70.0, "end_s": 72.5, "probability": 0.75}


def rows() -> list[ExportRow]:
    second = {"key": "a-000001", "segment_id": "a-000001", "start_s": 70.0, "end_s": 72.5}
    return [
        row(),
        row(**second, text="", language="ko", confidence=0.5, sounds=(SPEECH, LAUGHTER)),
        row(**second, text="", language="nospeech"),
    ]


@pytest.fixture
def target(tmp_path: Path) -> ExportTarget:
    return ExportTarget(tmp_path, str(tmp_path), clips=False)


def test_srt_numbers_its_cues(target: ExportTarget, tmp_path: Path) -> None:
    write_srt(rows(), target)
    assert (tmp_path / "a.srt").read_text() == (
        "1\n00:00:01,000 --> 00:00:02,500\none two\n"
        "\n2\n00:01:10,000 --> 00:01:12,500\n[laughter]\n"
    )


def test_vtt_names_its_cues(target: ExportTarget, tmp_path: Path) -> None:
    write_vtt(rows(), target)
    assert (tmp_path / "a.vtt").read_text() == (
        "WEBVTT\n"
        "\na-000000\n00:00:01.000 --> 00:00:02.500\none two\n"
        "\na-000001\n00:01:10.000 --> 00:01:12.500\n[laughter]\n"
    )


def test_rttm_has_begin_and_length_of_languages_and_events(
    target: ExportTarget, tmp_path: Path
) -> None:
    write_rttm(rows(), target)
    assert (tmp_path / "languages.rttm").read_text() == (
        "SPEAKER a 1 1.000 1.500 <NA> <NA> en 0.900 <NA>\n"
        "SPEAKER a 1 70.000 2.500 <NA> <NA> ko 0.500 <NA>\n"
    )
    assert (tmp_path / "events.rttm").read_text() == (
        "SPEAKER a 1 70.000 2.500 <NA> <NA> speech 0.750 <NA>\n"
        "SPEAKER a 1 70.250 0.750 <NA> <NA> laughter 0.625 <NA>\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "00:00:00.000"),
        (61.0625, "00:01:01.062"),
        (3_599.9994, "00:59:59.999"),
        (3_599.9996, "01:00:00.000"),
        (90_061.5, "25:01:01.500"),
    ],
)
def test_times_of_captions(seconds: float, text: str) -> None:
    assert vtt_time(seconds) == text
    assert srt_time(seconds) == text.replace(".", ",")


@pytest.mark.parametrize("uri", ["s3://bucket/a.wav", "s3a://bucket/a.wav", "/audio/a\nb.wav"])
def test_kaldi_cannot_read_what_its_shell_cannot_open(uri: str, target: ExportTarget) -> None:
    with pytest.raises(ValueError, match=r"wav\.scp"):
        write_kaldi([row(uri=uri)], target)


def test_kaldi_reads_clips_wherever_the_recording_lies(tmp_path: Path) -> None:
    write_kaldi([row(uri="s3://bucket/a.wav")], ExportTarget(tmp_path, "/final", clips=True))
    assert (tmp_path / "wav.scp").read_text() == "a-000000 /final/audio/00/a-000000.wav\n"
    assert (tmp_path / "utt2dur").read_text() == "a-000000 1.5000\n"
