"""The label stage alone, with a model that says what it is asked: seconds, prompts, batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import LabelConfig
from pipeline.models.sensevoice.decoding import ClipOutput
from pipeline.schema import BUNDLE, LANGUAGES, N_MELS, SEGMENTED
from pipeline.stages.label import LabelSegments, without_text_of_silence
from tests.models.sensevoice.test_decoding import TAGS, VOCABULARY, frames_of
from tests.stages.test_stages import plan_row
from tests.support.bundle_rows import NO_GAPS

# 1.5 s and 0.25 s of 10 s, in frames of 10 ms
SEGMENTS = [(1.0, 2.5, 150), (4.0, 4.25, 25)]


class Model:
    """Every clip is "two" in English, but for one of `refused` frames, which raises."""

    vocabulary = VOCABULARY

    def __init__(self, refused: int = -1, language: Sequence[float] = ()) -> None:
        self.asked: list[tuple[list[int], list[str], list[bool]]] = []
        self._refused = refused
        self._language = np.array(language, np.float32)

    def transcribe(
        self, clips: Sequence[Any], languages: Sequence[str], use_itn: Sequence[bool]
    ) -> list[ClipOutput]:
        lengths = [len(clip) for clip in clips]
        self.asked.append((lengths, list(languages), list(use_itn)))
        if self._refused in lengths:
            raise RuntimeError("refused")
        return [self._output(language) for language in languages]

    def _output(self, language: str) -> ClipOutput:
        """The tag that is printed is the prompt, so it shows which call of the model this is."""
        tag = "<|en|>" if language == "auto" else f"<|{language}|>"
        frames = frames_of(tag, *TAGS[1:], "▁two")
        if not len(self._language):
            return frames
        parts = (frames.tokens, frames.probabilities, self._language, frames.emotion, frames.event)
        return ClipOutput(*parts)


def segmented(
    segments: Sequence[tuple[Any, ...]] = tuple(SEGMENTS), **fields: Any
) -> dict[str, Any]:
    """A row of schema.SEGMENTED; the features of segment k are all k."""
    window = {"attempt_id": "a1", "window_index": 0, "n_windows": 1, "window_start_s": 0.0}
    audio = {
        "duration_s": 10.0,
        "sample_rate_hz": 16_000,
        "channels": 1,
        "codec": "",
        "warning": "",
        **NO_GAPS,
    }
    names = ("start_s", "end_s", "n_frames", "is_silence")
    features = [np.full((one[2], N_MELS), index, np.float32) for index, one in enumerate(segments)]
    return {
        **(plan_row("/a.wav") | window | audio),
        "segments": [
            dict(zip(names, (*one, *([False] * (4 - len(one)))), strict=True)) for one in segments
        ],
        "features": b"".join(one.tobytes() for one in features),
    } | fields


def label(*rows: dict[str, Any], model: Model | None = None, **config: Any) -> list[dict[str, Any]]:
    stage = LabelSegments(lambda: model or Model(), LabelConfig(device="cpu", **config))
    labelled = stage(pa.Table.from_pylist(list(rows), schema=SEGMENTED))
    assert labelled.schema == BUNDLE
    return list(labelled.to_pylist())


def seconds(row: dict[str, Any]) -> tuple[float, float, float]:
    return row["labelled_s"], row["silence_s"], row["failed_s"]


# -------------------------------------------------------------------------- seconds


def test_labelled_seconds_are_those_of_the_segments() -> None:
    (row,) = label(segmented())
    assert seconds(row) == (1.75, 8.25, 0.0)
    assert row["error_stage"] == ""


def test_a_clip_that_failed_counts_as_failed_not_as_labelled() -> None:
    (row,) = label(segmented(), model=Model(refused=25))
    assert seconds(row) == (1.5, 8.25, 0.25)
    assert (row["error_stage"], row["error_type"]) == ("label", "RuntimeError")
    assert row["error_message"] == "refused"
    assert [one["start_s"] for one in row["segments"]] == [1.0]


def test_a_row_without_segments_is_silence() -> None:
    (row,) = label(segmented(()))
    assert seconds(row) == (0.0, 10.0, 0.0)


def test_a_row_that_failed_before_counts_as_failed_as_a_whole() -> None:
    (row,) = label(segmented((), error_stage="segment", error_type="ValueError"))
    assert seconds(row) == (0.0, 0.0, 10.0)
    assert (row["error_stage"], row["error_type"]) == ("segment", "ValueError")


def test_times_are_those_of_the_file_in_whole_milliseconds() -> None:
    (row,) = label(segmented([(1.0, 2.50004, 150), (4.0006, 4.25, 25)], window_start_s=30.0))
    times = [(one["start_s"], one["end_s"]) for one in row["segments"]]
    assert times == [(31.0, 32.5), (34.001, 34.25)]


def test_every_row_keeps_its_own_segments() -> None:
    rows = label(
        segmented(recording_id="first"),
        segmented((), recording_id="silent"),
        segmented([(7.0, 9.0, 200)], recording_id="third"),
    )
    assert [row["recording_id"] for row in rows] == ["first", "silent", "third"]
    starts = [[one["start_s"] for one in row["segments"]] for row in rows]
    assert starts == [[1.0, 4.0], [], [7.0]]
    assert [row["labelled_s"] for row in rows] == [1.75, 0.0, 2.0]


# -------------------------------------------------------------------------- prompts


def prompts(model: Model) -> list[str]:
    return [language for _, languages, _ in model.asked for language in languages]


def test_the_language_is_the_rows_else_that_of_the_configuration() -> None:
    model = Model()
    one = [(0.0, 1.0, 100)]
    label(segmented(one), segmented(one, language="ja"), model=model, language="zh")
    assert sorted(prompts(model)) == ["ja", "zh"]
    free = Model()
    label(segmented(one), model=free)
    assert prompts(free) == ["auto"]


@pytest.mark.parametrize("use_itn", [True, False])
def test_inverse_text_normalisation_is_asked_for_and_noted(use_itn: bool) -> None:
    model = Model()
    (row,) = label(segmented(), model=model, use_itn=use_itn)
    assert {one for _, _, asked in model.asked for one in asked} == {use_itn}
    assert {one["itn"] for one in row["segments"]} == {use_itn}


def test_a_language_that_is_not_allowed_goes_through_the_model_again() -> None:
    """With the best allowed one as its prompt; nospeech, however likely, is no language."""
    model = Model(language=(0.1, 0.2, 0.25, 0.05, 0.0, 0.4))  # zh, en, yue, ja, ko, nospeech
    (row,) = label(segmented([(0, 1, 100)]), model=model, allowed_languages=("en", "ja"))
    assert prompts(model) == ["auto"]  # nospeech stays allowed, and is the best
    model = Model(language=(0.15, 0.2, 0.45, 0.05, 0.0, 0.15))
    (row,) = label(segmented([(0, 1, 100)]), model=model, allowed_languages=("en", "ja"))
    assert prompts(model) == ["auto", "en"]
    (one,) = row["segments"]
    assert one["rich_text"].startswith("<|en|>")
    assert (one["language"], one["language_runner_up"]) == ("en", "nospeech")
    shares = dict(zip(LANGUAGES, (0.0, 0.5, 0.0, 0.125, 0.0, 0.375), strict=True))
    assert one["language_probabilities"] == pytest.approx(shares)


def test_an_allowed_language_goes_through_the_model_once() -> None:
    model = Model(language=(0.1, 0.6, 0.2, 0.05, 0.0, 0.05))
    (row,) = label(segmented(), model=model, allowed_languages=("en", "ja"))
    assert prompts(model) == ["auto"] * 2
    assert row["segments"][0]["language_probability"] == pytest.approx(0.6 / 0.7)


# -------------------------------------------------------------------------- batches


def test_a_model_batch_holds_at_most_the_seconds_asked_for() -> None:
    model = Model()
    label(segmented([(k, k + 1, 100) for k in range(9)]), model=model, batch_s=2.5)
    sizes = [sum(lengths) for lengths, _, _ in model.asked]
    assert sum(sizes) == 900
    assert max(sizes) == 200


def test_clips_of_all_rows_share_model_batches() -> None:
    model = Model()
    label(*(segmented([(0.0, 1.0, 100)]) for _ in range(5)), model=model, batch_s=60)
    assert [len(lengths) for lengths, _, _ in model.asked if lengths] == [5]


# --------------------------------------------------------------------------- silence


@pytest.mark.parametrize(
    ("language", "event", "has_text"),
    [("en", "Speech", True), ("nospeech", "Speech", False), ("en", "Laughter", False)],
)
def test_what_the_vad_calls_silence_has_a_text_only_if_the_model_says_speech(
    language: str, event: str, has_text: bool
) -> None:
    label = {
        **{"language": language, "text": "words", "n_tokens": 2, "confidence": 0.9},
        **{"words": [{"word": "words"}], "rich_text": "words"},
        "events": [{"event": event.lower(), "source": "tag"}],
    }
    found = without_text_of_silence(label)
    assert (found["text"], found["n_tokens"], bool(found["words"])) == (
        ("words", 2, True) if has_text else ("", 0, False)
    )
    assert found["events"] == label["events"]


def test_silence_that_is_labelled_counts_as_labelled() -> None:
    (done,) = label(segmented([(0.0, 4.0, 400), (4.0, 10.0, 600, True)]))
    assert seconds(done) == (10.0, 0.0, 0.0)
    assert len(done["segments"]) == 2
