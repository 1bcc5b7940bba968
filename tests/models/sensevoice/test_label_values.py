"""The numbers of a labelled segment, from frames whose values all differ."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.models.sensevoice.decoding import best_spoken, label_clip, restrict_languages
from pipeline.schema import EMOTIONS, EVENTS, LANGUAGES
from tests.models.sensevoice.test_decoding import TAGS, VOCABULARY, frames_of

LANGUAGE = (0.5, 0.3, 0.1, 0.05, 0.03, 0.02)
EMOTION = (0.05, 0.02, 0.01, 0.3, 0.04, 0.03, 0.06, 0.07, 0.42)
EVENT = (0.6, 0.2, 0.05, 0.04, 0.03, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01)
PIECES = ("", "<|Laughter|>", "▁two", "▁two", "", "<|/Laughter|>", "▁ze", "ro")
PROBABILITIES = (0.31, 0.32, 0.33, 0.34, 0.9, 0.2, 0.4, 0.8, 0.95, 0.7, 0.6, 0.5)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


FRAMES = replace(
    frames_of(*TAGS, *PIECES),
    probabilities=floats(*PROBABILITIES),
    language=floats(*LANGUAGE),
    emotion=floats(*EMOTION),
    event=floats(*EVENT),
)


def label(**fields: Any) -> dict[str, Any]:
    return label_clip(replace(FRAMES, **fields), VOCABULARY, 10.0, 12.0, itn=False)


def with_probabilities(*pairs: tuple[str, float]) -> dict[str, Any]:
    """The label of a text of these pieces, each with its probability."""
    frames = frames_of(*TAGS, *(piece for piece, _ in pairs))
    values = floats(0.01, 0.01, 0.01, 0.01, *(value for _, value in pairs))
    return label_clip(replace(frames, probabilities=values), VOCABULARY, 10.0, 12.0, itn=True)


def test_every_column_of_a_segment_has_its_own_value() -> None:
    got = label()
    words, events = got.pop("words"), got.pop("events")
    shares = {name: got.pop(f"{name}_probabilities") for name in ("language", "emotion")}
    assert got == {
        "start_s": 10.0,
        "end_s": 12.0,
        "text": "two zero",
        "rich_text": "<|en|><|HAPPY|><|Speech|><|woitn|><|Laughter|> two<|/Laughter|> zero",
        "confidence": pytest.approx((0.8 + 0.6 + 0.5) / 3),
        "confidence_frames": pytest.approx(0.0114912 ** (1 / 8)),  # the product of all eight
        "confidence_min": pytest.approx(0.55),
        "n_tokens": 3,
        "itn": False,
        "language": "zh",
        "language_probability": pytest.approx(0.5),
        "language_runner_up": "en",
        "language_runner_up_probability": pytest.approx(0.3),
        "language_entropy": pytest.approx(1.2712478),  # -(0.5 ln 0.5 + 0.3 ln 0.3 + ...)
        "emotion": "unknown",
        "emotion_probability": pytest.approx(0.42),
        "emotion_runner_up": "neutral",
        "emotion_runner_up_probability": pytest.approx(0.3),
        "emotion_entropy": pytest.approx(1.5885255),
        "emotion_forced": "neutral",
    }
    assert shares["language"] == pytest.approx(dict(zip(LANGUAGES, LANGUAGE, strict=True)))
    assert shares["emotion"] == pytest.approx(dict(zip(EMOTIONS, EMOTION, strict=True)))
    # 60 ms a frame, from half a frame before the clip on
    assert [tuple(word.values()) for word in words] == [
        ("two", 10.09, 10.21, pytest.approx(0.8), 10.15),
        ("zero", 10.33, 10.45, pytest.approx(0.55), 10.39),
    ]
    assert [tuple(event.values()) for event in events] == [
        ("speech", pytest.approx(0.6), 10.0, 12.0, "tag"),
        ("laughter", pytest.approx(0.2), 10.03, 10.33, "inline"),
    ]


def test_a_segment_says_whether_its_numbers_were_written_as_digits() -> None:
    assert label_clip(FRAMES, VOCABULARY, 10.0, 12.0, itn=True)["itn"] is True
    assert label()["itn"] is False


def test_the_runner_up_is_the_second_best_in_any_order() -> None:
    got = label(language=floats(*LANGUAGE[::-1]), emotion=floats(*EMOTION[::-1]))
    assert (got["language"], got["language_runner_up"]) == ("nospeech", "ko")
    assert (got["emotion"], got["emotion_runner_up"]) == ("happy", "disgusted")
    assert got["emotion_forced"] == "happy"


def test_a_token_is_as_probable_as_its_best_frame() -> None:
    for values in ((0.4, 0.8), (0.8, 0.4)):
        got = with_probabilities(*(("▁two", value) for value in values))
        assert got["words"][0]["confidence"] == pytest.approx(0.8)
        assert got["confidence"] == pytest.approx(0.8)


def test_tags_inside_the_text_count_neither_as_tokens_nor_as_confidence() -> None:
    got = with_probabilities(("<|Laughter|>", 0.2), ("▁two", 0.8))
    assert (got["confidence"], got["n_tokens"]) == (pytest.approx(0.8), 1)


def test_frames_of_the_tags_and_blanks_count_as_no_confidence() -> None:
    assert with_probabilities(("", 0.3), ("▁two", 0.8), ("", 0.1))["confidence"] == (
        pytest.approx(0.8)
    )


def test_a_mark_belongs_to_a_word_but_not_to_its_confidence() -> None:
    (word,) = with_probabilities(("2", 0.9), ("0", 0.7), (".", 0.1))["words"]
    assert (word["word"], word["confidence"]) == ("20.", pytest.approx(0.8))


def test_an_event_that_is_never_closed_lasts_as_long_as_its_tag() -> None:
    pieces = ("▁two", "<|Laughter|>", "", "▁two")
    _, laughter = with_probabilities(*((piece, 0.6) for piece in pieces))["events"]
    assert (laughter["start_s"], laughter["end_s"]) == (10.03, 10.09)


def test_an_event_ends_at_the_first_tag_that_closes_it() -> None:
    pieces = ("<|Laughter|>", "", "<|/Laughter|>", "▁two", "<|/Laughter|>")
    _, laughter = with_probabilities(*((piece, 0.6) for piece in pieces))["events"]
    assert (laughter["start_s"], laughter["end_s"]) == (10.0, 10.15)


def test_an_unknown_event_is_no_event() -> None:
    got = label(event=floats(*(0.01,) * (len(EVENTS) - 1), 0.89))
    assert [event["source"] for event in got["events"]] == ["inline"]
    unknown = with_probabilities(("<|Event_UNK|>", 0.9), ("▁two", 0.9))["events"]
    assert [event["source"] for event in unknown] == ["tag"]


def test_a_spoken_language_is_never_nospeech() -> None:
    assert best_spoken(floats(0.1, 0.2, 0.0, 0.0, 0.0, 0.7)) == "en"


def test_restricted_probabilities_keep_their_proportions() -> None:
    restricted = restrict_languages(FRAMES, ["en", "yue"])
    np.testing.assert_allclose(restricted, np.array([0, 0.3, 0.1, 0, 0, 0.02]) / 0.42, rtol=1e-6)
    assert restricted.dtype == np.float32


def test_a_clip_without_frames_of_text_has_an_empty_text() -> None:
    got = label_clip(frames_of(*TAGS), VOCABULARY, 10.0, 12.0, itn=True)
    assert (got["text"], got["n_tokens"], got["confidence"], got["words"]) == ("", 0, 0.0, [])
