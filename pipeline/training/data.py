"""All rows of a fine-tuning, checked, and a report on them. Reads audio; trains nothing."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.models.sensevoice.decoding import TEXT_NORM_PROMPTS, Vocabulary
from pipeline.storage.address import is_uri
from pipeline.training.batches import Step, padding_share, plan_epoch
from pipeline.training.examples import MASKED, Example, check_rows
from pipeline.training.rows import BadRow, TrainingRow, read_jsonl
from pipeline.training.settings import DataConfig, FinetuneConfig, Rows, TableRows
from pipeline.training.table_rows import read_table_rows

_TAG_NAMES = ("language", "emotion", "event", "text_norm")
_NAMED = 3  # clips that a message names


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one source: those that are used, and those that are not."""

    name: str  # train, replay, or valid NAME
    examples: Sequence[Example]
    dropped: Sequence[BadRow]

    @property
    def hours(self) -> float:
        return sum(one.duration_s for one in self.examples) / 3600


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The parts of a fine-tuning."""

    train: Part
    replay: Part | None
    valid: Mapping[str, Part]

    @property
    def parts(self) -> list[Part]:
        return [self.train, *([self.replay] if self.replay else []), *self.valid.values()]

    @property
    def trained(self) -> list[Example]:
        """Train, then replay: what the numbers in the steps mean."""
        return [*self.train.examples, *(self.replay.examples if self.replay else ())]


@dataclass(frozen=True, slots=True)
class PartReport:
    """What a part has, for a person to read before a GPU is used."""

    name: str
    n_clips: int
    hours: float
    n_without_text: int  # "": nothing is said in them
    n_text_not_known: int
    hours_by_language: Mapping[str, float]
    n_labels: Mapping[str, int]  # of each kind of tag, those that are not masked
    itn_share: float
    n_dropped: Mapping[str, int] = field(default_factory=dict)  # by kind
    warnings: Sequence[str] = ()


def read_data(
    config: DataConfig, vocabulary: Vocabulary, options: Mapping[str, Any]
) -> TrainingData:
    """Reads and checks all rows. Raises ConfigError where a training would be worth nothing.

    That is: no row is left, too many were dropped, or a clip is both trained and held out.
    """

    def part(name: str, rows: Rows) -> Part:
        return Part(
            name, *check_rows(_read(rows, options, config.itn), vocabulary, config, options)
        )

    data = TrainingData(
        train=part("train", config.train),
        replay=part("replay", config.replay) if config.replay else None,
        valid={name: part(f"valid {name}", rows) for name, rows in config.valid_sets().items()},
    )
    for one in data.parts:
        if not one.examples:
            raise ConfigError(f"data: {one.name} has no row that can be used{_why(one.dropped)}")
    n_all = len(data.train.examples) + len(data.train.dropped)
    if len(data.train.dropped) > config.max_dropped_share * n_all:
        raise ConfigError(
            f"data.train: {len(data.train.dropped)} of {n_all} rows cannot be used, more than "
            f"data.max_dropped_share ({config.max_dropped_share:g}){_why(data.train.dropped)}"
        )
    _check_held_out(data)
    return data


def _read(
    rows: Rows, options: Mapping[str, Any], itn: bool | None
) -> Iterator[TrainingRow | BadRow]:
    if isinstance(rows, TableRows):
        yield from read_table_rows(rows, options)
    else:
        yield from read_jsonl(rows, options, itn)


def _why(dropped: Sequence[BadRow]) -> str:
    if not dropped:
        return ""
    counts = ", ".join(f"{n} {kind}" for kind, n in Counter(d.kind for d in dropped).most_common())
    return f": {counts}; e.g. {dropped[0].key}: {dropped[0].reason}"


def _check_held_out(data: TrainingData) -> None:
    trained = {_place(one): one.row.key for one in data.trained}
    for part in data.valid.values():
        both = [one.row.key for one in part.examples if _place(one) in trained]
        if both:
            raise ConfigError(
                f"data: {len(both)} clips of {part.name} are trained as well, e.g. "
                f"{', '.join(both[:_NAMED])}; a model that was trained on a clip cannot be judged "
                "by it"
            )


def _place(example: Example) -> tuple[str, int]:
    uri = example.row.uri
    return uri if is_uri(uri) else os.path.realpath(uri), round(example.row.start_s * 1000)


def plan_epochs(data: TrainingData, config: FinetuneConfig, n_per_step: int) -> list[list[Step]]:
    """The steps of each epoch. Replay is drawn anew in each, `replay_ratio` of the seconds."""
    n_train = len(data.train.examples)
    train_s = sum(one.duration_s for one in data.train.examples)
    trained = data.trained
    epochs = []
    for epoch in range(config.epochs):
        rng = np.random.default_rng([config.seed, epoch, 1])
        members = list(range(n_train))
        replay_s = 0.0
        for i in rng.permutation(len(trained) - n_train) + n_train:
            if replay_s >= config.data.replay_ratio * train_s:
                break
            members.append(int(i))
            replay_s += trained[i].duration_s
        steps = plan_epoch(
            [trained[i].n_frames for i in members], config.batch_s, n_per_step, [config.seed, epoch]
        )
        epochs.append([_renumbered(step, members) for step in steps])
    return epochs


def _renumbered(step: Step, members: Sequence[int]) -> Step:
    return tuple(
        type(batch)(tuple(members[i] for i in batch.members), batch.counts) for batch in step
    )


def padding_of(steps: Sequence[Step], data: TrainingData) -> float:
    """The share of padding in some steps."""
    return padding_share(steps, [one.n_frames for one in data.trained])


def report_on(data: TrainingData) -> list[PartReport]:
    """One report a part, in their order."""
    trained_speakers = {one.row.speaker for one in data.trained} - {""}
    return [
        _report(part, trained_speakers if part.name.startswith("valid") else set())
        for part in data.parts
    ]


def _report(part: Part, trained_speakers: set[str]) -> PartReport:
    examples = part.examples
    hours: dict[str, float] = {}
    for one in examples:
        language = one.row.language or "not known"
        hours[language] = hours.get(language, 0.0) + one.duration_s / 3600
    with_itn = sum(one.text_norm_prompt == TEXT_NORM_PROMPTS[True] for one in examples)
    return PartReport(
        name=part.name,
        n_clips=len(examples),
        hours=part.hours,
        n_without_text=sum(one.row.text == "" for one in examples),
        n_text_not_known=sum(one.row.text is None for one in examples),
        hours_by_language=hours,
        n_labels={
            name: sum(one.tags[place] != MASKED for one in examples)
            for place, name in enumerate(_TAG_NAMES)
        },
        itn_share=with_itn / len(examples),
        n_dropped=dict(Counter(one.kind for one in part.dropped).most_common()),
        warnings=list(_warnings(part, with_itn, trained_speakers)),
    )


def _warnings(part: Part, with_itn: int, trained_speakers: set[str]) -> Iterator[str]:
    n = len(part.examples)
    if part.name == "train" and with_itn in (0, n):
        form, other = ("with", "without") if with_itn else ("without", "with")
        yield (
            f"all rows are {form} ITN: what the model writes {other} ITN may get worse; add rows "
            "of the other form, or replay"
        )
    spoken = [one for one in part.examples if not one.row.itn and one.row.text]
    if n_upper := sum(one.row.text != one.row.text.lower() for one in spoken if one.row.text):
        yield (
            f"{n_upper} texts without ITN have upper-case letters, which SenseVoice does not write "
            "there; lower them"
        )
    shared = trained_speakers & {one.row.speaker for one in part.examples}
    if shared:
        yield f"{len(shared)} speakers are trained as well, e.g. {min(shared)}"
