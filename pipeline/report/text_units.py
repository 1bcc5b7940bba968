"""Texts to the units that are compared: words, characters, or a mix of both. Pure.

Every error rate of this project counts them: the explorer's, the dataset card's and `evaluate`'s.
"""

import re
import unicodedata
from typing import Literal

Unit = Literal["words", "characters", "mixed"]

# Han, kana, and what stands among them; Hangul is written with spaces.
_CJK = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_MIXED = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_BETWEEN = re.compile(rf"(?<=[{_CJK}])\s+(?=[{_CJK}])")
_CHARACTER_LANGUAGES = frozenset({"zh", "yue", "ja"})


def plain(text: str) -> str:
    """NFKC, lower case, without punctuation; apostrophes and hyphens inside words stay."""
    text = unicodedata.normalize("NFKC", text).lower()
    kept = []
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        if category[0] in "LNM":
            kept.append(character)
        elif character in "'’-" and _is_inside(text, place):
            kept.append("'" if character == "’" else character)
        else:
            kept.append(" ")
    joined = _BETWEEN.sub("", " ".join("".join(kept).split()))
    return unicodedata.normalize("NFC", joined)  # a kana mark that stood alone joins its letter


def split(text: str, unit: Unit) -> list[str]:
    """The units of a normalised text: words, characters without spaces, or mixed.

    Mixed: each Chinese or Japanese character, and each word of anything else (ESPnet's and SEAME's
    mixed error rate for code switching).
    """
    if unit == "words":
        return text.split()
    if unit == "characters":
        return [character for character in text if not character.isspace()]
    return _MIXED.findall(text)


def units_of(language: str) -> tuple[Unit, ...]:
    """Which rates are told for a language: Korean's spaces are written as one likes, so both."""
    if language in _CHARACTER_LANGUAGES:
        return ("characters",)
    return ("words", "characters") if language == "ko" else ("words",)


def _is_inside(text: str, place: int) -> bool:
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    return before.isalnum() and after.isalnum()
