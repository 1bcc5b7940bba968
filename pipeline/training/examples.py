"""Rows to checked examples: every clip is decoded once, and what cannot be trained is listed.

Reads audio; knows the vocabulary, no network. FunASR replaces a row that it cannot read by another
one that it draws by chance (datasets/sense_voice_datasets/datasets.py); here it is dropped.
"""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.audio.channels import Waveform
from pipeline.audio.checks import WITHOUT_LIMITS
from pipeline.audio.windows import decode
from pipeline.errors import ErrorType, RecordingError
from pipeline.export.clips import read_clips
from pipeline.models.features import count_frames
from pipeline.models.sensevoice.decoding import (
    BLANK,
    LANGUAGE_PROMPTS,
    TEXT_NORM_PROMPTS,
    TEXT_NORM_TAGS,
    Vocabulary,
)
from pipeline.schema import LFR_STEP, SAMPLE_RATE
from pipeline.storage.read_ahead import map_ahead
from pipeline.training.rows import BadRow, TrainingRow
from pipeline.training.settings import DataConfig

MASKED = -1  # FunASR's ignore_id: the loss leaves out a tag with this target
AUTO = LANGUAGE_PROMPTS["auto"]
# SenseVoiceSmall.lid_dict in FunASR; nospeech is a prompt in training only.
_TRAINING_PROMPTS = LANGUAGE_PROMPTS | {"nospeech": 13}
_UNKNOWN = {"<|EMO_UNKNOWN|>", "<|Event_UNK|>"}


@dataclass(frozen=True, slots=True)
class Example:
    """A clip that can be trained, as numbers."""

    row: TrainingRow
    n_samples: int
    n_frames: int  # LFR frames
    tokens: tuple[int, ...]
    tags: tuple[int, int, int, int]  # language, emotion, event, text norm; MASKED: not known
    language_prompt: int  # AUTO if the language has no prompt
    text_norm_prompt: int

    @property
    def duration_s(self) -> float:
        return self.n_samples / SAMPLE_RATE

    @property
    def n_tags(self) -> int:
        return sum(tag != MASKED for tag in self.tags)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A part of a recording, for read_clips."""

    segment_id: str
    uri: str
    start_s: float
    n_samples: int
    channel: int


class _TooLong(Exception):
    pass


def check_rows(
    rows: Iterable[TrainingRow | BadRow],
    vocabulary: Vocabulary,
    config: DataConfig,
    options: Mapping[str, Any],
    n_threads: int = 4,
) -> tuple[list[Example], list[BadRow]]:
    """The examples, in the order of the rows, and every row that is none, with the reason."""

    def check(row: TrainingRow | BadRow) -> Example | BadRow:
        return row if isinstance(row, BadRow) else check_row(row, vocabulary, config, options)

    with ThreadPoolExecutor(n_threads) as pool:  # decoders release the GIL
        found = list(map_ahead(pool, check, rows, 4 * n_threads))
    return (
        [one for one in found if isinstance(one, Example)],
        [one for one in found if isinstance(one, BadRow)],
    )


def check_row(
    row: TrainingRow, vocabulary: Vocabulary, config: DataConfig, options: Mapping[str, Any]
) -> Example | BadRow:
    """One row; a BadRow says what is wrong with it."""
    if row.itn is None:
        reason = "no with_or_wo_itn, so its text form is not known; data.itn sets it"
        return BadRow(row.key, "no text form", reason)
    tokens = vocabulary.encode(row.text or "")
    if BLANK in tokens:
        missing = sorted({c for c in row.text or "" if BLANK in vocabulary.encode(c)})
        reason = f"not in the vocabulary: {' '.join(missing)}; spell it in other characters"
        return BadRow(row.key, "unknown characters", reason)
    tags = _tags(row, vocabulary, learn_unknown=config.learn_unknown)
    if isinstance(tags, BadRow):
        return tags
    try:
        n_samples = len(read_waveform(row, options, config.max_clip_s))
    except RecordingError as error:
        kind = "too short" if error.kind == ErrorType.TOO_SHORT else "unreadable"
        return BadRow(row.key, kind, f"{row.uri}: {error.kind}: {error}")
    except _TooLong:
        reason = f"{row.uri}: longer than data.max_clip_s, {config.max_clip_s:g} s"
        return BadRow(row.key, "too long", reason)
    n_frames = math.ceil(count_frames(n_samples) / LFR_STEP)
    n_needed = frames_needed(tokens)
    if n_frames < n_needed:
        reason = f"{row.uri}: {n_needed} frames of 60 ms are needed for its text, it has {n_frames}"
        return BadRow(row.key, "infeasible", reason)
    prompt = _TRAINING_PROMPTS.get(row.language or "", AUTO)
    return Example(
        *(row, n_samples, n_frames, tuple(tokens), tags, prompt, TEXT_NORM_PROMPTS[row.itn])
    )


def frames_needed(tokens: list[int]) -> int:
    """The fewest frames in which CTC can write the tokens: a blank stands between equal ones."""
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))


def _tags(
    row: TrainingRow, vocabulary: Vocabulary, *, learn_unknown: bool
) -> tuple[int, int, int, int] | BadRow:
    names = [f"<|{row.language}|>" if row.language else None, row.emotion, row.event]
    ids = []
    for name in [*names, TEXT_NORM_TAGS[bool(row.itn)]]:
        if name is None or (name in _UNKNOWN and not learn_unknown):
            ids.append(MASKED)
        elif (found := vocabulary.tag_id(name)) is None:
            return BadRow(row.key, "bad label", f"the vocabulary has no {name}")
        else:
            ids.append(found)
    language, emotion, event, text_norm = ids
    return language, emotion, event, text_norm


def read_waveform(
    row: TrainingRow, options: Mapping[str, Any], max_s: float = math.inf
) -> Waveform:
    """The samples of a clip, int16 (n_samples,). Raises RecordingError, and _TooLong over max_s."""
    if row.length_s > max_s:
        raise _TooLong
    if row.length_s:
        end = round((row.start_s + row.length_s) * SAMPLE_RATE)
        n_samples = end - round(row.start_s * SAMPLE_RATE)
        stretch = _Stretch(row.key, row.uri, row.start_s, n_samples, row.channel)
        return next(read_clips([stretch], options))
    pieces, n_samples = [], 0
    for window in decode(row.uri, WITHOUT_LIMITS, options, channel=row.channel):
        pieces.append(window.waveform)
        n_samples += window.waveform.size
        if n_samples > max_s * SAMPLE_RATE:
            raise _TooLong
    return np.concatenate(pieces)
