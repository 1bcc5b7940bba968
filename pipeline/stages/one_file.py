"""Label single files in this process, with the stages of a run. Knows no Ray; writes no table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.arrow import Row
from pipeline.config import RunConfig
from pipeline.models.files import resolve_model_of, resolve_vad
from pipeline.schema import PLANNED
from pipeline.stages.build import build_stages, without_measures
from pipeline.stages.label import LabelSegments
from pipeline.stages.segment import FindSegments
from pipeline.storage.address import is_uri
from pipeline.tables.run_records import RunInfo

_RUN_ID = "one-file"
_NO_CONFIDENCE = dict.fromkeys(("confidence", "confidence_frames", "confidence_min"))
_NO_VALUE: dict[Any, Any] = {pa.string(): "", pa.float64(): 0.0, pa.int64(): 0, pa.int32(): 0}


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """The labels of one file; if it failed, also the error columns of its row."""

    file: str
    duration_s: float
    segments: Sequence[Row]  # schema.LABELLED_SEGMENT and `channel`, as shown_segments gives them
    warning: str
    error_stage: str
    error_type: str
    error_message: str


class FileLabeller:
    """Labels one file after the other. Loading it loads the models. Raises ModelError."""

    def __init__(self, config: RunConfig) -> None:
        config = without_measures(config)
        files = resolve_model_of(config)
        _, vad = resolve_vad(config)
        stages = build_stages(config, RunInfo(_RUN_ID, "", config.model, files.sha256, vad))
        self._decode = stages.decode
        self._find = FindSegments(partial(stages.load_vad, "cpu"), config.segment)
        self._label = LabelSegments(stages.load_model, config.label)

    def label(self, file: str) -> LabelledFile:
        """The labels of a path or URI. A file that cannot be labelled has error columns."""
        rows: list[Row] = []
        for window in self._decode(planned_file(file)):
            for found in self._find(window):
                rows += self._label(found).to_pylist(maps_as_pydicts="strict")
        failed = next((row for row in rows if row["error_stage"]), rows[-1])
        return LabelledFile(
            file=file,
            duration_s=max(row["window_start_s"] + row["duration_s"] for row in rows),
            segments=shown_segments(rows),
            warning="; ".join(dict.fromkeys(row["warning"] for row in rows if row["warning"])),
            error_stage=failed["error_stage"],
            error_type=failed["error_type"],
            error_message=failed["error_message"],
        )


def shown_segments(rows: Iterable[Row]) -> list[Row]:
    """The segments of BUNDLE rows in the order of time, with their `channel` (None: the mix).

    Without text confidences are None, as in the tables (to_tables.py): 0 would count in every mean.
    """
    segments = sorted(
        (one | {"channel": row["channel"] or None} for row in rows for one in row["segments"]),
        key=lambda segment: float(segment["start_s"]),
    )
    return [one if one["text"] else one | _NO_CONFIDENCE for one in segments]


def planned_file(file: str) -> pa.Table:
    """The planned row of a whole file."""
    row = {field.name: _NO_VALUE.get(field.type, {}) for field in PLANNED}
    uri = file if is_uri(file) else str(Path(file).expanduser().absolute())
    row |= {"recording_id": file, "uri": uri, "attempts": 1}
    return pa.Table.from_pylist([row], schema=PLANNED)
