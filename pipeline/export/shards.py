"""Labelled segments as tar shards: WebDataset and Lhotse's shar. Knows the formats; needs clips.

A clip leaves its wav file when it is in its shard, so that the disk holds each sample once.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.export.columns import columns, in_batches, open_gzip, write_line
from pipeline.export.lhotse import cut_of, recording_of, supervision_of
from pipeline.export.rows import ExportRow, ExportTarget


def write_webdataset(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`{split}-000000.tar` with a sample for each segment: NAME.wav, NAME.json, NAME.txt.

    https://github.com/webdataset/webdataset. WebDataset takes what follows the first dot of a name
    for its kind, so names have no other dot; `segment_id` is in the .json.
    """
    numbers: dict[str, int] = {}
    for batch in in_batches(rows, target.shard_bytes):
        split = batch[0].split
        number = numbers[split] = numbers.get(split, -1) + 1
        with tarfile.open(target.staging / f"{split}-{number:06d}.tar", "w") as tar:
            for row, name in zip(batch, _names(batch), strict=True):
                told = json.dumps(columns(row), ensure_ascii=False)
                _add(tar, f"{name}.wav", _take(target, row))
                _add(tar, f"{name}.json", told.encode())
                _add(tar, f"{name}.txt", row.text.encode())


def write_shar(rows: Iterable[ExportRow], target: ExportTarget) -> None:
    """`{split}/cuts.000000.jsonl.gz` and `recording.000000.tar`, as lhotse.shar reads them.

    https://lhotse.readthedocs.io/en/latest/api.html#lhotse.shar
    """
    numbers: dict[str, int] = {}
    for batch in in_batches(rows, target.shard_bytes):
        split = batch[0].split
        number = numbers[split] = numbers.get(split, -1) + 1
        folder = target.staging / split
        folder.mkdir(exist_ok=True)
        _write_shar(folder, number, batch, target)


def _write_shar(
    folder: Path, number: int, batch: Sequence[ExportRow], target: ExportTarget
) -> None:
    with (
        open_gzip(folder / f"cuts.{number:06d}.jsonl.gz") as cuts,
        tarfile.open(folder / f"recording.{number:06d}.tar", "w") as tar,
    ):
        for row in batch:
            recording = recording_of(row, target)
            channels = recording["channel_ids"]
            # "shar" says that the samples stand in the tar, in the order of the cuts.
            recording["sources"] = [{"type": "shar", "channels": channels, "source": ""}]
            write_line(cuts, cut_of(row, recording, supervision_of(row, recording, 0.0), 0.0))
            _add(tar, f"{row.key}.wav", _take(target, row))
            _add(tar, f"{row.key}.json", json.dumps(recording, ensure_ascii=False).encode())


def _names(batch: Sequence[ExportRow]) -> list[str]:
    """The keys without dots, each once."""
    names: dict[str, None] = {}
    for row in batch:
        name = row.key.replace(".", "_")
        while name in names:
            name += "_"
        names[name] = None
    return list(names)


def _take(target: ExportTarget, row: ExportRow) -> bytes:
    """The bytes of a clip, whose file is deleted."""
    path = target.staging / row.clip
    data = path.read_bytes()
    path.unlink()
    return data


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
