"""Labelled segments as Lhotse's recordings, supervisions and cuts. Knows the format; no audio."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from pipeline.export.columns import labels, open_gzip, write_line
from pipeline.export.rows import ExportRow, ExportTarget
from pipeline.schema import SAMPLE_RATE


def write_lhotse(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`recordings.jsonl.gz`, `supervisions.jsonl.gz` and `cuts.jsonl.gz`, one cut per segment.

    https://lhotse.readthedocs.io/en/latest/cuts.html. Labels are in `custom`, words in `alignment`.
    """
    with ExitStack() as stack:
        recordings, supervisions, cuts = (
            stack.enter_context(open_gzip(target.staging / f"{name}.jsonl.gz"))
            for name in ("recordings", "supervisions", "cuts")
        )
        written = ""
        for row in rows:
            recording = recording_of(row, target)
            if recording["id"] != written:
                write_line(recordings, recording)
                written = recording["id"]
            start_s = 0.0 if target.clips else row.start_s
            supervision = supervision_of(row, recording, start_s)
            write_line(supervisions, supervision)
            write_line(cuts, cut_of(row, recording, supervision, start_s))


def recording_of(row: ExportRow, target: ExportTarget) -> dict[str, Any]:
    rate_hz, channels = (SAMPLE_RATE, 1) if target.clips else (row.sample_rate_hz, row.channels)
    n_samples = row.n_samples if target.clips else round(row.recording_end_s * rate_hz)
    uri = target.place(row) if target.clips else row.uri
    kind = "url" if "://" in uri else "file"
    return {
        "id": row.key if target.clips else row.name,
        "sources": [{"type": kind, "channels": list(range(channels)), "source": uri}],
        "sampling_rate": rate_hz,
        "num_samples": n_samples,
        "duration": n_samples / rate_hz,
        "channel_ids": list(range(channels)),
    }


def supervision_of(row: ExportRow, recording: Mapping[str, Any], start_s: float) -> dict[str, Any]:
    channels = [row.channel - 1] if _is_one(row, recording) else recording["channel_ids"]
    words = [
        [
            word["word"],
            round(word["start_s"] - row.start_s + start_s, 4),
            round(word["end_s"] - word["start_s"], 4),
            round(word["confidence"], 4),
        ]
        for word in row.words
    ]
    return {
        "id": row.key,
        "recording_id": recording["id"],
        "start": start_s,
        "duration": row.duration_s,
        "channel": channels if len(channels) > 1 else channels[0],
        "text": row.text,
        "language": row.language,
        "custom": {"segment_id": row.segment_id, **labels(row), "extra": dict(row.extra)},
        "alignment": {"word": words},
    }


def cut_of(
    row: ExportRow, recording: Mapping[str, Any], supervision: Mapping[str, Any], start_s: float
) -> dict[str, Any]:
    aligned = [[word, at - start_s, *rest] for word, at, *rest in supervision["alignment"]["word"]]
    return {
        "id": row.key,
        "start": start_s,
        "duration": row.duration_s,
        "channel": supervision["channel"],
        # The times of a supervision are relative to its cut.
        "supervisions": [{**supervision, "start": 0.0, "alignment": {"word": aligned}}],
        "recording": recording,
        "type": "MonoCut" if isinstance(supervision["channel"], int) else "MultiCut",
    }


def _is_one(row: ExportRow, recording: Mapping[str, Any]) -> bool:
    """Whether the segment is of one channel of several. Lhotse counts them from 0."""
    return row.channel > 0 and len(recording["channel_ids"]) > 1
