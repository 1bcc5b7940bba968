"""The tables of what was measured: filled, absent in older outputs, and shown with recordings."""

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.maintenance.compact import compact
from pipeline.maintenance.release import release
from pipeline.maintenance.vacuum import vacuum
from pipeline.maintenance.verify import verify
from pipeline.schema import MEASURE_FIELDS, OPTIONAL_TABLES, TABLES
from pipeline.storage.store import Store, open_store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from pipeline.tables.to_tables import to_tables
from tests.support.bundle_rows import MEASURED, QUALITY, RUN, bundle, whole, window
from tests.support.demo import ROOT

NOT_MEASURED: dict[str, list[Any]] = {"measures": [], "quality": []}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def tables_of(rows: pa.Table) -> dict[str, pa.Table]:
    for name in ("model", "model_hash", "fingerprint", "run_id"):
        rows = rows.append_column(name, pa.repeat(pa.scalar(name), rows.num_rows))
    return to_tables(rows, datetime.now(UTC))


def test_a_recording_has_one_row_of_measures_and_nan_is_null() -> None:
    tables = tables_of(bundle(*whole("a", 3), window("b")))
    rows = tables["measures"].to_pylist()
    assert [(row["recording_id"], row["version"]) for row in rows] == [("a", "v1"), ("b", "v1")]
    expected = {name: None if value != value else value for name, value in MEASURED.items()}
    assert {name: rows[0][name] for name, _ in MEASURE_FIELDS} == pytest.approx(expected)


def test_every_segment_has_its_own_quality() -> None:
    """Of rows that come in any order, and of which some were not measured."""
    one, two = window("a", index=1, n_windows=2), window("a", n_windows=2)
    one["quality"] = [QUALITY | {"snr_db": 3.0}, QUALITY | {"snr_db": math.nan, "snr_method": ""}]
    two["quality"] = [QUALITY | {"snr_db": 1.0}, QUALITY | {"snr_db": 2.0}]
    two["segments"].reverse()  # out of time order, as two models may write them
    plain = window("b") | NOT_MEASURED
    tables = tables_of(bundle(one, plain, two))
    found = tables["quality"]
    assert found["snr_db"].to_pylist() == [2.0, 1.0, 3.0, None]
    assert found["snr_method"].to_pylist() == ["vad"] * 3 + [None]
    first = tables["transcripts"].slice(0, 4)
    assert found["segment_id"].to_pylist() == first["segment_id"].to_pylist()
    assert found["start_s"].to_pylist() == first["start_s"].to_pylist()


def test_the_recordings_show_what_was_measured(store: Store) -> None:
    write_bundle(store, RUN, bundle(window("a"), window("b") | NOT_MEASURED))
    publish(store, RUN)
    with connect(store.root) as connection:
        rows = connection.sql(
            "SELECT recording_id, bandwidth_hz, loudness_range_lu FROM recordings ORDER BY 1"
        ).fetchall()
        joined = "SELECT count(*) FROM segments JOIN quality USING (segment_id) WHERE snr_db > 25"
        assert connection.sql(joined).fetchall() == [(2,)]
    assert rows == [("a", 8000.0, None), ("b", None, None)]
    assert open_snapshot(store.root).read("recordings").schema.equals(TABLES["recordings"])


def test_an_output_without_these_tables_opens_grows_and_is_verified(
    store: Store, tmp_path: Path
) -> None:
    """As older programs wrote it: no file, and no list of files, of these tables."""
    write_bundle(store, RUN, bundle(window("a") | NOT_MEASURED))
    publish(store, RUN)
    store.delete([f"_snapshots/1/{table}.json" for table in OPTIONAL_TABLES])
    assert [open_snapshot(store.root).files(table) for table in OPTIONAL_TABLES] == [[], []]
    assert open_snapshot(store.root).read("quality").num_rows == 0
    assert verify(store).problems == []
    with connect(store.root) as connection:
        assert connection.sql("SELECT loudness_lufs FROM recordings").fetchall() == [(None,)]
        assert connection.sql("SELECT * FROM quality").fetchall() == []
    write_bundle(store, RUN, bundle(window("b")))
    publish(store, RUN)
    assert compact(store).n_parts_after == 1
    assert verify(store).problems == []
    vacuum(store, retain_s=0)
    target = open_store(str(tmp_path / "release"))
    released = release(open_snapshot(store.root), target, partition_by="language")
    assert (released.n_rows["measures"], released.n_rows["quality"]) == (1, 2)


RECIPES = re.findall(
    r"^-- (.+)\n(SELECT .+)$",
    (ROOT / "pipeline" / "tables" / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_the_recipes_of_the_readme_find_what_they_say(store: Store) -> None:
    def made(name: str, measured: dict[str, Any], quality: dict[str, Any]) -> dict[str, Any]:
        row = window(name, n_segments=1)
        row["channels"] = 2
        row["measures"], row["quality"] = [MEASURED | measured], [QUALITY | quality]
        return row

    rows = [
        made("good", {}, {}),
        made("clipped", {"clipped_share": 0.02}, {}),
        made("narrow", {"bandwidth_hz": 3900.0, "bandwidth_drop_db": 55.0}, {}),
        made("one-sided", {"channel_difference_db": 60.0}, {}),
        made("noisy", {}, {"snr_db": 12.0}),
        made("repeats", {}, {"unique_token_ratio": 0.2}),
        made("too-fast", {}, {"chars_per_s": 60.0}),
    ]
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    names = {str(row["recording_id"]) for row in rows}
    expected = {
        "drop clipped or narrow-band audio": names - {"clipped", "narrow"},
        "keep SNR above 25 dB": names - {"noisy"},
        "find one-sided stereo": {"one-sided"},
        "garbage transcripts": {"repeats", "too-fast"},
    }
    assert {title for title, _ in RECIPES} == expected.keys()
    with connect(store.root) as connection:
        for title, sql in RECIPES:
            found = {row[0].removesuffix("-000000") for row in connection.sql(sql).fetchall()}
            assert found == expected[title], title


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_verify_finds_measures_of_other_audio(version: str, store: Store) -> None:
    from pipeline.maintenance.invariants import CHECKED, wrong_rows

    tables = tables_of(bundle(window("a")))
    place = tables["measures"].column_names.index("version")
    tables["measures"] = tables["measures"].set_column(place, "version", pa.array([version]))
    checked = {name: rows.select(CHECKED[name]).combine_chunks() for name, rows in tables.items()}
    problems = list(wrong_rows(checked, "fingerprint"))
    assert (problems == []) is (version == "v1")
