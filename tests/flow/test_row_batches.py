"""Row batches: about equal seconds, and the parts of one file together."""

from typing import Any

import pyarrow as pa

from pipeline.flow.row_batches import cut_row_batches
from pipeline.schema import PLANNED


def plan(*rows: tuple[str, float, float]) -> pa.Table:
    """Planned rows of (uri, offset_s, length_s)."""
    empty: dict[str, Any] = {"bytes": 640_000, "start": 0, "attempts": 1, "extra": {}}
    values = [
        {name: empty.get(name, "") for name in PLANNED.names}
        | {"recording_id": f"r{number}", "uri": uri, "offset_s": offset_s, "length_s": length_s}
        for number, (uri, offset_s, length_s) in enumerate(rows)
    ]
    return pa.Table.from_pylist(values, schema=PLANNED)


def test_parts_of_one_file_are_in_one_batch_by_time_however_they_are_listed() -> None:
    parts = [("a", 60.0 - k, 5.0) for k in range(0, 60, 2)]
    others = [(f"b{k}", 0.0, 0.0) for k in range(30)]
    mixed = [row for pair in zip(parts, others, strict=True) for row in pair]
    batches = cut_row_batches(plan(*mixed), batch_audio_s=60.0, n_cpus=2)
    holding = [batch for batch in batches if "a" in batch["uri"].to_pylist()]
    assert len(holding) == 1
    rows = [row for row in holding[0].to_pylist() if row["uri"] == "a"]
    assert [row["offset_s"] for row in rows] == sorted(60.0 - k for k in range(0, 60, 2))
    ids = [name for batch in batches for name in batch["recording_id"].to_pylist()]
    assert sorted(ids) == sorted(f"r{k}" for k in range(60))
    assert len(batches) >= 7


def test_a_file_of_many_hours_is_divided() -> None:
    parts = [("a", 10.0 * k, 10.0) for k in range(1440)]  # four hours
    batches = cut_row_batches(plan(*parts), batch_audio_s=600.0, n_cpus=1)
    assert 4 <= len(batches) <= 5
    assert sum(batch.num_rows for batch in batches) == 1440


def test_whole_files_stay_in_their_order() -> None:
    rows = [(f"f{k % 7}", 0.0, 0.0) for k in range(50)]
    batches = cut_row_batches(plan(*rows), batch_audio_s=100.0, n_cpus=1)
    ids = [name for batch in batches for name in batch["recording_id"].to_pylist()]
    assert ids == [f"r{k}" for k in range(50)]


def test_no_rows_make_no_batches() -> None:
    assert cut_row_batches(plan(), batch_audio_s=100.0, n_cpus=1) == []
