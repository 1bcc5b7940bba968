"""Segments of one channel, exported: their clips, and the channel where a format has a place."""

import gzip
import json
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.errors import ExportError
from pipeline.export.write import Audio, Format, export
from pipeline.storage.store import Store
from pipeline.tables import connect
from tests.support.call import RATE, channels, publish_call


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return publish_call(tmp_path)


def written(store: Store, folder: Path, format: Format, audio: Audio | None = None) -> Path:
    export(store.root, folder / format, format, audio=audio)
    return folder / format


def expected_clip(channel: int, start_s: float, end_s: float) -> Any:
    samples = channels()[channel - 1][round(start_s * RATE) : round(end_s * RATE), 0]
    return np.rint(samples * 32768)


def test_the_segments_of_both_channels_are_numbered_in_time_order(store: Store) -> None:
    rows = connect(store.root).sql("SELECT segment_id, channel, text FROM segments ORDER BY 1")
    assert rows.fetchall() == [
        ("call-000000", 1, "1 says 0"),
        ("call-000001", 2, "2 says 0"),
        ("call-000002", 1, "1 says 1"),
        ("call-000003", 2, "2 says 1"),
    ]
    (row,) = connect(store.root).sql("SELECT duration_s, n_streams FROM recordings").fetchall()
    assert row == (20.0, 2)


def test_a_clip_is_of_its_channel(store: Store, tmp_path: Path) -> None:
    folder = written(store, tmp_path, "sensevoice")
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert [line["target"][0] for line in lines] == ["1", "2", "1", "2"]
    for line, start_s in zip(lines, (0.0, 0.0, 4.0, 4.0), strict=True):
        clip, rate = soundfile.read(line["source"], dtype="int16")
        expected = expected_clip(int(line["target"][0]), start_s, start_s + 2.5)
        assert rate == RATE
        assert np.abs(clip - expected).max() <= 1


def test_lhotse_loads_the_channel_of_a_cut(store: Store, tmp_path: Path) -> None:
    folder = written(store, tmp_path, "lhotse")
    cuts = list(lhotse.CutSet.from_file(folder / "cuts.jsonl.gz"))
    assert [cut.channel for cut in cuts] == [0, 1, 0, 1]
    assert cuts[0].recording.duration == 10.0
    for cut in cuts:
        lhotse.qa.validate(cut)
        (samples,) = cut.load_audio()
        expected = expected_clip(cut.channel + 1, cut.start, cut.end)
        assert np.abs(samples * 32768 - expected).max() <= 1
    with gzip.open(folder / "recordings.jsonl.gz", "rt") as file:
        assert len(file.readlines()) == 1


def test_kaldi_gets_a_recording_for_each_channel(store: Store, tmp_path: Path) -> None:
    folder = written(store, tmp_path, "kaldi")
    segments = (folder / "segments").read_text().splitlines()
    assert segments[1] == "call-000001 call-channel2 0.0000 2.5000"
    first, second = (folder / "wav.scp").read_text().splitlines()
    assert first.startswith("call-channel1 ffmpeg")
    assert "-af 'aresample=async=1,pan=mono|c0=c1' -ac 1" in second


def test_captions_name_the_speaker_by_the_channel(store: Store, tmp_path: Path) -> None:
    srt = (written(store, tmp_path, "srt") / "call.srt").read_text()
    assert "2\n00:00:00,000 --> 00:00:02,500\nChannel 2: 2 says 0\n" in srt
    vtt = (written(store, tmp_path, "vtt") / "call.vtt").read_text()
    assert "\n<v Channel 2>2 says 0\n" in vtt
    rttm = (written(store, tmp_path, "rttm") / "languages.rttm").read_text().splitlines()
    assert [line.split()[2] for line in rttm] == ["1", "2", "1", "2"]


def test_label_studio_and_datasets_get_the_channel(store: Store, tmp_path: Path) -> None:
    (task,) = json.loads((written(store, tmp_path, "label-studio") / "tasks.json").read_text())
    results = task["predictions"][0]["result"]
    assert {result["id"]: result["value"]["channel"] for result in results} == {
        "000000": 0,
        "000001": 1,
        "000002": 0,
        "000003": 1,
    }
    (path,) = (written(store, tmp_path, "parquet") / "data").glob("*.parquet")
    assert pq.read_table(path)["channel"].to_pylist() == [1, 2, 1, 2]


def test_nemo_has_no_name_for_a_channel_and_asks_for_clips(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"channel 1 of .*call\.wav.*--audio clips"):
        written(store, tmp_path, "nemo")
    assert len((written(store, tmp_path, "nemo", "clips") / "manifest.jsonl").read_text()) > 0
