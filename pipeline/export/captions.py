"""Labelled segments as timed text: SubRip, WebVTT, RTTM. Knows the formats; opens no audio."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from pipeline.export.rows import ExportRow, ExportTarget

_NOT_SHOWN = frozenset({"speech", "unknown"})  # events that mean nothing to a reader


def write_srt(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """One SubRip file per recording."""
    for path, cues in _cues(rows, target.staging, ".srt"):
        blocks = [
            f"{number}\n{srt_time(row.start_s)} --> {srt_time(row.end_s)}\n{text}\n"
            for number, (row, text) in enumerate(cues, 1)
        ]
        path.write_text("\n".join(blocks), encoding="utf-8")


def write_vtt(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """One WebVTT file per recording, each cue named by its segment (https://www.w3.org/TR/webvtt1)."""
    for path, cues in _cues(rows, target.staging, ".vtt"):
        blocks = [
            f"{row.key}\n{vtt_time(row.start_s)} --> {vtt_time(row.end_s)}\n{_vtt_text(text)}\n"
            for row, text in cues
        ]
        path.write_text("\n".join(["WEBVTT\n", *blocks]), encoding="utf-8")


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
                line = _rttm(row.name, row.start_s, row.end_s, row.language, row.confidence)
                languages.write(line)
            for sound in row.sounds:
                events.write(
                    _rttm(
                        row.name,
                        sound["start_s"],
                        sound["end_s"],
                        sound["event"],
                        sound["probability"],
                    )
                )


def cue_text(row: ExportRow) -> str:
    """The text of a cue: that of the segment, else its events in brackets, else ""."""
    sounds = dict.fromkeys(
        sound["event"] for sound in row.sounds if sound["event"] not in _NOT_SHOWN
    )
    return " ".join(row.text.split()) or (f"[{', '.join(sounds)}]" if sounds else "")


def srt_time(seconds: float) -> str:
    return vtt_time(seconds).replace(".", ",")


def vtt_time(seconds: float) -> str:
    """hh:mm:ss.mmm. Hours have two digits or more."""
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def _cues(
    rows: Iterable[ExportRow], folder: Path, suffix: str
) -> Iterator[tuple[Path, list[tuple[ExportRow, str]]]]:
    for name, group in groupby(rows, attrgetter("name")):
        cues = [(row, text) for row in group if (text := cue_text(row))]
        yield folder / f"{name}{suffix}", cues


def _vtt_text(text: str) -> str:
    # "&" and "<" begin markup, and "-->" would end the cue.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _rttm(name: str, start_s: float, end_s: float, label: str, confidence: float) -> str:
    length_s = end_s - start_s
    interval = f"{name} 1 {start_s:.3f} {length_s:.3f}"
    return f"SPEAKER {interval} <NA> <NA> {label} {confidence:.3f} <NA>\n"
