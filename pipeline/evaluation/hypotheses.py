"""What the tables say of each recording, in the form in which it is compared. Reads a snapshot.

Two models cut the same speech differently, so nothing is compared by segment: the texts of a
recording's segments are joined in time order, and its language and emotion are those of its longest
segment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.references import TimedWord
from pipeline.tables import Snapshot, connect

_RECORDINGS = """
    SELECT
        r.recording_id, r.uri, r.status, r.error_type, r.duration_s, r.extra,
        coalesce(s.texts, []), coalesce(s.n_itn, 0), coalesce(s.confidences, []),
        s.language, s.language_probability, s.emotion, s.emotion_probability, s.emotion_forced,
        coalesce(s.words, []), coalesce(s.spans, [])
    FROM {recordings} r
    LEFT JOIN (
        SELECT
            recording_id, list(text ORDER BY start_s) AS texts, count_if(itn) AS n_itn,
            list(confidence ORDER BY start_s) AS confidences,
            arg_max(language, end_s - start_s) AS language,
            arg_max(language_probability, end_s - start_s) AS language_probability,
            arg_max(emotion, end_s - start_s) AS emotion,
            arg_max(emotion_probability, end_s - start_s) AS emotion_probability,
            arg_max(emotion_forced, end_s - start_s) AS emotion_forced,
            flatten(list(words ORDER BY start_s)) AS words,
            list([start_s, end_s] ORDER BY start_s) FILTER (text <> '') AS spans
        FROM {segments} GROUP BY recording_id
    ) s USING (recording_id)
    ORDER BY r.recording_id
"""
_EVENTS = """
    SELECT recording_id, event, max(probability) FROM {events} WHERE source = 'tag' GROUP BY ALL
"""
_WHOLE = {name: name for name in ("recordings", "segments", "events")}
# Each channel that was labelled on its own, as if it were a recording.
_BY_CHANNEL = {
    "recordings": """(
        SELECT r.* REPLACE (
            r.recording_id || '#channel=' || c.channel AS recording_id,
            r.duration_s / r.n_streams AS duration_s
        )
        FROM recordings r
        JOIN (
            SELECT DISTINCT recording_id, channel FROM transcripts WHERE channel IS NOT NULL
            UNION
            SELECT recording_id, unnest(range(1, channels + 1)) FROM recordings
            WHERE n_streams = channels
        ) c USING (recording_id)
        WHERE r.n_streams > 1
    )""",
    **{
        name: f"(SELECT * REPLACE (recording_id || '#channel=' || channel AS recording_id) "
        f"FROM {name} WHERE channel IS NOT NULL)"
        for name in ("segments", "events")
    },
}


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The labels of one recording. A failed one has no text and no labels."""

    recording_id: str
    uri: str
    is_ok: bool
    error_type: str
    duration_s: float
    extra: Mapping[str, str]
    text: str
    was_itn: bool
    confidence: float | None  # mean of its segments with text
    language: str
    language_probability: float
    emotion: str
    emotion_probability: float
    emotion_forced: str
    events: Mapping[str, float]  # probability by event
    words: tuple[TimedWord, ...]
    speech: tuple[tuple[float, float], ...]


def read_hypotheses(snapshot: Snapshot, options: Mapping[str, Any]) -> dict[str, Hypothesis]:
    """By recording_id; failed recordings too."""
    return _read(snapshot, options, _WHOLE)


def read_channels(snapshot: Snapshot, options: Mapping[str, Any]) -> dict[str, Hypothesis]:
    """The channels of recordings of which each was labelled on its own, by name_of_channel."""
    return _read(snapshot, options, _BY_CHANNEL)


def _read(
    snapshot: Snapshot, options: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, Hypothesis]:
    root = snapshot.store.root
    with connect(root, options, snapshot.seq, snapshot.fingerprint) as connection:
        events: dict[str, dict[str, float]] = {}
        sounds = connection.execute(_EVENTS.format(**sources)).fetchall()
        for recording_id, event, probability in sounds:
            events.setdefault(recording_id, {})[event] = probability
        rows = connection.execute(_RECORDINGS.format(**sources)).fetchall()
    return {row[0]: _hypothesis(row, events.get(row[0], {})) for row in rows}


def _hypothesis(row: tuple[Any, ...], events: Mapping[str, float]) -> Hypothesis:
    recording_id, uri, status, error_type, duration_s, extra, texts, n_itn, confidences, *rest = row
    language, language_p, emotion, emotion_p, forced, words, spans = rest
    told = [one for text, one in zip(texts, confidences, strict=True) if text and one is not None]
    return Hypothesis(
        recording_id=recording_id,
        uri=uri,
        is_ok=status == "ok",
        error_type=error_type,
        duration_s=duration_s,
        extra=dict(extra or {}),
        text=" ".join(text for text in texts if text),
        was_itn=n_itn > 0,
        confidence=sum(told) / len(told) if told else None,
        language=language or "",
        language_probability=language_p or 0.0,
        emotion=emotion or "",
        emotion_probability=emotion_p or 0.0,
        emotion_forced=forced or "",
        events=events,
        words=tuple(TimedWord(one["word"], one["start_s"], one["end_s"]) for one in words),
        speech=tuple((start_s, end_s) for start_s, end_s in spans or ()),
    )
