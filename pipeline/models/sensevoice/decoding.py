"""Per-frame tokens to text, words, tags and probabilities. Knows SenseVoice's vocabulary, no torch.

SenseVoice's first four output frames carry the tags in the order language, emotion, event, text
normalisation; the CTC text starts at frame 4 (SenseVoiceSmall.inference in FunASR). Greedy CTC may
drop or repeat a tag, or print one inside the text: labels are read at their frames, never parsed.
"""

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from pipeline.schema import EMOTIONS, EVENTS, LANGUAGES, LFR_FRAME_S

BLANK = 0
N_TAG_FRAMES = 4

_LANGUAGE_PIECES = tuple(f"<|{name}|>" for name in LANGUAGES)
_EMOTION_PIECES = (*(f"<|{name.upper()}|>" for name in EMOTIONS[:-1]), "<|EMO_UNKNOWN|>")
_EVENT_PIECES = tuple(
    f"<|{name}|>"
    for name in (
        "Speech",
        "BGM",
        "Laughter",
        "Applause",
        "Cry",
        "Sneeze",
        "Breath",
        "Cough",
        "Sing",
        "Speech_Noise",
        "GBG",
        "Event_UNK",
    )
)


class Vocabulary:
    """Ids, pieces and tags of one SentencePiece model. Ids are found by piece, never by number."""

    def __init__(self, tokenizer: sentencepiece.SentencePieceProcessor) -> None:
        self._tokenizer = tokenizer
        self.language_ids = self._ids(_LANGUAGE_PIECES)
        self.emotion_ids = self._ids(_EMOTION_PIECES)
        self.event_ids = self._ids(_EVENT_PIECES)
        pieces = [tokenizer.id_to_piece(i) for i in range(tokenizer.vocab_size())]
        self.pieces: list[str] = pieces
        self.is_tag = np.array(
            [piece.startswith("<|") and piece.endswith("|>") for piece in pieces]
        )
        self._event_of = dict(zip(_EVENT_PIECES, EVENTS, strict=True))

    def _ids(self, pieces: Sequence[str]) -> list[int]:
        ids = [self._tokenizer.piece_to_id(piece) for piece in pieces]
        missing = [
            piece for piece, i in zip(pieces, ids, strict=True) if i == self._tokenizer.unk_id()
        ]
        if missing:
            raise ValueError(
                f"the tokenizer has no {', '.join(missing)}: not a SenseVoice vocabulary"
            )
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The string of some ids, exactly as FunASR's tokenizer joins them."""
        return str(self._tokenizer.decode([int(i) for i in ids]))

    def opened_event(self, token: int) -> str:
        """The event that a tag inside the text begins; "" for any other token."""
        return self._event_of.get(self.pieces[token], "")

    def closed_event(self, token: int) -> str:
        """The event that a closing tag such as <|/BGM|> ends; "" for any other token."""
        return self._event_of.get(self.pieces[token].replace("<|/", "<|", 1), "") * (
            self.pieces[token].startswith("<|/")
        )


@dataclass(frozen=True, slots=True)
class ClipOutput:
    """What the model heard in one clip: n frames of 60 ms, the first four of them tags."""

    tokens: np.ndarray  # int64 (n,), the most probable token of each frame
    probabilities: np.ndarray  # float32 (n,), its probability
    language: np.ndarray  # float32 (6,), over schema.LANGUAGES
    emotion: np.ndarray  # float32 (9,), over schema.EMOTIONS
    event: np.ndarray  # float32 (12,), over schema.EVENTS


class _Run(NamedTuple):
    """Equal tokens in a row, collapsed as CTC asks; frames [first, last) of the text, from 0."""

    token: int
    first: int
    last: int
    probability: float


def restrict_languages(frames: ClipOutput, allowed: Collection[str]) -> np.ndarray:
    """Language probabilities with only the allowed ones (and nospeech) left, summing to one."""
    keep = np.array([name in allowed or name == "nospeech" for name in LANGUAGES])
    kept = np.where(keep, frames.language, 0)
    return (kept / max(float(kept.sum()), 1e-12)).astype(np.float32)


def best_spoken(language: np.ndarray) -> str:
    """The most probable language, speech taken for granted."""
    return LANGUAGES[int(np.argmax(language[: LANGUAGES.index("nospeech")]))]


def label_clip(
    frames: ClipOutput, vocabulary: Vocabulary, start_s: float, end_s: float, itn: bool
) -> dict[str, Any]:
    """One schema.LABELLED_SEGMENT for a clip that lies at [start_s, end_s] of its recording."""
    runs = list(_collapse(frames, vocabulary))
    spoken = [run for run in runs if not vocabulary.is_tag[run.token]]
    emotion = frames.emotion
    forced = EMOTIONS[int(np.argmax(emotion[:-1]))]  # "unknown" is last
    return {
        "start_s": start_s,
        "end_s": end_s,
        "text": vocabulary.text([run.token for run in spoken]).strip(),
        "rich_text": rich_text(frames, vocabulary),
        "confidence": _mean_probability(spoken),
        "n_tokens": len(spoken),
        "words": list(_words(spoken, vocabulary, start_s, end_s)),
        "itn": itn,
        **_ranking("language", frames.language, LANGUAGES),
        **_ranking("emotion", emotion, EMOTIONS),
        "emotion_forced": forced,
        "events": list(_events(frames, runs, vocabulary, start_s, end_s)),
    }


