"""Labelled segments as timed text: SubRip, WebVTT, RTTM. Knows the formats; opens no audio."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.export.rows import ExportRow, ExportTarget

_NOT_SHOWN = frozenset({"speech", "unknown"})  # events that mean nothing to a reader


class Cue(NamedTuple):
    """A line of captions."""

    key: str  # of its segment
    start_s: float
    end_s: float
    text: str
    voice: str = ""  # who speaks: the channel, if each is labelled on its own


def write_srt(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """One SubRip file per recording."""
    for path, cues in _cues(rows, target.staging, ".srt"):
        path.write_text(to_srt(cues), encoding="utf-8")


def write_vtt(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """One WebVTT file per recording."""
    for path, cues in _cues(rows, target.staging, ".vtt"):
        path.write_text(to_vtt(cues), encoding="utf-8")


def to_srt(cues: Iterable[Cue]) -> str:
    """The text of a SubRip file."""
    return "\n".join(
        f"{number}\n{srt_time(cue.start_s)} --> {srt_time(cue.end_s)}\n{_spoken(cue)}\n"
        for number, cue in enumerate(cues, 1)
    )


def to_vtt(cues: Iterable[Cue]) -> str:
    """The text of a WebVTT file, each cue named by its segment (https://www.w3.org/TR/webvtt1)."""
    blocks = (
        f"{cue.key}\n{vtt_time(cue.start_s)} --> {vtt_time(cue.end_s)}\n{_vtt_text(cue)}\n"
        for cue in cues
    )
    return "\n".join(["WEBVTT\n", *blocks])


def write_rttm(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`languages.rttm` and `events.rttm`, with the label in the field of the speaker.

    The speakers are not known. NIST RT-09 evaluation plan, appendix A: ten fields, <NA> for a
    field without a value.
    """
    with (
        (target.staging / "languages.rttm").open("w", encoding="utf-8") as languages,
        (target.staging / "events.rttm").open("w", encoding="utf-8") as events,
    ):
        for row in rows:
            if row.language != "nospeech":
                line = _rttm(row, row.start_s, row.end_s, row.language, row.confidence)
                languages.write(line)
            for sound in row.sounds:
                events.write(
                    _rttm(
                        row,
                        sound["start_s"],
                        sound["end_s"],
                        sound["event"],
                        sound["probability"],
                    )
                )


def cue_text(text: str, events: Iterable[Mapping[str, Any]]) -> str:
    """The text of a cue: that of the segment, else its events in brackets, else ""."""
    sounds = dict.fromkeys(sound["event"] for sound in events if sound["event"] not in _NOT_SHOWN)
    return " ".join(text.split()) or (f"[{', '.join(sounds)}]" if sounds else "")


def srt_time(seconds: float) -> str:
    return vtt_time(seconds).replace(".", ",")


def vtt_time(seconds: float) -> str:
    """hh:mm:ss.mmm. Hours have two digits or more."""
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def _cues(rows: Iterable[ExportRow], folder: Path, suffix: str) -> Iterator[tuple[Path, list[Cue]]]:
    """The cues of each recording, in the time of its picture, if it has one."""
    for name, group in groupby(rows, attrgetter("name")):
        cues = [
            Cue(
                row.key,
                row.start_s + row.start_offset_s,
                row.end_s + row.start_offset_s,
                text,
                f"Channel {row.channel}" if row.channel else "",
            )
            for row in group
            if (text := cue_text(row.text, row.sounds))
        ]
        yield folder / f"{name}{suffix}", cues


def _spoken(cue: Cue) -> str:
    return f"{cue.voice}: {cue.text}" if cue.voice else cue.text


def _vtt_text(cue: Cue) -> str:
    # "&" and "<" begin markup, and "-->" would end the cue.
    text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<v {cue.voice}>{text}" if cue.voice else text


def _rttm(
    row: ExportRow, start_s: float, end_s: float, label: str, confidence: float | None
) -> str:
    length_s = end_s - start_s
    interval = f"{row.name} {row.channel or 1} {start_s:.3f} {length_s:.3f}"
    told = "<NA>" if confidence is None else f"{confidence:.3f}"
    return f"SPEAKER {interval} <NA> <NA> {label} {told} <NA>\n"
