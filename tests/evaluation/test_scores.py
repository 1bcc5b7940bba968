"""Scores: exact values, and the same numbers by another hand (jiwer, scikit-learn)."""

import sys
from typing import Any

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from pipeline.errors import ConfigError
from pipeline.evaluation.calibration import calibrate
from pipeline.evaluation.intervals import bootstrap, bootstrap_classes, paired_difference
from pipeline.evaluation.labels import classify, score_events
from pipeline.evaluation.references import TimedWord
from pipeline.evaluation.text_norm import normaliser
from pipeline.evaluation.times import score_speech, score_words
from pipeline.evaluation.transcripts import Errors, align, count_errors, total
from pipeline.report.text_units import plain, split


def errors_of(reference: str, hypothesis: str, unit: Any = "words") -> Errors:
    return count_errors(split(plain(reference), unit), split(plain(hypothesis), unit))


def test_edits_are_counted_by_kind() -> None:
    found = errors_of("the cat sat on the mat", "the cat sit on mat")
    assert found == Errors(substitutions=1, deletions=1, insertions=0, n_units=6)
    assert found.rate == pytest.approx(1 / 3)


def test_a_mixed_unit_is_a_character_or_a_word() -> None:
    found = errors_of("我想听 hello world", "我想 hello word", "mixed")
    assert (found.n_units, found.rate) == (5, 0.4)
    assert split(plain("开放时间 9点 OK吗"), "mixed") == [*"开放时间", "9", "点", "ok", "吗"]
    assert split("안녕 하세요 カタカナ", "mixed") == ["안녕", "하세요", *"カタカナ"]


