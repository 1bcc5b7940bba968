"""Labelled segments as tasks of Label Studio. Knows its formats; opens no audio, saves no review.

https://labelstud.io/guide/task_format.html, https://labelstud.io/guide/predictions.html. A task is
a recording; a segment is a region of its prediction, and its labels are results with the region's
id. label_studio_reviews reads what annotators made of it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pipeline.export.rows import ExportRow, ExportTarget
from pipeline.schema import EMOTIONS, EVENTS, LANGUAGES

AUDIO = "audio"  # the object of the labelling configuration
REGION = "segment"  # names of its controls, ...
TEXT = "text"
LANGUAGE = "language"
EMOTION = "emotion"
SOUNDS = "events"
VERDICT = "verdict"
VERDICTS = ("unusable", "unsure")  # ... and what the last one may say; else: right or fixed

# Where Label Studio serves local files, below its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
_LOCAL = "/data/local-files/?d="


def write_label_studio(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`tasks.json`, one task a recording, and `labeling_config.xml` for the project."""
    with (target.staging / "tasks.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for number, (_, group) in enumerate(groupby(rows, attrgetter("recording_id"))):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(_task([*group], target), ensure_ascii=False))
        file.write("\n]\n")
    (target.staging / "labeling_config.xml").write_text(labelling_config(), encoding="utf-8")


def labelling_config() -> str:
    """The labelling configuration that fits the tasks."""
    return "\n".join(
        [
            "<View>",
            f'  <Audio name="{AUDIO}" value="$audio"/>',
            f'  <Labels name="{REGION}" toName="{AUDIO}"><Label value="{REGION}"/></Labels>',
            f'  <TextArea name="{TEXT}" toName="{AUDIO}" perRegion="true" editable="true"'
            ' maxSubmissions="1" rows="2" displayMode="region-list"/>',
            *_choices(LANGUAGE, "single", LANGUAGES),
            *_choices(EMOTION, "single", EMOTIONS),
            *_choices(SOUNDS, "multiple", EVENTS),
            *_choices(VERDICT, "single", VERDICTS),
            "</View>\n",
        ]
    )


def _choices(name: str, choice: str, values: Sequence[str]) -> Iterator[str]:
    yield f'  <Header value={quoteattr(name)} size="6"/>'
    yield (
        f'  <Choices name="{name}" toName="{AUDIO}" perRegion="true" choice="{choice}"'
        ' showInline="true">'
    )
    yield from (f'    <Choice value="{value}"/>' for value in values)
    yield "  </Choices>"


def _task(rows: Sequence[ExportRow], target: ExportTarget) -> dict[str, Any]:
    """`data` also holds what a review needs; Label Studio gives it back as it is."""
    first = rows[0]
    scores = [row.confidence for row in rows if row.confidence is not None]
    return {
        "data": {
            "audio": _address(first.uri),
            "recording_id": first.recording_id,
            "version": first.version,
            "fingerprint": target.fingerprint,
            "seq": target.seq,
            "sample": target.sample,
            "segments": {region_id(row.recording_id, row.segment_id): row.revision for row in rows},
            "extra": dict(first.extra),
        },
        "predictions": [
            {
                "model_version": target.fingerprint[:8],
                "score": round(sum(scores) / len(scores), 4) if scores else None,
                "result": [result for row in rows for result in _results(row)],
            }
        ],
    }


def region_id(recording_id: str, segment_id: str) -> str:
    """The number of the segment in its recording: Label Studio cuts an id at "#"."""
    return segment_id.removeprefix(f"{recording_id}-")


def _results(row: ExportRow) -> Iterator[dict[str, Any]]:
    """The region of a segment and its labels, each a result of its own with the same id."""
    sounds = [*dict.fromkeys(sound["event"] for sound in row.sounds)]
    for name, kind, key, values in (
        (REGION, "labels", "labels", [REGION]),
        (TEXT, "textarea", "text", [row.text] if row.text else []),
        (LANGUAGE, "choices", "choices", [row.language]),
        (EMOTION, "choices", "choices", [row.emotion]),
        (SOUNDS, "choices", "choices", sounds),
    ):
        if values:
            interval = {"start": row.start_s, "end": row.end_s, "channel": max(0, row.channel - 1)}
            yield {
                "id": region_id(row.recording_id, row.segment_id),
                "from_name": name,
                "to_name": AUDIO,
                "type": kind,
                "value": interval | {key: values},
            }


def _address(uri: str) -> str:
    return uri if "://" in uri else _LOCAL + quote(uri.lstrip("/"))
