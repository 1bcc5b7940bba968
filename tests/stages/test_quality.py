"""Quality of a segment, against values that follow from how its audio was made."""

import math
from typing import Any

import numpy as np
import pytest

from pipeline.audio.meter import Meter
from pipeline.schema import SAMPLE_RATE, Segment
from pipeline.stages.quality import measure_segments, measure_text

TIMES_S = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
WHOLE = Segment(0.0, 20.0)


def db(value: float) -> float:
    return math.pow(10, value / 20)


def talking(level_db: float, noise_db: float) -> np.ndarray:
    """A tone of this RMS in every other half second, over white noise: (n_samples,) int16."""
    is_on = (TIMES_S * 2).astype(int) % 2 == 0
    tone = db(level_db) * math.sqrt(2) * np.sin(2 * np.pi * 440 * TIMES_S) * is_on
    hiss = db(noise_db) * np.random.default_rng(0).standard_normal(len(TIMES_S))
    return np.asarray(np.rint((tone + hiss) * 32768), np.int16)


SPOKEN = [Segment(float(second), second + 0.5) for second in range(20)]


def measured(
    waveform: np.ndarray, segment: Segment, speech: list[Segment], start_s: float = 0.0
) -> dict[str, Any]:
    meter = Meter()
    meter.add((waveform / 32768).astype(np.float32)[:, None], SAMPLE_RATE)
    meter.finish()
    (row,) = measure_segments(waveform, meter.levels(), [segment], speech, start_s)
    return row


def test_the_noise_is_what_the_vad_found_no_speech_in() -> None:
    found = measured(talking(-20, -50), WHOLE, SPOKEN)
    assert found["snr_db"] == pytest.approx(30.0, abs=0.2)
    assert found["noise_dbfs"] == pytest.approx(-50.0, abs=0.2)
    assert (found["snr_method"], found["speech_s"]) == ("vad", 10.0)


def test_without_noise_around_the_quietest_frames_are_the_noise() -> None:
    found = measured(talking(-20, -50), WHOLE, [WHOLE])
    assert found["snr_db"] == pytest.approx(30.46, abs=0.2)
    assert (found["snr_method"], found["speech_s"]) == ("floor", 20.0)


def test_the_noise_around_a_segment_counts_up_to_a_second_away() -> None:
    waveform = talking(-20, -50)
    waveform[: 5 * SAMPLE_RATE] = 0  # further away than a second
    found = measured(waveform, Segment(8.0, 8.5), SPOKEN)
    assert found["noise_dbfs"] == pytest.approx(-50.0, abs=0.3)


@pytest.mark.parametrize(("level_db", "expected"), [(-20.0, 80.0), (-200.0, -10.0)])
def test_the_ratio_has_limits(level_db: float, expected: float) -> None:
    """Digital silence between words, and no sound at all."""
    assert measured(talking(level_db, -200), WHOLE, SPOKEN)["snr_db"] == pytest.approx(
        expected, abs=2.0
    )


def test_a_segment_without_speech_has_no_ratio() -> None:
    found = measured(talking(-20, -50), Segment(0.5, 1.0), SPOKEN)
    assert math.isnan(found["snr_db"])
    assert (found["snr_method"], found["speech_s"]) == ("", 0)


def test_the_level_of_a_segment_is_that_of_its_hops() -> None:
    waveform = np.rint(np.clip(3 * np.sin(2 * np.pi * 997 * TIMES_S), -1, 1) * 32767)
    waveform[: 10 * SAMPLE_RATE] *= 0.01
    found = measured(waveform.astype(np.int16), Segment(12.0, 14.0), [])
    assert found["sample_peak_dbfs"] == pytest.approx(0.0, abs=0.01)
    assert found["clipped_share"] == pytest.approx(2 / math.pi * math.acos(1 / 3), abs=0.002)
    quiet = measured(waveform.astype(np.int16), Segment(2.0, 2.2), [])  # too short to be gated
    assert quiet["sample_peak_dbfs"] == pytest.approx(-40.0, abs=0.1)
    assert quiet["clipped_share"] == 0
    assert found["loudness_lufs"] - quiet["loudness_lufs"] == pytest.approx(40, abs=0.1)


def test_the_hops_of_a_window_that_starts_between_two() -> None:
    """The window starts 60 ms into its first hop: second 0.1 of it is 160 ms after that."""
    waveform = np.zeros(2 * SAMPLE_RATE, np.int16)
    meter = Meter()
    ramp = np.repeat(np.arange(30) / 32, SAMPLE_RATE // 10)
    meter.add(ramp[:, None].astype(np.float32), SAMPLE_RATE)
    (row,) = measure_segments(waveform, meter.levels(10), [Segment(0.14, 0.24)], [], 1.06)
    assert row["sample_peak_dbfs"] == pytest.approx(20 * math.log10(12 / 32), abs=1e-6)


def test_a_segment_that_is_shorter_than_a_hop_and_one_at_the_end() -> None:
    waveform = talking(-20, -50)
    for segment in (Segment(3.01, 3.06), Segment(19.97, 20.0)):
        assert measured(waveform, segment, SPOKEN)["sample_peak_dbfs"] < 0


def label(text: str, *words: str) -> dict[str, Any]:
    return {"text": text, "words": [{"word": word} for word in words]}


def test_the_speed_of_a_text() -> None:
    found = measure_text(label("Yes, yes, no!", "yes", "yes", "no"), 2.0)
    assert found == {"chars_per_s": 4.0, "words_per_s": 1.5, "unique_token_ratio": 2 / 3}


def test_marks_and_spaces_are_no_characters() -> None:
    assert measure_text(label("今天 天气。", "今", "天"), 1.0)["chars_per_s"] == 4
    assert measure_text(label("e\u0301t\u0301", "et"), 1.0)["chars_per_s"] == 2


@pytest.mark.parametrize(("text", "speech_s"), [("", 1.0), ("...", 1.0), ("yes", 0.0)])
def test_no_text_or_no_speech_has_no_speed(text: str, speech_s: float) -> None:
    assert all(math.isnan(value) for value in measure_text(label(text), speech_s).values())