def test_an_empty_reference_has_no_rate() -> None:
    found = errors_of("", "a b")
    assert (found, found.rate) == (Errors(insertions=2), None)
    assert total([found, errors_of("a b", "a b")]).rate == 1.0


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd"), min_size=1))
def test_error_rates_are_those_of_jiwer(hypothesis: list[str], reference: list[str]) -> None:
    theirs = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    ours = count_errors(reference, hypothesis)
    assert ours.rate == pytest.approx(theirs.wer)
    assert sum(len(piece.reference) for piece in align(reference, hypothesis)) == len(reference)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("It’s 5 o'clock – well-known", "it's 5 o'clock well-known"),
        ("ＡＢＣ １２３", "abc 123"),
        ("开放时间，早上 9 点。", "开放时间早上 9 点"),
        ("我 想 听", "我想听"),
        ("'quoted' -dash-", "quoted dash"),
        ("カ゛", "ガ"),
        ("", ""),
    ],
)
def test_the_plain_normalisation(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_whispers_normaliser_and_simplified_characters() -> None:
    assert normaliser("whisper")("one oh one", "en") == "101"
    assert normaliser("whisper")("(noise) Hallo!", "ko").strip() == "hallo"
    assert normaliser("plain", simplified=True)("開放時間", "yue") == "开放时间"
    assert normaliser("plain")("開放時間", "yue") == "開放時間"


EMOTIONS = (
    ("happy", "happy", "sad", "angry", "neutral", "neutral"),
    ("happy", "unknown", "sad", "angry", "neutral", "angry"),
)


def test_an_abstention_is_no_class() -> None:
    found = classify(list(zip(*EMOTIONS, strict=True)), {"unknown"})
    assert found.accuracy == pytest.approx(0.6667, abs=1e-4)
    assert found.unweighted_accuracy == pytest.approx(0.75)
    assert found.macro_f1 == pytest.approx(0.75)
    assert found.weighted_f1 == pytest.approx(0.7222, abs=1e-4)
    assert found.n_abstained == 1
    assert found.confusion["happy"] == {"happy": 1, "unknown": 1}


def test_label_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    names = ["happy", "sad", "angry", "neutral"]
    right = rng.choice(names, 400).tolist()
    said = [one if rng.random() < 0.7 else rng.choice([*names, "unknown"]) for one in right]
    found = classify(list(zip(right, said, strict=True)), {"unknown"})
    options: dict[str, Any] = {"labels": names, "zero_division": 0}
    assert found.unweighted_accuracy == pytest.approx(
        recall_score(right, said, average="macro", **options)
    )
    assert found.macro_f1 == pytest.approx(f1_score(right, said, average="macro", **options))
    assert found.weighted_f1 == pytest.approx(f1_score(right, said, average="weighted", **options))


def test_events_are_scored_one_by_one() -> None:
    pairs = [({"bgm"}, {"bgm", "cough"}), ({"bgm"}, set()), (set(), {"bgm"}), ({"cry"}, {"cry"})]
    found = score_events(pairs)
    assert (found["bgm"].n, found["bgm"].n_found, found["bgm"].n_called) == (2, 1, 2)
    assert (found["bgm"].recall, found["bgm"].precision, found["bgm"].f1) == (0.5, 0.5, 0.5)
    assert (found["cough"].recall, found["cough"].precision) == (None, 0.0)
    assert found["cry"].f1 == 1.0


def test_calibration_by_hand() -> None:
    found = calibrate([0.95, 0.85, 0.65, 0.55, 0.75], [True, True, False, True, False])
    assert found is not None
    assert found.ece == pytest.approx(0.41)
    assert found.brier == pytest.approx((0.05**2 + 0.15**2 + 0.65**2 + 0.45**2 + 0.75**2) / 5)
    assert found.bins[0] is None
    assert calibrate([], []) is None


def test_the_bootstrap_by_hand() -> None:
    """All 256 resamples of these four: 95 % lie between 0 and 0.3."""
    found = bootstrap([1, 0, 2, 0], [5, 5, 5, 5], list("abcd"))
    assert found is not None
    assert [found.low, found.high] == pytest.approx([0.0, 0.3])
    assert bootstrap([1, 0], [5, 5], ["a", "a"]) is None


def test_the_bootstrap_draws_speakers() -> None:
    rng = np.random.default_rng(0)
    skill = np.repeat(rng.uniform(0.02, 0.25, 20), 50)
    errors = rng.binomial(10, skill).astype(float)
    units = np.full(1000, 10.0)
    speakers = np.repeat([f"s{n}" for n in range(20)], 50).tolist()
    values = errors.tolist(), units.tolist()
    by_clip = bootstrap(*values, [str(n) for n in range(1000)])
    by_speaker = bootstrap(*values, speakers)
    assert by_clip is not None
    assert by_speaker is not None
    assert by_speaker.high - by_speaker.low > 2 * (by_clip.high - by_clip.low)


@pytest.mark.usefixtures("patience")
def test_a_95_percent_interval_holds_the_truth_in_92_to_97_percent() -> None:
    rng = np.random.default_rng(11)
    held = 0
    n_trials = 300
    for trial in range(n_trials):
        units = rng.integers(5, 20, 150)
        errors = rng.binomial(units, 0.12)
        found = bootstrap(errors.tolist(), units.tolist(), [str(n) for n in range(150)], trial)
        assert found is not None
        held += found.low <= 0.12 <= found.high
    assert 0.92 <= held / n_trials <= 0.97


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(2)
    units = np.full(200, 10.0)
    base = rng.binomial(10, 0.3, 200).astype(float)
    ours = np.maximum(0, base - rng.binomial(1, 0.3, 200))
    found = paired_difference(
        ours.tolist(), base.tolist(), units.tolist(), [str(n) for n in range(200)]
    )
    assert found is not None
    assert found.interval is not None
    assert found.value == pytest.approx((ours.sum() - base.sum()) / 2000)
    assert found.interval.high < 0
    assert found.p_better == 1.0
    assert paired_difference([], [], [], []) is None


def test_speech_and_word_times() -> None:
    speech = score_speech([([(0.0, 2.0), (1.0, 3.0)], [(1.0, 5.0)]), ([(0.0, 1.0)], [])])
    assert (speech.reference_s, speech.labelled_s, speech.both_s) == (4.0, 4.0, 2.0)
    assert (speech.recall, speech.precision) == (0.5, 0.5)
    right = [TimedWord("one", 0.0, 0.4), TimedWord("two", 0.5, 0.9), TimedWord("three", 1.0, 1.4)]
    said = [TimedWord("One,", 0.3, 0.4), TimedWord("too", 0.5, 0.9), TimedWord("three", 1.2, 1.5)]
    found = score_words([(right, said)])
    assert found is not None
    assert found.n == 2
    assert found.median_start_s == pytest.approx(0.25)
    assert found.median_end_s == pytest.approx(0.05)
    assert score_words([(right, [])]) is None


def test_the_mean_error_of_word_times_has_a_sign_and_the_absolute_one_none() -> None:
    right = [TimedWord("one", 0.0, 0.4), TimedWord("two", 0.5, 0.9), TimedWord("three", 1.0, 1.4)]
    said = [TimedWord("one", 0.3, 0.4), TimedWord("two", 0.4, 0.8), TimedWord("three", 1.1, 1.6)]
    found = score_words([(right, said)])
    assert found is not None
    assert found.n == 3
    assert found.mean_start_s == pytest.approx(0.1)  # (0.3 - 0.1 + 0.1) / 3
    assert found.mean_end_s == pytest.approx(0.1 / 3)  # (0 - 0.1 + 0.2) / 3
    assert found.mean_absolute_start_s == pytest.approx(0.5 / 3)
    assert found.mean_absolute_end_s == pytest.approx(0.1)
    assert found.median_start_s == pytest.approx(0.1)


def test_an_unknown_normaliser_library_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zhconv", None)
    with pytest.raises(ConfigError, match=r"pip install 'sensevoice-pipeline\[evaluate\]'"):
        normaliser("plain", simplified=True)


@pytest.mark.usefixtures("patience")
def test_intervals_of_the_means_over_classes_hold_their_truth() -> None:
    """300 simulations of known recalls; the truth is scikit-learn's, of 50,000 pairs."""
    rng = np.random.default_rng(0)
    recalls = {"happy": 0.9, "sad": 0.7, "angry": 0.5}
    names = list(recalls)

    def draw(n: int) -> list[tuple[str, str]]:
        right = rng.choice(names, n)
        wrong = rng.choice(names, n)
        kept = rng.random(n) < [recalls[name] for name in right]
        return list(zip(right.tolist(), np.where(kept, right, wrong).tolist(), strict=True))

    many = draw(50_000)
    sides = [one for one, _ in many], [other for _, other in many]
    truth = recall_score(*sides, average="macro"), f1_score(*sides, average="macro")
    held = np.zeros(2)
    for _ in range(300):
        pairs = draw(200)
        found = bootstrap_classes(pairs, [str(index) for index in range(200)])
        assert found is not None
        held += [one.low <= true <= one.high for one, true in zip(found, truth, strict=True)]
    assert (held / 300 >= 0.91).all()
    assert (held / 300 <= 0.98).all()


def test_means_over_classes_need_two_groups_and_are_sure_of_what_is_always_right() -> None:
    pairs = [("happy", "happy"), ("sad", "sad")] * 3
    assert bootstrap_classes(pairs, ["one"] * 6) is None
    found = bootstrap_classes(pairs, list("abcdef"))
    assert found is not None
    assert {(one.low, one.high) for one in found} == {(1.0, 1.0)}
