"""Rows with labels, as people give them: SenseVoice's jsonl. Reads no audio and knows no model.

A label that is missing stays missing (None) and is masked in the loss. FunASR fills it in: NEUTRAL,
Speech, zh and woitn (datasets/sense_voice_datasets/datasets.py), and trains that.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.models.sensevoice.decoding import EMOTION_TAGS, EVENT_TAGS, TEXT_NORM_TAGS
from pipeline.storage.address import is_uri
from pipeline.storage.store import filesystem_for

_ABSENT = {"", "none", "null", "nan"}


def _by_name(tags: Mapping[Any, str]) -> dict[str, str]:
    return {tag.strip("<|>").lower(): tag for tag in tags.values()}


_EMOTIONS, _EVENTS = _by_name(EMOTION_TAGS), _by_name(EVENT_TAGS)
_TEXT_NORMS = {tag.strip("<|>"): itn for itn, tag in TEXT_NORM_TAGS.items()}


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A clip and what is known of it. None: not known."""

    key: str
    uri: str  # of its recording
    start_s: float = 0.0
    length_s: float = 0.0  # 0: to the end of the recording
    text: str | None = None  # "": nothing is said
    language: str | None = None  # zh, en, ...; any language that the vocabulary has a tag for
    emotion: str | None = None  # a tag such as <|HAPPY|>
    event: str | None = None  # a tag such as <|Applause|>
    itn: bool | None = None
    speaker: str = ""
    channel: int = 0  # of its recording, from 1; 0: all, mixed


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is not trained, and why."""

    key: str
    kind: str  # for the count
    reason: str


def read_jsonl(
    place: str, options: Mapping[str, Any], itn: bool | None = None
) -> Iterator[TrainingRow | BadRow]:
    """The rows of a jsonl, in its order. A line that is no row is a BadRow.

    `itn` is the text form of rows that have no `with_or_wo_itn`. A relative `source` is relative to
    the jsonl. `source_len` and `target_len` are not read: FunASR leaves rows out by them, and the
    audio is never asked. Raises ConfigError if the file cannot be read.
    """
    for number, line in enumerate(_lines(place, options), start=1):
        if line.strip():
            yield _row(line, f"line {number}", place, itn)


def _lines(place: str, options: Mapping[str, Any]) -> Iterator[str]:
    try:
        if is_uri(place):
            fs, path = filesystem_for(place, options)
            text = fs.cat_file(path).decode("utf-8")
        else:
            text = Path(place).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: cannot be read as a jsonl: {error}") from error
    yield from text.split("\n")


def _row(line: str, where: str, place: str, itn: bool | None) -> TrainingRow | BadRow:
    try:
        fields = json.loads(line)
        key = str(fields.get("key") or where)
        source = fields.get("source")
        if not isinstance(source, str) or not source:
            return BadRow(key, "no audio", f"{where}: no `source`")
        target = fields.get("target")
        if target is not None and not isinstance(target, str):
            return BadRow(key, "bad label", f"{where}: `target` is no text: {target!r}")
        form = _plain(fields.get("with_or_wo_itn"))
        return TrainingRow(
            key=key,
            uri=_place_of(source, place),
            text=target,
            language=_plain(fields.get("text_language")),
            emotion=_tag(fields.get("emo_target"), _EMOTIONS, "emo_target"),
            event=_tag(fields.get("event_target"), _EVENTS, "event_target"),
            itn=itn if form is None else _TEXT_NORMS[form],
            speaker=str(fields.get("speaker") or ""),
        )
    except (json.JSONDecodeError, AttributeError):
        return BadRow(where, "no JSON object", f"{where}: no JSON object: {line[:60]!r}")
    except KeyError as error:
        return BadRow(key, "bad label", f"{where}: no label of SenseVoice: {error}")


def _place_of(source: str, place: str) -> str:
    if is_uri(source) or source.startswith("/"):
        return source
    if is_uri(place):
        return f"{place.rpartition('/')[0]}/{source}"
    return str(Path(place).expanduser().absolute().parent / source)


def _plain(value: Any) -> str | None:
    text = str(value if value is not None else "").strip()
    text = text.removeprefix("<|").removesuffix("|>")
    return None if text.lower() in _ABSENT else text


def _tag(value: Any, tags: Mapping[str, str], name: str) -> str | None:
    plain = _plain(value)
    if plain is None:
        return None
    if plain.lower() not in tags:
        raise KeyError(f"{name}={value}")
    return tags[plain.lower()]
