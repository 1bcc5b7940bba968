"""What formats say of a segment beside its audio, and how rows become files. Opens no audio."""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from pipeline.export.rows import ExportRow


def labels(row: ExportRow) -> dict[str, Any]:
    return {
        "emotion": row.emotion,
        "event": row.event,
        "confidence": None if row.confidence is None else round(row.confidence, 4),
        "split": row.split,
    }


def extra_json(row: ExportRow) -> str:
    """The manifest's columns as JSON: a column of `datasets` has one type in all rows."""
    return json.dumps(dict(row.extra), ensure_ascii=False, sort_keys=True)


def columns(row: ExportRow) -> dict[str, Any]:
    return {
        "segment_id": row.segment_id,
        "recording_id": row.recording_id,
        "start_s": row.start_s,
        "end_s": row.end_s,
        "duration_s": row.duration_s,
        "channel": row.channel or None,
        "text": row.text,
        "language": row.language,
        **labels(row),
        "extra": extra_json(row),
    }


def in_batches(rows: Iterable[ExportRow], n_most: int) -> Iterator[list[ExportRow]]:
    """Rows of one split each, with clips of about `n_most` bytes in all."""
    batches: dict[str, list[ExportRow]] = defaultdict(list)
    n_bytes: Counter[str] = Counter()
    for row in rows:
        batches[row.split].append(row)
        n_bytes[row.split] += 2 * row.n_samples
        if n_bytes[row.split] >= n_most:
            yield batches.pop(row.split)
            n_bytes[row.split] = 0
    yield from batches.values()


def open_gzip(path: Path) -> TextIO:
    return gzip.open(path, "wt", encoding="utf-8")


def write_line(file: TextIO, value: Mapping[str, Any]) -> None:
    file.write(json.dumps(value, ensure_ascii=False) + "\n")
