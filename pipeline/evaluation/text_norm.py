"""Texts to the units that are compared: words, characters, or a mix of both. Pure.

What is done to a text before it is compared decides the error rate as much as the model does, so
it is explicit, printed with every score, and the same on both sides.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

from pipeline.errors import ConfigError

Normalizer = Literal["plain", "whisper"]
NORMALIZERS: tuple[Normalizer, ...] = get_args(Normalizer)
Unit = Literal["words", "characters", "mixed"]

DESCRIPTIONS: dict[Normalizer, str] = {
    "plain": "NFKC, lower case, no punctuation, no spaces between Chinese or Japanese characters",
    "whisper": "OpenAI Whisper's English normaliser for English, its basic one for the rest",
}

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
    return _BETWEEN.sub("", " ".join("".join(kept).split()))


def normaliser(name: Normalizer, *, simplified: bool = False) -> Callable[[str, str], str]:
    """(text, language) -> text. `simplified` writes traditional Chinese in simplified characters.

    Raises ConfigError if the library that it needs is not installed.
    """
    fold = _folding() if simplified else str
    if name == "plain":
        return lambda text, language: fold(plain(text))
    english, basic = _whisper()
    return lambda text, language: fold((english if language == "en" else basic)(text))


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


def _whisper() -> tuple[Callable[[str], str], Callable[[str], str]]:
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--normalizer whisper needs a library: pip install 'sensevoice-pipeline[evaluate]'"
        ) from error
    return EnglishTextNormalizer(), BasicTextNormalizer()


def _folding() -> Callable[[str], str]:
    try:
        from zhconv import convert
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--simplified needs a library: pip install 'sensevoice-pipeline[evaluate]'"
        ) from error
    return lambda text: str(convert(text, "zh-hans"))
