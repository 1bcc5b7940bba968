"""Tables to figures: recordings, hours and segments by label. Knows columns, prints nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables import Snapshot


@dataclass(frozen=True, slots=True)
class Totals:
    """What a snapshot holds. Counts by label are in falling order."""

    n_ok: int
    n_errors: int
    hours: float
    labelled_hours: float
    n_segments: int
    languages: Mapping[str, int]
    emotions: Mapping[str, int]
    events: Mapping[str, int]
    errors: Mapping[str, int]  # recordings by error_type


def count_totals(snapshot: Snapshot) -> Totals:
    """Read only the columns that the figures need."""
    columns = ["status", "error_type", "duration_s", "labelled_s", "n_segments"]
    recordings = snapshot.read("recordings", columns=columns)
    failed = pc.not_equal(recordings["status"], "ok")
    return Totals(
        n_ok=recordings.num_rows - (pc.sum(failed).as_py() or 0),
        n_errors=pc.sum(failed).as_py() or 0,
        hours=(pc.sum(recordings["duration_s"]).as_py() or 0.0) / 3600,
        labelled_hours=(pc.sum(recordings["labelled_s"]).as_py() or 0.0) / 3600,
        n_segments=pc.sum(recordings["n_segments"]).as_py() or 0,
        languages=count_values(snapshot.read("languages", columns=["language"])["language"]),
        emotions=count_values(snapshot.read("emotions", columns=["emotion"])["emotion"]),
        events=count_values(snapshot.read("events", columns=["event"])["event"]),
        errors=count_values(recordings.filter(failed)["error_type"]),
    )


def count_values(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, most frequent first."""
    counts = {pair["values"]: pair["counts"] for pair in pc.value_counts(column).to_pylist()}
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
