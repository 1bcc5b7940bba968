"""Word times by loudness: near the sound, in order, and nothing else of a label changes."""

import random
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LabelConfig
from pipeline.models.features import log_mel
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.decoding import ClipOutput, label_clip
from pipeline.models.sensevoice.model import SenseVoice
from pipeline.models.sensevoice.word_times import Span, grow
from tests.support.demo import AUDIO, GOOD, MODEL, ROOT, waveform_of

DIGITS = ROOT.parent / "shared" / "audio" / "digits"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def loud(n_frames: int, *stretches: tuple[int, int]) -> np.ndarray:
    """A contour that is loud from the first to before the second frame of each stretch."""
    contour = np.full(n_frames, 2.0, np.float32)
    for first, end in stretches:
        contour[first:end] = 12.0
    return contour


def test_a_word_reaches_to_the_edges_of_the_loud_stretch_around_its_peak() -> None:
    (word,) = grow([Span(0.60, 0.66)], loud(200, (20, 66)))
    # Smoothing over 30 ms moves an edge by one frame; a frame of 25 ms is at its middle.
    assert word.start_s == pytest.approx(0.19 + 0.0125)
    assert word.end_s == pytest.approx(0.66 + 0.0125)


def test_a_peak_may_stand_after_the_sound_of_its_word() -> None:
    (word,) = grow([Span(0.60, 0.72)], loud(200, (20, 66)))
    assert word.end_s == pytest.approx(0.6725)


def test_words_without_a_pause_meet_at_the_end_of_the_earlier_peak() -> None:
    first, second, third = grow(
        [Span(0.4, 0.46), Span(0.8, 0.86), Span(1.5, 1.56)], loud(200, (20, 90), (120, 160))
    )
    assert (first.end_s, second.start_s) == (0.46, 0.46)
    assert second.end_s == pytest.approx(0.9125)
    assert third.start_s == pytest.approx(1.2025)


def test_a_word_in_no_loud_stretch_keeps_its_peak() -> None:
    far, other = grow([Span(1.0, 1.06), Span(1.8, 1.86)], loud(200, (20, 50), (150, 190)))
    assert far == Span(1.0, 1.06)
    assert other.start_s == pytest.approx(1.5025)
    assert grow([Span(0.0, 0.06)], np.zeros(0, np.float32)) == [Span(0.0, 0.06)]


def test_a_sound_below_a_quarter_of_the_way_to_loud_is_no_word() -> None:
    contour = loud(200, (20, 66))
    contour[100:140] = 4.0  # loud begins at 2 + 10 / 4
    _, breath = grow([Span(0.60, 0.66), Span(1.20, 1.26)], contour)
    assert breath == Span(1.20, 1.26)


spans = st.lists(st.integers(0, 60), min_size=2, max_size=12).map(sorted)


@given(edges=spans, seed=st.integers(0, 2**32 - 1), is_gated=st.booleans())
def test_words_stay_in_order_apart_and_at_their_peaks(
    edges: list[int], seed: int, is_gated: bool
) -> None:
    peaks = [Span(first * 0.06, end * 0.06) for first, end in pairwise(edges)][::2]
    generator = np.random.default_rng(seed)
    contour = generator.normal(5.0, 3.0, 400).astype(np.float32)
    if is_gated:
        contour[generator.integers(0, 400, 100)] = -15.94  # digital silence
    words = grow(peaks, contour)
    assert len(words) == len(peaks)
    for peak, word in zip(peaks, words, strict=True):
        assert 0.0 <= word.start_s <= peak.start_s
        assert peak.start_s <= word.end_s <= max(4.0125, peak.end_s)
    for before, after in pairwise(words):
        assert before.end_s <= after.start_s


# ------------------------------------------------------------------------------ with the model


@cache
def model() -> SenseVoice:
    return SenseVoice(resolve_model(str(MODEL)))


def transcribed(features: np.ndarray, use_itn: bool = False) -> ClipOutput:
    (output,) = model().transcribe([features], ["auto"], [use_itn])
    return output


def test_only_the_times_of_the_words_depend_on_how_they_are_placed() -> None:
    for row in GOOD:
        waveform = waveform_of(AUDIO / row["audio"])[: 20 * 16_000]
        features = log_mel(waveform)
        output, end_s = transcribed(features), len(waveform) / 16_000
        by_peak, by_loudness = (
            label_clip(output, model().vocabulary, 0.0, end_s, False, contour)
            for contour in (None, features.mean(axis=1))
        )
        times = [one.pop("words") for one in (by_peak, by_loudness)]
        assert by_peak == by_loudness
        assert len(times[0]) == len(times[1])
        for before, after in zip(*times, strict=True):
            kept = ("word", "confidence", "peak_s")
            assert [before[name] for name in kept] == [after[name] for name in kept]
            assert 0.0 <= after["start_s"] <= after["end_s"] <= end_s


def test_the_default_is_where_ctc_has_them() -> None:
    assert LabelConfig().word_times == "peak"


def digit(number: int, speaker: str, take: int) -> np.ndarray:
    """A spoken digit without the silence around it, trimmed at -30 dB."""
    waveform = waveform_of(DIGITS / f"{number}_{speaker}_{take}.wav").astype(np.float64)
    power = np.convolve(waveform**2, np.ones(160) / 160, "same")
    is_on = np.flatnonzero(power > power.max() * 1e-3)
    return waveform[is_on[0] : is_on[-1] + 1]


def four_digits(seed: int, gaps_s: tuple[float, float]) -> tuple[np.ndarray, list[str], list[Span]]:
    chosen = random.Random(seed)
    speaker = chosen.choice(("george", "jackson", "lucas", "nicolas"))
    pieces = [np.zeros(4_000)]
    words, places = [], []
    for _ in range(4):
        number = chosen.randrange(10)
        waveform = digit(number, speaker, chosen.randrange(5, 40))
        start = sum(map(len, pieces))
        words.append(NAMES[number])
        places.append(Span(start / 16_000, (start + len(waveform)) / 16_000))
        pieces += [waveform, np.zeros(round(16_000 * chosen.uniform(*gaps_s)))]
    pieces.append(np.zeros(4_000))
    hiss = np.random.default_rng(seed).standard_normal(sum(map(len, pieces))) * 2
    return (np.concatenate(pieces) + hiss).astype(np.int16), words, places


@pytest.mark.skipif(not DIGITS.is_dir(), reason="the spoken digits of ../shared are not here")
@pytest.mark.parametrize("gaps_s", [(0.15, 0.6), (0.0, 0.08)])
def test_spoken_digits_begin_and_end_where_they_sound(gaps_s: tuple[float, float]) -> None:
    errors: dict[str, list[tuple[float, float]]] = {"peak": [], "contour": []}
    for seed in range(12):
        waveform, words, places = four_digits(seed, gaps_s)
        features = log_mel(waveform)
        output, end_s = transcribed(features), len(waveform) / 16_000
        for kind, contour in (("peak", None), ("contour", features.mean(axis=1))):
            label = label_clip(output, model().vocabulary, 0.0, end_s, False, contour)
            if label["text"].lower().split() == words:  # two of three are right in all words
                errors[kind] += [
                    (abs(one["start_s"] - place.start_s), abs(one["end_s"] - place.end_s))
                    for one, place in zip(label["words"], places, strict=True)
                ]
    assert len(errors["contour"]) > 20
    assert np.mean(errors["peak"], axis=0)[0] > 0.25
    start_s, end_s = np.mean(errors["contour"], axis=0)
    assert start_s < 0.06
    assert end_s < 0.04
