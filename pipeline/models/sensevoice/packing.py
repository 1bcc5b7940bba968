"""Clips to model batches by seconds of audio, and what to do when a batch fails.

Knows lengths and a model's `transcribe`; nothing of rows.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from pipeline.errors import BatchTooLarge, RecordingError
from pipeline.models.sensevoice.decoding import ClipOutput, best_spoken, restrict_languages

if TYPE_CHECKING:  # torch takes seconds and 600 MB; only processes with a model import it
    from pipeline.models.sensevoice.model import Aligner, Clip, Transcriber


class BatchedModel:
    """A model that takes any number of clips, in model batches of at most `max_frames` (10 ms).

    `max_frames` is halved for good when the device has no memory for a batch.
    """

    def __init__(self, model: "Transcriber", max_frames: int) -> None:
        self.vocabulary = model.vocabulary
        self._model = model
        self._max_frames = max_frames

    def transcribe(
        self,
        clips: "Sequence[Clip]",
        languages: Sequence[str],
        use_itn: Sequence[bool],
        allowed_languages: Collection[str] = (),
        wanted: Sequence[Sequence[int]] = (),
    ) -> list[ClipOutput | Exception]:
        """Transcribe `clips`, each prompted with its language and its use_itn.

        `wanted`: for each clip the tokens whose log-probabilities its output shall have.

        One result per clip, in the order of the clips: its output, or the exception that this clip
        alone causes. A clip whose language is not one of `allowed_languages` (empty: all are) goes
        through the model again, prompted with the most probable allowed language.
        """
        outputs = self._transcribe_all(clips, languages, use_itn, wanted)
        again: dict[int, tuple[str, np.ndarray]] = {}
        for index, output in enumerate(outputs):
            if allowed_languages and not isinstance(output, Exception):
                restricted = restrict_languages(output, allowed_languages)
                outputs[index] = replace(output, language=restricted)
                if int(np.argmax(output.language)) != int(np.argmax(restricted)):
                    again[index] = (best_spoken(restricted), restricted)
        second = self._transcribe_all(
            [clips[index] for index in again],
            [language for language, _ in again.values()],
            [use_itn[index] for index in again],
            [wanted[index] for index in again] if wanted else (),
        )
        for (index, (_, restricted)), output in zip(again.items(), second, strict=True):
            if not isinstance(output, Exception):
                output = replace(output, language=restricted)
            outputs[index] = output
        return outputs

    def _transcribe_all(
        self,
        clips: "Sequence[Clip]",
        languages: Sequence[str],
        use_itn: Sequence[bool],
        wanted: Sequence[Sequence[int]],
    ) -> list[ClipOutput | Exception]:
        """Each clip once; later model batches are smaller after one that did not fit."""
        outputs: list[ClipOutput | Exception] = [RuntimeError("not transcribed")] * len(clips)
        left = list(range(len(clips)))
        while left:
            lengths = [len(clips[index]) for index in left]
            batches = [[left[i] for i in b] for b in pack_by_length(lengths, self._max_frames)]
            left = []
            for n_done, batch in enumerate(batches):
                try:
                    done = self._transcribe_batch(batch, clips, languages, use_itn, wanted)
                except BatchTooLarge:  # later batches are as large, so the new limit stays
                    self._max_frames = sum(len(clips[index]) for index in batch) // 2
                    left = [index for rest in batches[n_done:] for index in rest]
                    break
                for index, output in zip(batch, done, strict=True):
                    outputs[index] = output
        return outputs

    def _transcribe_batch(
        self,
        batch: Sequence[int],
        clips: "Sequence[Clip]",
        languages: Sequence[str],
        use_itn: Sequence[bool],
        wanted: Sequence[Sequence[int]],
    ) -> list[ClipOutput | Exception]:
        """Run one model batch; after a failure its halves, down to the clip that fails alone.

        Raises BatchTooLarge.
        """
        of_batch = (
            [clips[index] for index in batch],
            [languages[index] for index in batch],
            [use_itn[index] for index in batch],
        )
        try:
            if not wanted:
                return list(self._model.transcribe(*of_batch))
            asked = [wanted[index] for index in batch]
            return list(cast("Aligner", self._model).transcribe(*of_batch, asked))
        except (Exception, SystemExit) as error:
            if isinstance(error, BatchTooLarge) and len(batch) > 1:
                raise
            if len(batch) == 1:
                return [RecordingError(type(error).__name__, str(error) or repr(error))]
            middle = len(batch) // 2
            halves = (batch[:middle], batch[middle:])
            return [
                output
                for half in halves
                for output in self._transcribe_batch(half, clips, languages, use_itn, wanted)
            ]


def pack_by_length(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Indices of clips, longest first, in batches whose lengths sum to at most `max_length`.

    Clips of similar length share a batch, which keeps padding in attention small. All batches have
    about the same size, because a small last batch would read all weights for a few frames. A clip
    longer than `max_length` gets its own batch. Every index appears exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    total, longest = sum(lengths), max(lengths, default=0)
    # Leave room for half a clip, else the last clip of a full batch starts a small batch.
    room = max(max_length / 2, max_length - longest / 2)
    share = total / max(1, math.ceil(total / room))
    batches: list[list[int]] = []
    before = filled = 0
    for index in order:
        length = lengths[index]
        is_next = before + length / 2 > share * len(batches)  # most of it is past this share
        if not batches or is_next or filled + length > max_length:
            batches.append([])
            filled = 0
        batches[-1].append(index)
        filled += length
        before += length
    return batches
