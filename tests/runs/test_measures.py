"""A run with and without the meter: the same labels, and measures of every recording."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.schema import TABLES
from pipeline.tables import connect, open_snapshot
from tests.support.demo import AUDIO, GOOD, demo_config, execute, write_manifest

NAMES = ("en_neutral", "zh_neutral", "event_laughter", "ja_neutral")
ROWS: list[dict[str, Any]] = [
    {"audio": str(AUDIO / row["audio"]), "recording_id": row["recording_id"]}
    for row in GOOD
    if row["recording_id"].startswith(NAMES)
]


def output_of(folder: Path, *settings: str) -> Path:
    folder.mkdir()
    manifest = write_manifest(folder, ROWS)
    config = demo_config(folder / "out", f"manifest={manifest}", "ray.local=always", *settings)
    assert execute(config).n_unfinished == 0
    return folder / "out"


def labels_of(root: Path) -> dict[str, pa.Table]:
    snapshot = open_snapshot(str(root))
    tables = {name: snapshot.read(name) for name in TABLES if name not in ("measures", "quality")}
    changing = ["run_id", "committed_at"]
    return tables | {"recordings": tables["recordings"].drop_columns(changing)}


def test_the_labels_are_the_same_with_and_without_the_meter(tmp_path: Path) -> None:
    measured = output_of(tmp_path / "on", "vad=silero")
    plain = output_of(tmp_path / "off", "vad=silero", "quality.measure=false")
    one, other = labels_of(measured), labels_of(plain)
    for name in one:
        assert one[name].equals(other[name]), name
    assert open_snapshot(str(plain)).read("quality").num_rows == 0
    with connect(str(measured)) as connection:
        n_measured = connection.sql(
            "SELECT count(*) FROM recordings WHERE loudness_lufs BETWEEN -40 AND -10"
        ).fetchall()
        n_segments = connection.sql(
            "SELECT count(*), count(q.loudness_lufs), count(q.chars_per_s) > 0 "
            "FROM segments s LEFT JOIN quality q USING (segment_id)"
        ).fetchall()
    assert n_measured == [(len(ROWS),)]
    ((n_all, n_loud, has_text),) = n_segments
    assert (n_all == n_loud, has_text) == (True, True)
