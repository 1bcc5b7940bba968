"""The segment stage alone: where long speech is cut, and whose features a segment gets."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import SegmentConfig
from pipeline.models.features import log_mel
from pipeline.models.vad.load import load_vad
from pipeline.schema import N_MELS, SAMPLE_RATE, SEGMENTED, WINDOW, Segment
from pipeline.stages.segment import FindSegments, loudest_second_dbfs
from tests.models.vad.test_vad import write_random_fsmn
from tests.stages.test_stages import plan_row
from tests.support.bundle_rows import NO_GAPS
from tests.support.demo import AUDIO, SHORT, waveform_of

CONFIG = SegmentConfig()


def noise(duration_s: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(scale=3_000, size=round(duration_s * SAMPLE_RATE)).astype(np.int16)


class NothingFound:
    """A VAD that finds no speech."""

    def find_speech(self, waveforms: Any, log_mels: Any) -> list[list[Segment]]:
        return [[] for _ in waveforms]


def window_row(waveform: np.ndarray) -> dict[str, Any]:
    return plan_row("/a.wav") | {
        **{"attempt_id": "a1", "window_index": 0, "n_windows": 1, "window_start_s": 0.0},
        **{"duration_s": len(waveform) / SAMPLE_RATE, "sample_rate_hz": 16_000, "channels": 1},
        **{"codec": "", "warning": "", "waveform": waveform.tobytes(), "is_only": True},
        **{"measures": [], "levels": b""},
        **NO_GAPS,
    }


def segment(
    waveform: np.ndarray,
    config: SegmentConfig = CONFIG,
    vad: Any = None,
    warning: str = "",
    **fields: Any,
) -> dict[str, Any]:
    row = window_row(waveform) | {"warning": warning, **fields}
    stage = FindSegments(lambda: vad or load_vad("none", config), config)
    found = pa.concat_tables(stage(pa.Table.from_pylist([row], schema=WINDOW)))
    assert found.schema == SEGMENTED
    return dict(found.to_pylist()[0])


def places(row: dict[str, Any]) -> list[tuple[float, float]]:
    return [(one["start_s"], one["end_s"]) for one in row["segments"]]


def test_speech_that_is_too_long_is_cut_in_its_pause() -> None:
    """Even parts would meet at 20.0 s, in the middle of a word."""
    waveform = noise(40.0)
    waveform[17 * SAMPLE_RATE : 17 * SAMPLE_RATE + SAMPLE_RATE // 2] = 0
    (start_s, cut_s), (next_s, end_s) = places(segment(waveform))
    assert (start_s, end_s) == (0.0, 40.0)
    assert 17.0 < cut_s == next_s < 17.5


def test_a_loud_stretch_is_no_place_to_cut() -> None:
    waveform = noise(40.0) // 100
    waveform[17 * SAMPLE_RATE : 18 * SAMPLE_RATE] *= 100
    (_, cut_s), _ = places(segment(waveform))
    assert not 16.8 < cut_s < 18.2


@pytest.mark.parametrize("duration_s", [0.5, 40.0])
def test_segments_carry_the_features_of_their_own_audio(duration_s: float) -> None:
    """To the bit what the clip alone would have: frames of 25 ms, every 10 ms."""
    waveform = noise(duration_s)
    row = segment(waveform)
    features = np.frombuffer(row["features"], np.float32).reshape(-1, N_MELS)
    expected = [
        log_mel(waveform[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)])
        for start_s, end_s in places(row)
    ]
    np.testing.assert_allclose(features, np.concatenate(expected), atol=1e-5)
    counts = [one["n_frames"] for one in row["segments"]]
    assert counts == [len(one) for one in expected]


def test_what_is_shorter_than_a_segment_may_be_is_none() -> None:
    row = segment(noise(0.09))
    assert (places(row), row["features"]) == ([], b"")
    assert places(segment(noise(0.1))) == [(0.0, 0.1)]


def test_loud_audio_without_a_segment_gets_a_warning() -> None:
    waveform = np.zeros(10 * SAMPLE_RATE, np.int16)
    waveform[5 * SAMPLE_RATE :] = noise(5.0)
    row = segment(waveform, vad=NothingFound(), warning="odd header")
    text = "no segment found from 0 to 10 s, although the loudest second has -21 dBFS"
    assert (row["segments"], row["warning"]) == ([], f"odd header; {text}")


@pytest.mark.parametrize("scale", [0, 1 / 32, 1])
def test_silence_and_found_speech_get_no_warning(scale: float) -> None:
    waveform = (noise(3.0) * scale).astype(np.int16)
    vad = None if scale == 1 else NothingFound()
    assert segment(waveform, vad=vad)["warning"] == ""


@pytest.mark.parametrize(("n_samples", "dbfs"), [(1, -6.02), (16_000, -6.02), (100_001, -6.02)])
def test_the_level_of_the_loudest_second_is_its_rms(n_samples: int, dbfs: float) -> None:
    assert loudest_second_dbfs(np.full(n_samples, 16_384, np.int16)) == pytest.approx(
        dbfs, abs=0.01
    )
    assert loudest_second_dbfs(np.zeros(n_samples, np.int16)) == float("-inf")


def test_a_second_of_sound_anywhere_counts_in_full() -> None:
    waveform = np.zeros(8 * SAMPLE_RATE, np.int16)
    waveform[5 * SAMPLE_RATE // 2 : 7 * SAMPLE_RATE // 2] = 16_384
    assert loudest_second_dbfs(waveform) == pytest.approx(-6.02, abs=0.01)


class Blind:
    """A VAD that finds one word, from 2 s to 3 s, whatever it is given; and counts."""

    def __init__(self) -> None:
        self.n_asked = 0

    def find_speech(self, waveforms: Any, features: Any) -> list[list[Segment]]:
        self.n_asked += len(waveforms)
        return [[Segment(2.0, 3.0)] for _ in waveforms]


def test_a_short_recording_is_labelled_whole_and_the_vad_is_not_asked() -> None:
    vad = Blind()
    config = CONFIG.model_copy(update={"whole_below_s": 10.0})
    assert places(segment(noise(9.5), config, vad)) == [(0.0, 9.5)]
    assert vad.n_asked == 0
    assert places(segment(noise(10.0), config, vad)) == [(2.0, 3.0)]
    assert vad.n_asked == 1


def test_only_a_whole_recording_is_whole_and_no_short_window_of_a_long_one() -> None:
    config = CONFIG.model_copy(update={"whole_below_s": 10.0})
    row = segment(noise(9.5), config, Blind())
    assert places(row) == [(0.0, 9.5)]
    last = segment(noise(9.5), config, Blind(), window_index=3, n_windows=4, is_only=False)
    assert places(last) == [(2.0, 3.0)]


def test_silence_is_labelled_from_one_second_on_in_order() -> None:
    config = CONFIG.model_copy(update={"silence": "label"})
    row = segment(noise(3.5), config, Blind())
    assert places(row) == [(0.0, 2.0), (2.0, 3.0)]
    assert [one["is_silence"] for one in row["segments"]] == [True, False]
    row = segment(noise(70.0), config, Blind())
    assert places(row)[:2] == [(0.0, 2.0), (2.0, 3.0)]
    assert places(row)[-1][1] == 70.0
    assert all(end_s - start_s <= 30.0 for start_s, end_s in places(row))
    assert row["warning"] == ""


@pytest.mark.parametrize("name", ["none", "silero", "fsmn"])
def test_short_recordings_together_have_the_segments_and_features_of_each_alone(
    name: str, tmp_path: Path
) -> None:
    """To the bit: which recordings share a table is chance."""
    if name == "fsmn":
        write_random_fsmn(tmp_path)
    vad = str(tmp_path) if name == "fsmn" else name
    waveforms = [waveform_of(AUDIO / row["audio"]) for row in SHORT]
    stage = FindSegments(lambda: load_vad(vad, CONFIG), CONFIG)
    rows = [window_row(waveform) for waveform in waveforms]
    alone = [found for row in rows for found in stage(pa.Table.from_pylist([row], schema=WINDOW))]
    together = list(stage(pa.Table.from_pylist(rows, schema=WINDOW)))
    assert [table.num_rows for table in together] != [1] * len(rows)
    assert pa.concat_tables(together).to_pylist() == pa.concat_tables(alone).to_pylist()


def test_a_long_window_is_not_joined_with_others() -> None:
    """Else the features of several would be in memory at once."""
    rows = [window_row(noise(duration_s)) for duration_s in (1.0, 100.0, 2.0, 3.0)]
    stage = FindSegments(NothingFound, CONFIG)
    tables = list(stage(pa.Table.from_pylist(rows, schema=WINDOW)))
    assert [table.num_rows for table in tables] == [1, 1, 2]
