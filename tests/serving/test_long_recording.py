"""A recording of 40 minutes in windows of ten: the segments and labels of the service and a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.audio.windows import decode
from pipeline.tables import open_snapshot
from tests.serving.test_app import post, serving
from tests.support.demo import AUDIO, LONG, demo_config, execute, waveform_of, write_manifest

WINDOW_S, LENGTH_S, RATE_HZ = 600, 2_400, 16_000
EXACT = ("text", "rich_text", "language")
WORD = ("word", "start_s", "end_s")


def make_recording(path: Path) -> None:
    """Speech for 100 s around the end of each window, and silence, which costs little, between."""
    speech = waveform_of(AUDIO / LONG["audio"])
    samples = np.zeros(LENGTH_S * RATE_HZ, np.int16)
    for end_s in range(WINDOW_S, LENGTH_S, WINDOW_S):
        start = end_s * RATE_HZ - len(speech) // 2
        samples[start : start + len(speech)] = speech
    soundfile.write(path, samples, RATE_HZ)


def words_of(segment: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(word[name] for name in WORD) for word in segment["words"]]


@pytest.mark.usefixtures("patience")
def test_a_long_recording_has_the_segments_and_labels_of_the_tables(tmp_path: Path) -> None:
    recording = tmp_path / "long.flac"
    make_recording(recording)
    manifest = write_manifest(tmp_path, [{"audio": str(recording), "recording_id": "long"}])
    settings = f"manifest={manifest}", f"audio.window_s={WINDOW_S}", "ray.local=always"
    config = demo_config(tmp_path / "root", *settings)
    execute(config)
    tables = open_snapshot(str(tmp_path / "root"))
    rows = {name: tables.read(name).to_pylist() for name in ("transcripts", "emotions")}
    emotions = {row["segment_id"]: row["emotion"] for row in rows["emotions"]}
    expected = sorted(rows["transcripts"], key=lambda row: float(row["start_s"]))

    with serving(config) as (url, _):
        data = recording.read_bytes()
        got = post(url, "/v1/audio/transcriptions", data, response_format="verbose_json").json()

    assert got["duration"] == LENGTH_S
    assert len(got["segments"]) == len(expected) > 50
    for ours, row in zip(got["segments"], expected, strict=True):
        assert (ours["start"], ours["end"]) == (row["start_s"], row["end_s"])
        assert [ours[name] for name in EXACT] == [row[name] for name in EXACT]
        assert words_of(ours) == words_of(row)
        assert ours["emotion"] == emotions[row["segment_id"]]
    cuts_s = [window.start_s for window in decode(str(recording), config.audio, {})][1:]
    assert len(cuts_s) == LENGTH_S // WINDOW_S
    for cut_s in cuts_s[:-1]:  # between two segments of a group; the last one is in silence
        gaps_s = [abs(cut_s - edge) for row in expected for edge in (row["start_s"], row["end_s"])]
        assert min(gaps_s) < 5
        assert not any(row["start_s"] < cut_s < row["end_s"] for row in expected)
