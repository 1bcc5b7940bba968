"""The scores of a module on held-out rows, by the evaluation's own metrics. Trains nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.gates import metrics_of
from pipeline.evaluation.hypotheses import Hypothesis
from pipeline.evaluation.references import Joined, Reference, ReferenceSet
from pipeline.models.sensevoice.decoding import (
    TEXT_NORM_PROMPTS,
    ClipOutput,
    Vocabulary,
    label_clip,
)
from pipeline.schema import LFR_FRAME_S
from pipeline.training.data import Part
from pipeline.training.examples import MASKED, Example
from pipeline.training.tensors import BatchReader, numbered

# Of evaluation.gates.METRICS, those that count here: each is an error, of which less is better.
COUNTED = ("mixed_error_rate", "language_error", "emotion_error", "event_error")
_TAGS = ("language", "emotion", "event")  # the frames of their tags, in this order


@dataclass(frozen=True, slots=True)
class SetScore:
    """The errors on one set; None: the set has no reference for it."""

    name: str
    n_clips: int
    metrics: Mapping[str, float | None]

    @property
    def error(self) -> float:
        """The mean of what was measured."""
        told = [value for value in self.metrics.values() if value is not None]
        return sum(told) / len(told) if told else 0.0


@dataclass(frozen=True, slots=True)
class Regression:
    """An error that rose by more than a gate allows."""

    set_name: str
    metric: str
    before: float
    after: float
    n_clips: int


def mean_error(scores: Sequence[SetScore]) -> float:
    """One number to choose by: the mean over the sets, whatever their sizes."""
    return sum(one.error for one in scores) / len(scores)


def regressions(
    before: Sequence[SetScore], after: Sequence[SetScore], most: float
) -> list[Regression]:
    """Every error of every set that rose by more than `most`."""
    return [
        Regression(old.name, metric, value, risen, old.n_clips)
        for old, new in zip(before, after, strict=True)
        for metric, value in old.metrics.items()
        if value is not None
        and (risen := new.metrics[metric]) is not None
        and risen - value > most + 1e-9
    ]


def score_sets(
    module: nn.Module,
    sets: Mapping[str, Part],
    reader: BatchReader,
    vocabulary: Vocabulary,
    batch_s: float,
) -> list[SetScore]:
    """The scores of a module on each set, prompted with `auto` and each row's own text form."""
    was_training = module.training
    module.eval()
    try:
        return [
            _score(name, part.examples, module, reader, vocabulary, batch_s)
            for name, part in sets.items()
        ]
    finally:
        module.train(was_training)


def _score(
    name: str,
    examples: Sequence[Example],
    module: nn.Module,
    reader: BatchReader,
    vocabulary: Vocabulary,
    batch_s: float,
) -> SetScore:
    outputs = transcribe(module, examples, reader, vocabulary, batch_s)
    keys = [str(number) for number in range(len(examples))]
    references = {
        key: _reference(key, one, vocabulary) for key, one in zip(keys, examples, strict=True)
    }
    hypotheses = {
        key: _hypothesis(key, one, output, vocabulary)
        for key, one, output in zip(keys, examples, outputs, strict=True)
    }
    found = ReferenceSet(name, [*references.values()])
    evaluation = evaluate(Joined(references, 0, (), 0), hypotheses, found, ("", 0))
    told = metrics_of(evaluation.scores)
    return SetScore(name, len(examples), {metric: told[metric] for metric in COUNTED})


@torch.no_grad()
def transcribe(
    module: nn.Module,
    examples: Sequence[Example],
    reader: BatchReader,
    vocabulary: Vocabulary,
    batch_s: float,
) -> list[ClipOutput]:
    """What the module puts out for each example, in their order."""
    device = next(module.parameters()).device
    order = sorted(range(len(examples)), key=lambda i: examples[i].n_frames)
    most = max(1, int(batch_s / LFR_FRAME_S))
    outputs: dict[int, ClipOutput] = {}
    while order:
        n = 1
        while n < len(order) and examples[order[n]].n_frames * (n + 1) <= most:
            n += 1
        members, order = order[:n], order[n:]
        batch = reader.read(numbered(examples, members)).to(device)
        logits, lengths = module(batch.speech, batch.lengths, batch.language, batch.textnorm)
        for i, one, length in zip(members, logits.float(), lengths.tolist(), strict=True):
            outputs[i] = output_of(one[:length], vocabulary)
    return [outputs[i] for i in range(len(examples))]


def output_of(logits: Tensor, vocabulary: Vocabulary) -> ClipOutput:
    """(n, n_tokens) of one clip -> its tokens, and the probabilities of its tags."""
    peaks, tokens = logits.softmax(dim=-1).max(dim=-1)
    kinds = vocabulary.language_ids, vocabulary.emotion_ids, vocabulary.event_ids
    shares = [logits[frame, ids].softmax(dim=-1) for frame, ids in enumerate(kinds)]
    language, emotion, event = (_to_numpy(share) for share in shares)
    return ClipOutput(
        tokens.cpu().numpy().astype(np.int64), _to_numpy(peaks), language, emotion, event
    )


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.cpu().numpy())


def _reference(key: str, example: Example, vocabulary: Vocabulary) -> Reference:
    """Labels in the spelling of the tables; those that are masked are not known."""
    names = {
        kind: None if tag == MASKED else vocabulary.pieces[tag].strip("<|>").lower()
        for kind, tag in zip(_TAGS, example.tags, strict=False)
    }
    event = names["event"]
    return Reference(
        key=key,
        text=example.row.text,
        text_itn=example.row.text,  # in the form that its own prompt asks for
        language=names["language"],
        emotion=_told(names["emotion"]),
        events=None if event is None else () if event == "event_unk" else (event,),
        speaker=example.row.speaker,
    )


def _told(emotion: str | None) -> str | None:
    return None if emotion in (None, "emo_unknown") else emotion


def _hypothesis(
    key: str, example: Example, output: ClipOutput, vocabulary: Vocabulary
) -> Hypothesis:
    is_itn = example.text_norm_prompt == TEXT_NORM_PROMPTS[True]
    told: dict[str, Any] = label_clip(output, vocabulary, 0.0, example.duration_s, is_itn)
    return Hypothesis(
        recording_id=key,
        uri=example.row.uri,
        is_ok=True,
        error_type="",
        duration_s=example.duration_s,
        extra={},
        text=told["text"],
        was_itn=is_itn,
        confidence=told["confidence"] if told["text"] else None,
        language=told["language"],
        language_probability=told["language_probability"],
        emotion=told["emotion"],
        emotion_probability=told["emotion_probability"],
        emotion_forced=told["emotion_forced"],
        events={
            one["event"]: one["probability"] for one in told["events"] if one["source"] == "tag"
        },
        words=(),
        speech=(),
    )
