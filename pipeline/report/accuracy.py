"""How right the labels are, from reviews of segments that were drawn by chance. Pure.

Only reviews with `sample = random` count: the others were chosen because they looked doubtful. What
was unusable, or what the reviewer was unsure of, is counted beside and not as wrong.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from pipeline.report.text_units import plain, split, units_of

if TYPE_CHECKING:
    import duckdb

_Z = 1.959964  # two-sided 95 %
_N_RESAMPLED = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """A share and the 95 % interval in which it lies in the corpus."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What the random share says. A share without any review is None."""

    n_random: int  # reviews that count
    n_left_out: int  # unusable, or the reviewer was unsure
    language: Share | None
    emotion: Share | None
    events: Share | None
    whole_text: Share | None  # segments whose text needed no correction
    error_rate: Share | None  # of words, or of characters in Chinese, Cantonese and Japanese

    def lines(self) -> list[tuple[str, Share]]:
        """What is known, with its name for people."""
        named = (
            ("language right", self.language),
            ("emotion right", self.emotion),
            ("events right", self.events),
            ("text without a correction", self.whole_text),
            ("errors in the text (words; in zh, yue and ja characters)", self.error_rate),
        )
        return [(name, share) for name, share in named if share is not None]


def read_accuracy(connection: "duckdb.DuckDBPyConnection") -> Accuracy:
    """From the reviews of a snapshot (see tables.connect) that were made of its own labels."""
    rows = connection.sql(
        "SELECT * FROM reviews WHERE fingerprint IN (SELECT DISTINCT fingerprint FROM recordings)"
    )
    return measure(rows.to_arrow_table().to_pylist())


def measure(reviews: Sequence[Mapping[str, Any]]) -> Accuracy:
    """Accuracy from rows of schema.REVIEWS, of one fingerprint."""
    drawn = [row for row in reviews if row["sample"] == "random" and row["verdict"] != "withdrawn"]
    rows = [row for row in drawn if row["verdict"] in ("right", "fixed")]

    def share(is_right: Callable[[Mapping[str, Any]], bool]) -> Share | None:
        return wilson(sum(map(is_right, rows)), len(rows)) if rows else None

    return Accuracy(
        n_random=len(rows),
        n_left_out=len(drawn) - len(rows),
        language=share(lambda row: row["language"] == row["shown"]["language"]),
        emotion=share(lambda row: row["emotion"] == row["shown"]["emotion"]),
        events=share(lambda row: {*row["events"]} == {*row["shown"]["events"]}),
        whole_text=share(lambda row: _units(row, row["text"]) == _units(row, row["shown"]["text"])),
        error_rate=_error_rate(rows),
    )


def wilson(n_right: int, n: int) -> Share:
    """The share n_right / n with its Wilson score interval (Wilson 1927, JASA 22:209)."""
    share = n_right / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return Share(share, max(0.0, centre - half), min(1.0, centre + half), n)


def _error_rate(rows: Sequence[Mapping[str, Any]]) -> Share | None:
    """Edits by units of the corrected texts; the interval by resampling recordings."""
    by_recording: dict[str, list[int]] = {}
    for row in rows:
        right, said = _units(row, row["text"]), _units(row, row["shown"]["text"])
        counts = by_recording.setdefault(row["recording_id"], [0, 0])
        counts[0] += Levenshtein.distance(said, right)
        counts[1] += len(right)
    counted = np.array(list(by_recording.values()), dtype=float).reshape(-1, 2)
    if not counted[:, 1].sum():
        return None
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(counted), (_N_RESAMPLED, len(counted)))
    sums = counted[drawn].sum(axis=1)
    rates = sums[:, 0] / np.maximum(sums[:, 1], 1)
    low, high = np.percentile(rates, [2.5, 97.5])
    rate = counted[:, 0].sum() / counted[:, 1].sum()
    return Share(float(rate), float(low), float(high), len(rows))


def _units(row: Mapping[str, Any], text: str) -> list[str]:
    """As `evaluate` counts them: words, or characters where the language has no spaces."""
    return split(plain(text), units_of(row["language"])[0])
