"""Tokens to words: their text, their place in time, their confidence. Knows pieces, no model."""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from pipeline.models.sensevoice.word_times import Span, grow
from pipeline.schema import LFR_FRAME_S


class TokenRun(NamedTuple):
    """Equal tokens in a row, collapsed by CTC's rule; text frames [first, last), from 0."""

    token: int
    first: int
    last: int
    probability: float


def mean_probability(runs: Sequence[TokenRun]) -> float:
    """Mean of the tokens' top-1 probabilities; 0 without tokens."""
    return sum(run.probability for run in runs) / len(runs) if runs else 0.0


def span_of(first: int, last: int, start_s: float, end_s: float) -> tuple[float, float]:
    """Frames [first, last) of a clip in seconds of the recording.

    FunASR's convention: text frame i covers [60 i - 30, 60 i + 30] ms of the clip.
    """
    at = min(max(start_s + (first - 0.5) * LFR_FRAME_S, start_s), end_s)
    until = min(max(start_s + (last - 0.5) * LFR_FRAME_S, at), end_s)
    return round(at, 3), round(until, 3)


def words_of(
    spoken: Sequence[TokenRun],
    pieces: Sequence[str],
    start_s: float,
    end_s: float,
    contour: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """schema.WORD for each word of a clip that lies at [start_s, end_s] of its recording.

    `contour` is the loudness of the clip's frames (word_times.grow); None: the times of CTC.
    """
    groups = _grouped(spoken, pieces)
    peaks = [span_of(runs[0].first, runs[-1].last, start_s, end_s) for _, runs in groups]
    spans = peaks if contour is None else _by_loudness(peaks, contour, start_s, end_s)
    return [
        {
            "word": text,
            "start_s": at,
            "end_s": until,
            "confidence": mean_probability(runs),
            "peak_s": round((first_s + last_s) / 2, 3),
        }
        for (text, runs), (at, until), (first_s, last_s) in zip(groups, spans, peaks, strict=True)
    ]


def _by_loudness(
    peaks: Sequence[tuple[float, float]], contour: np.ndarray, start_s: float, end_s: float
) -> list[tuple[float, float]]:
    grown = grow([Span(at - start_s, until - start_s) for at, until in peaks], contour)
    return [
        (round(start_s + one.start_s, 3), round(min(start_s + one.end_s, end_s), 3))
        for one in grown
    ]


def _grouped(spoken: Sequence[TokenRun], pieces: Sequence[str]) -> list[tuple[str, list[TokenRun]]]:
    """Pieces joined to words.

    A word begins at "▁"; in a script without spaces each character is a word. A mark belongs to the
    word that it touches, and gives it neither time nor confidence: "$100", "20.". A mark between
    two spaces belongs to no word.
    """
    groups: list[tuple[str, list[TokenRun]]] = []
    space, marks = True, ""  # marks: those in front of the next word
    for run in spoken:
        piece = pieces[run.token]
        if piece.startswith("▁"):
            space, marks = True, ""
        text = piece.replace("▁", "")
        if not text:
            continue
        before = "" if space or marks or not groups else groups[-1][0]
        if _is_mark(text) and (not before or _opens(text, before)):
            marks += text
        elif before and (_is_mark(text) or not _are_two_words(before, text)):
            groups[-1] = (before + text, [*groups[-1][1], *([] if _is_mark(text) else [run])])
        else:
            groups.append((marks + text, [run]))
            marks = ""
        space = False
    return groups


def begins_word(piece: str) -> bool:
    """Whether a piece begins a word, whatever is before it: by a space or by its script."""
    return piece.startswith("▁") or (piece != "" and _is_unspaced(piece[0]))


@lru_cache(maxsize=32_768)  # more than there are pieces
def _is_mark(text: str) -> bool:
    return all(unicodedata.category(character)[0] in "PS" for character in text)


def _opens(mark: str, before: str) -> bool:
    """Whether a mark belongs to the next word although it touches the word `before`.

    Brackets and quotes that open do; so does the sign of a currency behind Han or kana.
    """
    kind = unicodedata.category(mark[0])
    return kind in ("Ps", "Pi") or (kind == "Sc" and _is_unspaced(_last_spoken(before)))


def _are_two_words(before: str, text: str) -> bool:
    """Whether a word ends between two neighbouring pieces: if either side is Han or kana."""
    return _is_unspaced(_last_spoken(before)) or _is_unspaced(text[0])


def _last_spoken(word: str) -> str:
    """The last character of a word that is not a mark."""
    return next(character for character in reversed(word) if not _is_mark(character))


@lru_cache(maxsize=32_768)
def _is_unspaced(character: str) -> bool:
    name = unicodedata.name(character, "")
    return name.startswith(("CJK", "HIRAGANA", "KATAKANA"))
