"""Rows of Lhotse's recordings, cuts and supervisions to flat rows. Opens no file.

https://lhotse.readthedocs.io/en/latest/corpus.html and cuts.html. A row that names no single file
raises ValueError with the reason: mixed cuts, several files per recording, commands, memory.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

_WHOLE_S = 0.001  # a cut that ends this near to the end of its recording is the whole file
_KINDS = {"file", "url"}
_SUPERVISIONS = (
    "these are Lhotse supervisions, which name no audio; name the recordings or cuts: "
    "CutSet.from_manifests(recordings, supervisions).trim_to_supervisions() makes a cut of each"
)


def flatten(value: Json) -> Json:
    """A flat row of a recording or a cut, with our names. Raises ValueError."""
    if "sources" in value:
        return _of_recording(value)
    if "tracks" in value:
        raise ValueError("a mixed cut, which is made of several recordings; save its audio first")
    if "recording" in value:
        return _of_cut(value)
    raise ValueError(_SUPERVISIONS if "recording_id" in value else "no recording in this cut")


def of_shar(value: Json) -> Json:
    """What a cut of a shar says of its recording, which lies beside it in a tar, and its id."""
    return {
        **_custom(value.get("custom")),
        **_of_supervisions(value.get("supervisions") or ()),
        "id": value["id"],
    }


def _of_recording(value: Json) -> Json:
    return {"id": value.get("id"), "audio": _audio_of(value), **_custom(value.get("custom"))}


def _of_cut(value: Json) -> Json:
    recording = value["recording"]
    if not isinstance(recording, Mapping):
        raise ValueError("a cut without audio (features only)")
    row = {"id": value.get("id"), "audio": _audio_of(recording), **_custom(value.get("custom"))}
    channels = recording["sources"][0]["channels"]
    if isinstance(value.get("channel"), int) and len(channels) > 1:
        row["channel"] = 1 + channels.index(value["channel"])
    start_s, duration_s = float(value.get("start") or 0.0), float(value.get("duration") or math.nan)
    if start_s or abs(float(recording.get("duration") or math.inf) - duration_s) > _WHOLE_S:
        row |= {"offset_s": start_s, "duration_s": duration_s}
    return {**row, **_of_supervisions(value.get("supervisions") or ())}


def _of_supervisions(supervisions: Sequence[Json]) -> Json:
    """What all supervisions of a cut say of it, in the order of time."""
    ordered = sorted(supervisions, key=lambda one: float(one.get("start") or 0.0))
    row: dict[str, Any] = {}
    texts = [str(one["text"]) for one in ordered if one.get("text") is not None]
    if texts:
        row["ref_text"] = " ".join(texts)
    for name in ("speaker", "language"):
        values = {one[name] for one in ordered if one.get(name)}
        if len(values) == 1:  # two speakers or languages in one cut: neither is the cut's
            row[name] = values.pop()
    if len(ordered) == 1:
        custom = ordered[0].get("custom")
        row = _custom(custom) | row
    return row


def _custom(custom: Any) -> dict[str, Any]:
    """The columns that a user added; emotion and event are what we have references for."""
    if not isinstance(custom, Mapping):
        return {}
    ours = {"emotion": "ref_emotion", "event": "ref_event"}
    reserved = {"id", "audio", "offset_s", "duration_s", "channel", "language", "recording_id"}
    return {
        ours.get(name, f"custom_{name}" if name in reserved else name): value
        for name, value in custom.items()
    }


def _audio_of(recording: Json) -> str:
    """The one file of a recording."""
    sources = recording["sources"]
    if not isinstance(sources, list) or len(sources) != 1:
        raise ValueError(
            f"a recording of {len(sources)} files, one for each channel; make one file of them"
        )
    kind, source = sources[0].get("type"), sources[0].get("source")
    if kind == "command":
        raise ValueError("its audio is a command; commands are never run: save the audio first")
    if kind not in _KINDS or not isinstance(source, str):
        raise ValueError(
            f"its audio has the type {kind!r}; only file and url are read: save the audio first"
        )
    return source
