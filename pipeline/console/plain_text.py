"""Text from the tables for a terminal. Knows characters; knows nothing of where the text is from.

A recording_id or a text of the corpus may hold escape sequences, which a terminal obeys: they
change what was printed before, the title of the window, or what is in the clipboard.
"""

import unicodedata
from collections.abc import Mapping

_KEPT = frozenset("\n\t")
_MARKS = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def visible(text: str) -> str:
    r"""Control characters, direction marks and half characters become `\x1b` and the like.

    Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(char) if _is_control(char) else char for char in text)


def counted(n: int, noun: str) -> str:
    """A number with its noun: "1 commit", "2,000 commits"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def amount(seconds: float) -> str:
    """A length of audio or time in the unit that fits it: "93 s", "4,200.51 h"."""
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 3600:,.2f} h"


def counts_text(values: Mapping[str, int]) -> str:
    """Counts by name: "wav 3, mp3 1"; "none" if there are none."""
    return ", ".join(f"{name} {count:,}" for name, count in values.items()) or "none"


def visible_json(text: str) -> str:
    r"""The same for a JSON text, with the escapes of JSON: `\u009b`. It stays the same JSON."""
    if text.isprintable():
        return text
    return "".join(f"\\u{ord(char):04x}" if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    if char in _KEPT:
        return False
    return char in _MARKS or unicodedata.category(char) in ("Cc", "Cs")


def _escaped(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"
