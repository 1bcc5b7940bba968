"""Rows of a Kaldi data directory: wav.scp with segments, text, utt2spk and utt2lang beside it.

https://kaldi-asr.org/doc/data_prep.html. Without `segments` an utterance is a whole recording. An
entry that is a command becomes a row with an error: commands are never run. Tables of a directory
are in memory: about 200 bytes for each utterance.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ManifestError
from pipeline.manifest.text import RawRows

SCP = "wav.scp"
_BESIDE = {  # the last two are those of our own exports
    **{"text": "ref_text", "utt2spk": "speaker", "utt2lang": "language"},
    **{"utt2emotion": "ref_emotion", "utt2event": "ref_event"},
}
_NOTE = "read as a Kaldi data directory; if that is wrong, set manifest_format"


def read_directory(fs: Any, uri: str) -> Iterator[RawRows]:
    """The utterances of the directory of a wav.scp, in the order of segments or of wav.scp.

    Raises ManifestError for a line that names nothing, or a recording that is not in wav.scp.
    """
    folder = posixpath.dirname(fs._strip_protocol(uri))
    recordings = _table(fs, f"{folder}/{SCP}")
    if not recordings:
        raise ManifestError("it is empty; a line of wav.scp is an id and a path")
    rows = _segments(fs, f"{folder}/segments", recordings) or [
        {"recording_id": name, "audio": path, "offset_s": "", "duration_s": ""}
        for name, path in recordings.items()
    ]
    for name, ours in _BESIDE.items():
        if fs.exists(f"{folder}/{name}"):
            told = _table(fs, f"{folder}/{name}")
            for row in rows:
                row[ours] = told.get(str(row["recording_id"]))
    names = ("recording_id", "audio", "offset_s", "duration_s", *_BESIDE.values())
    kept = [name for name in names if any(row.get(name) for row in rows)]
    table = pa.table(
        {name: pa.array([row.get(name) for row in rows], pa.string()) for name in kept}
    )
    yield RawRows(table, np.arange(len(rows)) + 1, notes=[_NOTE])


def _segments(fs: Any, path: str, recordings: Mapping[str, str]) -> Sequence[dict[str, str | None]]:
    """`utterance recording start end`, in seconds; an end of -1 is that of the recording."""
    if not fs.exists(path):
        return []
    rows: list[dict[str, str | None]] = []
    for number, (name, rest) in enumerate(_table(fs, path).items(), 1):
        fields = rest.split()
        if len(fields) < 3 or fields[0] not in recordings:
            reason = "no recording of wav.scp" if fields else "nothing"
            raise ManifestError(f"segments, line {number}: {name!r} names {reason}")
        try:
            start_s, end_s = float(fields[1]), float(fields[2])
        except ValueError as error:
            raise ManifestError(f"segments, line {number}: {error}") from error
        rows.append(
            {
                "recording_id": name,
                "audio": recordings[fields[0]],
                "offset_s": repr(start_s),
                "duration_s": repr(round(end_s - start_s, 6)) if end_s >= 0 else "",
            }
        )
    return rows


def _table(fs: Any, path: str) -> dict[str, str]:
    """`key value` lines of one file. Raises ManifestError for a key that occurs twice."""
    found: dict[str, str] = {}
    text = fs.cat_file(path).decode("utf-8-sig")
    for number, line in enumerate(text.split("\n"), 1):  # a text may hold other ends of lines
        key, *rest = line.split(None, 1)[:2] or [""]
        if not key:
            continue
        if key in found:
            name = posixpath.basename(path)
            raise ManifestError(f"{name}, line {number}: {key!r} occurs a second time")
        found[key] = rest[0].strip() if rest else ""
    return found
