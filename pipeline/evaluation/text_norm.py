"""Which normaliser texts go through before they are compared. Knows libraries; no scores.

What is done to a text before it is compared decides the error rate as much as the model does, so
it is explicit, printed with every score, and the same on both sides.
"""

from collections.abc import Callable
from typing import Literal, get_args

from pipeline.errors import ConfigError
from pipeline.report.text_units import plain

Normalizer = Literal["plain", "whisper"]
NORMALIZERS: tuple[Normalizer, ...] = get_args(Normalizer)

DESCRIPTIONS: dict[Normalizer, str] = {
    "plain": "NFKC, lower case, no punctuation, no spaces between Chinese or Japanese characters",
    "whisper": "OpenAI Whisper's English normaliser for English, its basic one for the rest",
}


def normaliser(name: Normalizer, *, simplified: bool = False) -> Callable[[str, str], str]:
    """(text, language) -> text. `simplified` writes traditional Chinese in simplified characters.

    Raises ConfigError if the library that it needs is not installed.
    """
    fold = _folding() if simplified else str
    if name == "plain":
        return lambda text, language: fold(plain(text))
    english, basic = _whisper()
    return lambda text, language: fold((english if language == "en" else basic)(text))


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
