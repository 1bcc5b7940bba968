"""Random tokens of the shipped vocabulary always give labels, and a text without tags."""

import re

import numpy as np
import pyarrow as pa
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.models.sensevoice.decoding import ClipOutput, Vocabulary, label_clip
from pipeline.schema import EMOTIONS, EVENTS, LABELLED_SEGMENT, LANGUAGES
from tests.support.demo import MODEL

(_MODEL,) = MODEL.glob("*.model")
VOCABULARY = Vocabulary(sentencepiece.SentencePieceProcessor(model_file=str(_MODEL)))
N_TOKENS = len(VOCABULARY.pieces)
TAGS = np.flatnonzero(VOCABULARY.is_tag).tolist()


def distributions(size: int) -> st.SearchStrategy[np.ndarray]:
    """Anything that a softmax can return, certainty and ties included."""
    weights = st.lists(st.floats(0, 1, width=32), min_size=size, max_size=size)
    return weights.map(lambda w: (np.array(w) / (sum(w) or 1)).astype(np.float32))


tokens_of_any_kind = st.lists(
    st.one_of(st.integers(0, N_TOKENS - 1), st.sampled_from([0, *TAGS])), max_size=60
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    tokens=tokens_of_any_kind,
    language=distributions(len(LANGUAGES)),
    emotion=distributions(len(EMOTIONS)),
    event=distributions(len(EVENTS)),
    start_s=st.floats(0, 1e6),
    length_s=st.floats(0, 60),
)
@example([], np.zeros(6), np.zeros(9), np.zeros(12), 0.0, 0.0)
@example(TAGS, np.zeros(6), np.zeros(9), np.zeros(12), 0.0, 1.0)
def test_any_tokens_give_a_segment_whose_text_has_no_tag(
    tokens: list[int],
    language: np.ndarray,
    emotion: np.ndarray,
    event: np.ndarray,
    start_s: float,
    length_s: float,
) -> None:
    ids = np.array(tokens, np.int64)
    output = ClipOutput(ids, np.full(len(ids), 0.5, np.float32), language, emotion, event)
    start_s, end_s = round(start_s, 3), round(start_s + length_s, 3)
    segment = label_clip(output, VOCABULARY, start_s, end_s, itn=True)
    pa.array([segment], LABELLED_SEGMENT)  # every field is there, with its type
    assert not re.search(r"<\|.*?\|>", segment["text"])
    assert not [word for word in segment["words"] if "<|" in word["word"]]
    for part in (*segment["words"], *segment["events"]):
        assert start_s <= part["start_s"] <= part["end_s"] <= end_s
