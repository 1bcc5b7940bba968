"""A given text in time: the best path, divided over segments, and texts that cannot be placed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RecordingError
from pipeline.models.sensevoice.alignment import align, tokens_of, wanted_tokens
from pipeline.models.sensevoice.decoding import label_clip
from tests.models.sensevoice.test_decoding import TAGS, VOCABULARY, frames_of


def emission(*pieces: str, ids: list[int]) -> Any:
    """The output of a clip in which each frame is nearly sure of its piece ("": blank)."""
    output = frames_of(*TAGS, *pieces)
    columns = wanted_tokens(ids)
    is_it = output.tokens[:, None] == np.array(columns)
    return replace(output, wanted=np.log(np.where(is_it, 0.9, 0.001)).astype(np.float32))


def ids_of(*pieces: str) -> list[int]:
    return [VOCABULARY.pieces.index(piece) for piece in pieces]


def test_a_text_is_placed_where_its_tokens_are() -> None:
    ids = ids_of("▁two", "▁ze", "ro")
    output = emission("", "▁two", "▁two", "", "", "▁ze", "ro", "", ids=ids)
    ((two, ze, ro),) = align([output], ids, VOCABULARY)
    assert [(run.token, run.first, run.last) for run in (two, ze, ro)] == [
        (ids[0], 1, 3),
        (ids[1], 5, 6),
        (ids[2], 6, 7),
    ]
    assert two.probability == pytest.approx(0.9)
    label = label_clip(output, VOCABULARY, 10.0, 12.0, False, aligned=[two, ze, ro])
    assert label["text"] == "two zero"
    assert [(w["word"], w["start_s"], w["end_s"]) for w in label["words"]] == [
        ("two", 10.03, 10.15),
        ("zero", 10.27, 10.39),
    ]


def test_the_text_counts_and_not_what_the_model_would_say() -> None:
    """The model hears two words; the text has one, whose probability is told."""
    ids = ids_of("▁ze", "ro")
    output = emission("▁two", "", "▁ze", "", ids=ids)
    ((ze, ro),) = align([output], ids, VOCABULARY)
    assert (ze.first, ze.last) == (2, 3)
    assert ro.first >= 3
    assert ro.probability == pytest.approx(0.001)
    label = label_clip(output, VOCABULARY, 0.0, 1.0, False, aligned=[ze, ro])
    assert label["text"] == "zero"
    assert label["confidence"] == pytest.approx((0.9 + 0.001) / 2)
    assert label["rich_text"].endswith("two zero") or "two" in label["rich_text"]


def test_the_text_is_divided_over_the_segments_of_its_recording() -> None:
    ids = ids_of("▁two", "▁ze", "ro", "▁two")
    first = emission("▁two", "", "▁ze", ids=ids)
    second = emission("ro", "", "▁two", "", ids=ids)
    one, other = align([first, second], ids, VOCABULARY)
    assert [run.token for run in one] == ids[:3]  # a word is whole in the segment where it begins
    assert (one[2].first, one[2].last) == (3, 3)
    assert [(run.token, run.first, run.last) for run in other] == [(ids[3], 2, 3)]


def test_equal_tokens_in_a_row_are_two() -> None:
    ids = ids_of("▁two", "▁two")
    ((one, other),) = align([emission("▁two", "", "▁two", ids=ids)], ids, VOCABULARY)
    assert (one.first, other.first) == (0, 2)


def test_a_text_that_cannot_be_placed_says_why() -> None:
    ids = ids_of("▁two", "▁two")
    with pytest.raises(RecordingError, match=r"2 tokens and needs 3 frames.* have 2") as error:
        align([emission("▁two", "▁two", ids=ids)], ids, VOCABULARY)
    assert error.value.kind == "BadText"
    for text in ("", "  \n "):
        with pytest.raises(RecordingError, match="is empty"):
            tokens_of(text, VOCABULARY)
    with pytest.raises(RecordingError, match="no piece for '✈'"):
        tokens_of("two ✈", VOCABULARY)
    assert tokens_of(" two\n two ", VOCABULARY) == ids