def rich_text(frames: ClipOutput, vocabulary: Vocabulary) -> str:
    """SenseVoice's own string, tags and all, as `AutoModel.generate` returns it."""
    collapsed = frames.tokens[_run_starts(frames.tokens)]
    return vocabulary.text(collapsed[collapsed != BLANK].tolist())


def _collapse(frames: ClipOutput, vocabulary: Vocabulary) -> Iterator[_Run]:
    tokens = frames.tokens[N_TAG_FRAMES:]
    probabilities = frames.probabilities[N_TAG_FRAMES:]
    if not len(tokens):
        return
    firsts = _run_starts(tokens)
    lasts = [*firsts[1:].tolist(), len(tokens)]
    peaks = np.maximum.reduceat(probabilities, firsts).tolist()
    for token, first, last, peak in zip(
        tokens[firsts].tolist(), firsts.tolist(), lasts, peaks, strict=True
    ):
        if token != BLANK:
            yield _Run(token, first, last, peak)


def _run_starts(tokens: np.ndarray) -> np.ndarray:
    """Where a token differs from the one before, the first included."""
    changed = np.ones(len(tokens), dtype=bool)
    np.not_equal(tokens[1:], tokens[:-1], out=changed[1:])
    return changed.nonzero()[0]


def _mean_probability(runs: Sequence[_Run]) -> float:
    return sum(run.probability for run in runs) / len(runs) if runs else 0.0


def _span(first: int, last: int, start_s: float, end_s: float) -> tuple[float, float]:
    """Frames [first, last) of a clip in seconds of the recording.

    FunASR's convention: the frame i of the text covers [60 i - 30, 60 i + 30] ms of the clip.
    """
    at = min(max(start_s + (first - 0.5) * LFR_FRAME_S, start_s), end_s)
    until = min(max(start_s + (last - 0.5) * LFR_FRAME_S, at), end_s)
    return round(at, 3), round(until, 3)


def _words(
    spoken: Sequence[_Run], vocabulary: Vocabulary, start_s: float, end_s: float
) -> Iterator[dict[str, Any]]:
    """Pieces joined to words: at "▁", or character by character where a script has no spaces."""
    groups: list[tuple[str, list[_Run]]] = []
    space = True
    for run in spoken:
        piece = vocabulary.pieces[run.token]
        space = space or piece.startswith("▁")
        text = piece.replace("▁", "")
        if not text:
            continue
        if groups and not space and (_is_mark(text) or not _stands_alone(groups[-1][0], text)):
            groups[-1] = (
                groups[-1][0] + text,
                [*groups[-1][1], *([] if _is_mark(text) else [run])],
            )
        elif not _is_mark(text):
            groups.append((text, [run]))
        space = False
    for text, runs in groups:
        at, until = _span(runs[0].first, runs[-1].last, start_s, end_s)
        confidence = _mean_probability(runs)
        yield {"word": text, "start_s": at, "end_s": until, "confidence": confidence}


@lru_cache(maxsize=32_768)  # more than there are pieces
def _is_mark(text: str) -> bool:
    return all(unicodedata.category(character)[0] in "PS" for character in text)


def _stands_alone(before: str, text: str) -> bool:
    """Whether two neighbouring pieces are words of their own: Han or kana on either side."""
    return _is_unspaced(before[-1]) or _is_unspaced(text[0])


@lru_cache(maxsize=32_768)
def _is_unspaced(character: str) -> bool:
    name = unicodedata.name(character, "")
    return name.startswith(("CJK", "HIRAGANA", "KATAKANA"))


def _ranking(kind: str, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Best, runner-up, all probabilities and their entropy (nats), as columns named by the kind."""
    second, first = np.argsort(probabilities, kind="stable")[-2:]
    positive = probabilities[probabilities > 0].astype(np.float64)
    return {
        kind: names[first],
        f"{kind}_probability": float(probabilities[first]),
        f"{kind}_runner_up": names[second],
        f"{kind}_runner_up_probability": float(probabilities[second]),
        f"{kind}_probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
        f"{kind}_entropy": float(-(positive * np.log(positive)).sum()),
    }


def _events(
    frames: ClipOutput, runs: Sequence[_Run], vocabulary: Vocabulary, start_s: float, end_s: float
) -> Iterator[dict[str, Any]]:
    """The segment's own event, then the ones whose tags stand inside the text, in time order."""
    best = int(np.argmax(frames.event))
    if EVENTS[best] != "unknown":
        probability = float(frames.event[best])
        yield _event(EVENTS[best], probability, (start_s, end_s), "tag")
    for index, run in enumerate(runs):
        name = vocabulary.opened_event(run.token)
        if name in ("", "unknown"):
            continue
        closing = (r.last for r in runs[index:] if vocabulary.closed_event(r.token) == name)
        last = next(closing, run.last)
        yield _event(name, run.probability, _span(run.first, last, start_s, end_s), "inline")


def _event(
    name: str, probability: float, span_s: tuple[float, float], source: str
) -> dict[str, Any]:
    return {
        "event": name,
        "probability": probability,
        "start_s": span_s[0],
        "end_s": span_s[1],
        "source": source,
    }
