"""Which labels an export takes where people have corrected them, and its split. Writes nothing.

A recording is in one split only, and so is a speaker, if the manifest has a column `speaker`. What
was drawn by chance and reviewed is kept for tests: it tells accuracy without bias, and a model that
was trained on it could not be judged by it any more.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Literal, get_args

Reviewed = Literal["ignore", "only", "prefer", "exclude"]
REVIEWED: tuple[Reviewed, ...] = get_args(Reviewed)

# The views come from tables.review_table. A segment that people called unusable is in none of them.
_SOURCES: Mapping[Reviewed, str] = {
    "ignore": "SELECT *, text AS model_text, NULL AS verdict, 0 AS revision FROM segments",
    "only": "SELECT * FROM segments_reviewed WHERE verdict IN ('right', 'fixed')",
    "prefer": "SELECT * FROM segments_reviewed WHERE verdict IS DISTINCT FROM 'unusable'",
    "exclude": "SELECT *, text AS model_text, NULL AS verdict, 0 AS revision FROM segments "
    "WHERE segment_id NOT IN (SELECT segment_id FROM segment_reviews)",
}
_GROUP = "coalesce(nullif(r.extra['speaker'], ''), r.recording_id)"


def labels_of(reviewed: Reviewed) -> str:
    """SQL for the segments and their labels: the columns of `segments`, model_text and verdict."""
    return _SOURCES[reviewed]


def needs_reviews(reviewed: Reviewed, test_share: float) -> bool:
    """Whether a selection depends on reviews: by its labels, or by what is kept for tests."""
    return reviewed != "ignore" or test_share > 0


def split_of(test_share: float) -> str:
    """SQL for (recording_id, split): train or test. The same recording has the same one each time.

    About `test_share` of the speakers (or recordings) are test, and all those of which a segment
    was drawn by chance and reviewed. With 0, everything is train.
    """
    if not test_share:
        return "SELECT recording_id, 'train' AS split FROM recordings"
    return f"""
        SELECT r.recording_id, CASE
            WHEN ('0x' || left(md5({_GROUP}), 8))::UBIGINT < {test_share * 2**32} THEN 'test'
            WHEN {_GROUP} IN (
                SELECT {_GROUP} FROM recordings r JOIN segment_reviews v USING (recording_id)
                WHERE v.sample = 'random'
            ) THEN 'test'
            ELSE 'train'
        END AS split
        FROM recordings r
    """


def corrected_events(
    tag: str,
    sounds: Sequence[Mapping[str, Any]],
    events: Sequence[str],
    span: tuple[float, float],
) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """The event tag and the sounds of a segment whose events a person has named.

    The model's sounds keep their times; what only the person heard lasts the whole segment.
    """
    kept = [sound for sound in sounds if sound["event"] in events]
    known = {sound["event"] for sound in kept}
    start_s, end_s = span
    added = [
        {"event": event, "start_s": start_s, "end_s": end_s, "probability": 1.0}
        for event in events
        if event not in known
    ]
    return tag if tag in events else next(iter(events), "unknown"), (*kept, *added)


def kept_words(words: Sequence[Mapping[str, Any]], text: str) -> tuple[Mapping[str, Any], ...]:
    """Those of the model's words that are in the corrected text, in order.

    The times of a word that was changed belong to what the model took for another word.
    """
    said = [str(word["word"]) for word in words]
    matcher = SequenceMatcher(None, said, _pieces(said, text), autojunk=False)
    return tuple(
        word
        for block in matcher.get_matching_blocks()
        for word in words[block.a : block.a + block.size]
    )


def _pieces(said: Sequence[str], text: str) -> list[str]:
    """The text in pieces like the model's words: those between blanks, or single characters."""
    has_blanks = any(len(word) > 1 and word.isascii() for word in said)
    if has_blanks or " " in text:
        return text.split()
    known = sorted({re.escape(word) for word in said if len(word) > 1}, key=len, reverse=True)
    return re.findall("|".join([*known, r"\S"]), text)
