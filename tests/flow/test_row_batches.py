"""Row batches: about equal seconds, and the parts of one file together."""

from typing import Any

import pyarrow as pa

from pipeline.flow.row_batches import cut_row_batches
from pipeline.schema import PLANNED


def plan(*rows: tuple[str, float, float]) -> pa.Table:
    """Planned rows of (uri, offset_s, length_s)."""
    empty: dict[str, Any] = {"channel": 0, "bytes": 640_000, "start": 0, "attempts": 1, "extra": {}}
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


def members(*rows: tuple[str, int]) -> pa.Table:
    """Planned rows of (uri, start)."""
    table = plan(*((uri, 0.0, 0.0) for uri, _ in rows))
    starts = pa.array([start for _, start in rows], pa.int64())
    return table.set_column(table.schema.get_field_index("start"), "start", starts)


def test_members_come_in_the_order_of_their_archive() -> None:
    """Rows of two tars, mixed and backwards, with a loose file between them."""
    mixed = [
        (f"tar://{k}.wav::/{name}.tar", 512 * (40 - k)) for k in range(40) for name in ("b", "a")
    ]
    table = members(*mixed[:40], ("/loose.wav", 0), *mixed[40:])
    batches = cut_row_batches(table, batch_audio_s=100.0, n_cpus=1)
    assert len(batches) >= 8  # a plain tar is shared among tasks
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert sorted(row["recording_id"] for row in rows) == sorted(f"r{k}" for k in range(81))
    archives = [row["uri"].partition("::")[2] for row in rows]
    assert archives == ["/b.tar"] * 40 + ["/a.tar"] * 40 + [""]
    for name in ("/a.tar", "/b.tar"):
        starts = [row["start"] for row in rows if row["uri"].endswith(name)]
        assert starts == sorted(starts)


def test_what_is_read_from_its_front_is_one_batch() -> None:
    for ending in ("tar.gz", "tgz", "tar.zst", "tar.bz2"):
        table = members(*((f"tar://{k}.wav::/a.{ending}", 512 * (k + 1)) for k in range(50)))
        (batch,) = cut_row_batches(table, batch_audio_s=60.0, n_cpus=2)
        assert batch.num_rows == 50
    groups = [(group << 32) + row + 1 for group in range(3) for row in range(20)]
    table = members(*((f"parquet://{start}::/a.parquet", start) for start in groups))
    batches = cut_row_batches(table, batch_audio_s=60.0, n_cpus=2)
    assert [batch.num_rows for batch in batches] == [20, 20, 20]
