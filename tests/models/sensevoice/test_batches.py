"""How clips share model batches, in numbers."""

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.errors import BatchTooLarge, RecordingError
from pipeline.models.sensevoice.packing import BatchedModel, pack_by_length
from pipeline.schema import LANGUAGES
from tests.models.sensevoice.test_decoding import TAGS, VOCABULARY, frames_of


@pytest.mark.parametrize(
    ("lengths", "limit", "sizes"),
    [
        ([20] * 9, 100, [5, 4]),
        ([50] * 3, 100, [2, 1]),  # as full as may be
        ([60, 50, 50, 50], 100, [1, 2, 1]),
        ([60, 10], 100, [2]),
        ([43, 52, 52, 55], 100, [1, 1, 2]),  # 52 and 52 would be too much
        ([101, 100, 1], 100, [1, 1, 1]),
        ([150], 100, [1]),
        ([51, 50], 100, [1, 1]),
        ([], 100, []),
    ],
)
def test_batches_of_so_many_clips(lengths: list[int], limit: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in pack_by_length(lengths, limit)] == sizes


def test_the_longest_clips_come_first() -> None:
    assert pack_by_length([1, 50, 2, 49, 50, 48], 130) == [[1, 4], [3, 5, 2, 0]]
    assert pack_by_length([30, 10, 20], 90) == [[0, 2, 1]]


class Device:
    """Returns as many words as the clip has frames, or raises for too large and refused ones."""

    vocabulary = VOCABULARY

    def __init__(self, room: int = 10_000, refused: int = -1) -> None:
        self.batches: list[list[int]] = []
        self.prompts: list[list[tuple[int, str, bool]]] = []
        self._room, self._refused = room, refused

    def transcribe(
        self, clips: Sequence[Any], languages: Sequence[str], use_itn: Sequence[bool]
    ) -> list[Any]:
        lengths = [len(clip) for clip in clips]
        self.batches.append(lengths)
        self.prompts.append(list(zip(lengths, languages, use_itn, strict=True)))
        if sum(lengths) > self._room:
            raise BatchTooLarge("no memory")
        if self._refused in lengths:
            raise ValueError(f"no clips of {self._refused}")
        return [frames_of(*TAGS, *["▁two"] * length) for length in lengths]


def transcribe(device: Device, lengths: Sequence[int], max_frames: int = 100) -> list[Any]:
    clips: Any = [[0.0] * length for length in lengths]
    model = BatchedModel(device, max_frames)
    return model.transcribe(clips, ["auto"] * len(lengths), [True] * len(lengths))


def lengths_of(outputs: Sequence[Any]) -> list[Any]:
    """For each output the number of words, or the text of its exception."""
    return [
        str(one) if isinstance(one, Exception) else len(one.tokens) - len(TAGS) for one in outputs
    ]


def test_outputs_are_in_the_order_of_the_clips() -> None:
    lengths = [5, 50, 20, 51, 1, 99]
    assert lengths_of(transcribe(Device(), lengths)) == lengths


def test_a_clip_that_fails_takes_no_other_with_it() -> None:
    device = Device(refused=20)
    assert lengths_of(transcribe(device, [5, 20, 6, 7])) == [5, "no clips of 20", 6, 7]
    error = transcribe(Device(refused=20), [20])[0]
    assert isinstance(error, RecordingError) and error.kind == "ValueError"


def test_a_batch_that_does_not_fit_is_halved_and_stays_so() -> None:
    device = Device(room=60)
    model = BatchedModel(device, 200)
    clips: Any = [[0.0] * 20] * 5
    for _ in range(2):
        assert lengths_of(model.transcribe(clips, ["auto"] * 5, [True] * 5)) == [20] * 5
    first, *others = [sum(batch) for batch in device.batches]
    assert first == 100
    assert max(others) <= 50 and len(others) == 2 * 3


def test_a_clip_that_never_fits_is_its_own_error() -> None:
    outputs = transcribe(Device(room=30), [20, 40, 20])
    assert lengths_of(outputs) == [20, "no memory", 20]
    assert outputs[1].kind == "BatchTooLarge"


def test_each_clip_keeps_its_prompts_however_the_batches_are_cut() -> None:
    """Sorted by length, halved for lack of memory, and halved again for a clip that fails."""
    device = Device(room=60, refused=20)
    clips: Any = [[0.0] * length for length in (10, 20, 30, 40)]
    languages, use_itn = ["zh", "en", "ja", "ko"], [True, False, False, True]
    outputs = BatchedModel(device, 200).transcribe(clips, languages, use_itn)
    assert lengths_of(outputs) == [10, "no clips of 20", 30, 40]
    asked = {prompt for batch in device.prompts for prompt in batch}
    assert asked == {(10, "zh", True), (20, "en", False), (30, "ja", False), (40, "ko", True)}


def test_the_second_time_in_an_allowed_language_keeps_the_itn_of_the_clip() -> None:
    """The outputs of this device are in English, which is not allowed; its failures stay so."""
    device = Device(refused=10)
    clips: Any = [[0.0] * length for length in (10, 20, 30)]
    model = BatchedModel(device, 100)
    outputs: Any = model.transcribe(clips, ["auto"] * 3, [False, True, False], ("zh", "yue"))
    assert lengths_of(outputs) == ["no clips of 10", 20, 30]
    assert all(output.language[LANGUAGES.index("en")] == 0 for output in outputs[1:])
    again = [prompt for batch in device.prompts for prompt in batch if prompt[1] != "auto"]
    assert sorted((length, itn) for length, _, itn in again) == [(20, True), (30, False)]
    assert {language for _, language, _ in again} <= {"zh", "yue"}
