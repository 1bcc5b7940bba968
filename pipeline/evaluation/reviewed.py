"""Reviews as references: what people said of segments that were drawn by chance. Reads a snapshot.

Reviews of segments that looked doubtful say nothing about the corpus and are left out, as on the
explorer's page (report/accuracy.py). A review belongs to a stretch of audio, so two models can be
scored on the same ones.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.evaluation.hypotheses import Hypothesis
from pipeline.evaluation.references import Joined, Reference, ReferenceSet, TimedWord
from pipeline.tables import Snapshot, connect
from pipeline.tables.review_table import create_review_views, current_reviews

SOURCE = "reviews"

_REVIEWED = """
    SELECT
        v.recording_id || ' ' || v.start_s || '-' || v.end_s
            || coalesce('#channel=' || v.channel, '') AS key, v.recording_id,
        v.text, v.language, v.emotion, v.events,
        s.uri, s.extra, s.text, s.itn, s.confidence, s.language, s.language_probability,
        s.emotion, s.emotion_probability, s.emotion_forced, s.words, s.start_s, s.end_s,
        coalesce(e.events, MAP {})
    FROM segment_reviews v
    JOIN segments s USING (segment_id)
    LEFT JOIN (
        SELECT segment_id, map_from_entries(list((event, probability))) AS events
        FROM events WHERE source = 'tag' GROUP BY segment_id
    ) e USING (segment_id)
    WHERE v.sample = 'random' AND v.verdict IN ('right', 'fixed')
    ORDER BY key
"""


def read_reviewed(
    snapshot: Snapshot, options: Mapping[str, Any]
) -> tuple[Joined, dict[str, Hypothesis], ReferenceSet]:
    """The references and the labels of the reviewed segments, by a key of the stretch.

    Also reviews that no commit has folded yet. Raises ConfigError if there is none.
    """
    root = snapshot.store.root
    with connect(root, options, snapshot.seq, snapshot.fingerprint) as connection:
        create_review_views(connection, current_reviews(snapshot.store, snapshot.state))
        rows = connection.execute(_REVIEWED).fetchall()
    if not rows:
        raise ConfigError(
            f"{root}: no segment that was drawn by chance has been reviewed; make a queue with a "
            "random share in `jobs explore`, and review it"
        )
    references = {row[0]: _reference(row) for row in rows}
    found = ReferenceSet("reviews of segments drawn by chance", [*references.values()])
    return Joined(references, 0, (), 0), {row[0]: _hypothesis(row) for row in rows}, found


def _reference(row: tuple[Any, ...]) -> Reference:
    key, recording_id, text, language, emotion, events, _, extra, *_ = row
    return Reference(
        key=key,
        text=text,
        text_itn=text,  # in the form that the reviewer saw
        language=language,
        emotion=None if emotion == "unknown" else emotion,
        events=tuple(events),
        speaker=dict(extra or {}).get("speaker") or recording_id,  # what the bootstrap draws
    )


def _hypothesis(row: tuple[Any, ...]) -> Hypothesis:
    key, _, _, _, _, _, uri, extra, text, itn, confidence, *rest = row
    language, language_p, emotion, emotion_p, forced, words, start_s, end_s, events = rest
    return Hypothesis(
        recording_id=key,
        uri=uri,
        is_ok=True,
        error_type="",
        duration_s=end_s - start_s,
        extra=dict(extra or {}),
        text=text,
        was_itn=itn,
        confidence=confidence if text else None,
        language=language,
        language_probability=language_p,
        emotion=emotion,
        emotion_probability=emotion_p,
        emotion_forced=forced,
        events=dict(events),
        words=tuple(TimedWord(one["word"], one["start_s"], one["end_s"]) for one in words),
        speech=((start_s, end_s),) if text else (),
    )
