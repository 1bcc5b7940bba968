"""Labels of unusual greedy CTC outputs, with a vocabulary of a few dozen pieces."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from pipeline.errors import ModelError
from pipeline.models.sensevoice.decoding import (
    ClipOutput,
    Vocabulary,
    best_spoken,
    label_clip,
    restrict_languages,
    rich_text,
)
from pipeline.schema import EMOTIONS, EVENTS, LANGUAGES

pb: Any = sentencepiece_model_pb2  # generated code: its names exist at run time only

PIECES = (
    *("<unk>", "<s>", "</s>"),
    *("<|zh|>", "<|en|>", "<|yue|>", "<|ja|>", "<|ko|>", "<|ru|>", "<|nospeech|>"),
    *("<|HAPPY|>", "<|SAD|>", "<|ANGRY|>", "<|NEUTRAL|>", "<|FEARFUL|>", "<|DISGUSTED|>"),
    *("<|SURPRISED|>", "<|OTHER|>", "<|EMO_UNKNOWN|>"),
    *("<|Speech|>", "<|BGM|>", "<|Laughter|>", "<|/Laughter|>", "<|Applause|>", "<|Cry|>"),
    *("<|Sneeze|>", "<|Breath|>", "<|Cough|>", "<|Sing|>", "<|Speech_Noise|>", "<|GBG|>"),
    *("<|Event_UNK|>", "<|withitn|>", "<|woitn|>"),
    *("▁two", "▁ze", "ro", "三", "二", "2", "0", ".", "▁"),
    *("▁hit", "▁said", "hel", "lo", "1", "$", '"', "(", ")", "《", "》", "。", "▁$", "-", "'", "t"),
)


def make_tokenizer(pieces: tuple[str, ...]) -> sentencepiece.SentencePieceProcessor:
    model = pb.ModelProto()
    kinds = pb.ModelProto.SentencePiece
    for index, piece in enumerate(pieces):
        kind = kinds.UNKNOWN if piece == "<unk>" else kinds.NORMAL
        kind = kinds.USER_DEFINED if piece.startswith("<|") else kind
        model.pieces.add(piece=piece, score=-float(index), type=kind)
    model.trainer_spec.model_type = pb.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(pieces)
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


TOKENIZER = make_tokenizer(PIECES)
VOCABULARY = Vocabulary(TOKENIZER)


def one_hot(size: int, index: int, top: float = 0.9) -> np.ndarray:
    values = np.full(size, (1 - top) / (size - 1), np.float32)
    values[index] = top
    return values


def frames_of(
    *pieces: str, language: str = "en", emotion: str = "happy", event: str = "speech"
) -> ClipOutput:
    """ClipOutput whose best tokens are these pieces; "" is the blank."""
    tokens = np.array([TOKENIZER.piece_to_id(piece) if piece else 0 for piece in pieces])
    return ClipOutput(
        tokens,
        np.full(len(tokens), 0.5, np.float32),
        one_hot(len(LANGUAGES), LANGUAGES.index(language)),
        one_hot(len(EMOTIONS), EMOTIONS.index(emotion)),
        one_hot(len(EVENTS), EVENTS.index(event)),
    )


TAGS = ("<|en|>", "<|HAPPY|>", "<|Speech|>", "<|woitn|>")


def label(output: ClipOutput) -> dict[str, Any]:
    return label_clip(output, VOCABULARY, 10.0, 12.0, itn=False)


def test_repeats_collapse_unless_a_blank_separates_them() -> None:
    one = frames_of(*TAGS, "", "▁two", "▁two", "", "▁two", "▁ze", "ro")
    assert label(one)["text"] == "two two zero"
    assert label(one)["n_tokens"] == 4


def test_the_rich_text_keeps_the_tags_and_the_text_has_none() -> None:
    one = frames_of(*TAGS, "", "▁two")
    assert rich_text(one, VOCABULARY) == "<|en|><|HAPPY|><|Speech|><|woitn|> two"
    assert label(one)["text"] == "two"


@pytest.mark.parametrize(
    "pieces",
    [
        ("", "", "", "", "▁two"),  # no tag at all
        ("<|en|>", "", "<|Speech|>", "<|woitn|>", "▁two"),  # three
        ("<|en|>", "<|en|>", "<|Speech|>", "<|woitn|>", "<|en|>", "▁two"),  # one twice
        ("<|ru|>", "<|HAPPY|>", "<|Speech|>", "<|woitn|>", "▁two"),  # a language outside the five
        (*TAGS, "<|HAPPY|>", "▁two"),  # an emotion inside the text
    ],
)
def test_labels_do_not_depend_on_the_tags_in_the_greedy_text(pieces: tuple[str, ...]) -> None:
    got = label(frames_of(*pieces))
    assert (got["language"], got["emotion"], got["text"]) == ("en", "happy", "two")


def test_silence_has_no_text_no_words_and_no_confidence() -> None:
    got = label(frames_of(*TAGS, "", "", "", language="nospeech", event="unknown"))
    assert (got["text"], got["words"], got["confidence"], got["events"]) == ("", [], 0.0, [])


def test_an_event_tag_inside_the_text_becomes_an_event_with_its_time() -> None:
    got = label(frames_of(*TAGS, "", "<|Laughter|>", "", "▁two", "<|/Laughter|>"))
    assert got["text"] == "two"
    tag, inline = got["events"]
    assert (tag["source"], tag["event"], tag["start_s"], tag["end_s"]) == ("tag", "speech", 10, 12)
    # opened in text frame 1, closed at the end of frame 4: 60 ms a frame, shifted by half a frame
    assert (inline["source"], inline["event"]) == ("inline", "laughter")
    assert (inline["start_s"], inline["end_s"]) == (10.03, 10.27)


def test_word_times_follow_the_convention_of_funasr() -> None:
    got = label(frames_of(*TAGS, "▁two", "▁two", "", "▁ze", "ro"))
    first, second = got["words"]
    assert (first["word"], first["start_s"], first["end_s"]) == ("two", 10.0, 10.09)
    assert (second["word"], second["start_s"], second["end_s"]) == ("zero", 10.15, 10.27)


def test_each_han_character_is_a_word() -> None:
    got = label(frames_of(*TAGS, "三", "", "二"))
    assert [word["word"] for word in got["words"]] == ["三", "二"]


def test_the_digits_of_a_number_and_its_full_stop_are_one_word() -> None:
    got = label(frames_of(*TAGS, "2", "0", "."))
    assert [word["word"] for word in got["words"]] == ["20."]


@pytest.mark.parametrize(
    ("pieces", "words", "text"),
    [
        ("▁hit ▁ $ 1 0 0", "hit $100", "hit $100"),
        ('▁said ▁ " hel lo "', 'said "hello"', 'said "hello"'),
        ("▁hit ▁$ 1 0", "hit $10", "hit $10"),
        ('▁ ( " hel lo " ) .', '("hello").', '("hello").'),
        ("▁two ( hel lo )", "two (hello)", "two(hello)"),
        ("▁two ▁ - ▁ze ro", "two zero", "two - zero"),  # between two spaces: of no word
        ("▁two ▁ .", "two", "two ."),
        ("$ 2 0", "$20", "$20"),
        ("2 0 $", "20$", "20$"),
        ("hel lo ' t", "hello't", "hello't"),
        ("三 《 二 》 三", "三 《二》 三", "三《二》三"),
        ("三 。 hel lo", "三。 hello", "三。hello"),
        ("三 $ 1 0", "三 $10", "三$10"),
        ("1 . 0", "1.0", "1.0"),
    ],
)
def test_a_mark_belongs_to_the_word_that_it_touches(pieces: str, words: str, text: str) -> None:
    separated = [part for piece in pieces.split() for part in (piece, "")]  # a blank after each
    got = label(frames_of(*TAGS, *separated))
    assert [word["word"] for word in got["words"]] == words.split()
    assert got["text"] == text


def test_a_mark_in_front_of_a_word_gives_it_no_time() -> None:
    word = label(frames_of(*TAGS, "▁", "$", "", "2", "0"))["words"][0]
    assert (word["word"], word["start_s"], word["end_s"]) == ("$20", 10.15, 10.27)


def test_a_word_is_never_outside_its_segment() -> None:
    long = frames_of(*TAGS, *[""] * 100, "▁two")
    word = label(long)["words"][0]
    assert 10.0 <= word["start_s"] <= word["end_s"] <= 12.0


def test_runner_up_and_entropy_come_from_the_probabilities() -> None:
    one = frames_of(*TAGS, "▁two")
    uniform = np.full(len(EMOTIONS), 1 / len(EMOTIONS), np.float32)
    even = ClipOutput(one.tokens, one.probabilities, one.language, uniform, one.event)
    assert label(even)["emotion_entropy"] == pytest.approx(math.log(len(EMOTIONS)), abs=1e-5)
    assert label(one)["language_probability"] == pytest.approx(0.9)
    assert label(one)["language_runner_up"] != "en"


def test_an_unknown_emotion_still_has_a_forced_one() -> None:
    one = frames_of(*TAGS, "▁two", emotion="unknown")
    sad = one.emotion.copy()
    sad[EMOTIONS.index("sad")] = 0.08
    got = label(ClipOutput(one.tokens, one.probabilities, one.language, sad, one.event))
    assert (got["emotion"], got["emotion_forced"]) == ("unknown", "sad")


def test_restricting_languages_keeps_nospeech_and_sums_to_one() -> None:
    one = frames_of(*TAGS, language="yue")
    kept = restrict_languages(one, ["zh", "en"])
    assert kept.sum() == pytest.approx(1)
    assert {name for name, p in zip(LANGUAGES, kept, strict=True) if p} == {"zh", "en", "nospeech"}
    assert best_spoken(kept) in ("zh", "en")


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [((0.5, 0.1, 0, 0, 0, 0.4), "en"), ((0.3, 0.1, 0, 0, 0, 0.6), "nospeech")],
)
def test_speech_in_a_language_that_is_not_allowed_stays_speech(
    probabilities: tuple[float, ...], expected: str
) -> None:
    one = replace(frames_of(*TAGS), language=np.array(probabilities, np.float32))
    kept = restrict_languages(one, ["en", "ja"])
    assert LANGUAGES[int(np.argmax(kept))] == expected
    assert kept.sum() == pytest.approx(1)


def test_a_vocabulary_without_the_tags_is_refused() -> None:
    with pytest.raises(ModelError, match="not a SenseVoice vocabulary"):
        Vocabulary(make_tokenizer(("<unk>", "<s>", "</s>", "▁two")))
