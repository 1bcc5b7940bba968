"""Pages of one snapshot: uncertainty, joins, and tables that do not fit together."""

from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.explorer.browse import Browser
from pipeline.schema import REVIEWS
from pipeline.storage.store import open_store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.locked_sql import connect_locked
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.small_output import publish_each


def test_the_most_uncertain_are_few_of_each_recording(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    rows = [window(name, n_segments=2) for name in "abc"]
    for number, row in enumerate(rows):
        for segment in row["segments"]:
            segment["confidence"] = 0.9 - 0.3 * number
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    snapshot = open_snapshot(str(tmp_path))
    with connect_locked(snapshot) as connection:
        browser = Browser(connection, snapshot, REVIEWS.empty_table())
        assert browser.most_uncertain("", 10, 1) == ["c-000000", "b-000000", "a-000000"]
        assert browser.most_uncertain("", 3, 2) == ["c-000000", "c-000001", "b-000000"]
        page = browser.page("", "uncertainty", None, 2)
        assert [row["segment_id"] for row in page.rows] == ["c-000000", "c-000001"]


def test_a_page_joins_no_whole_tables(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    publish_each(store, "ab")
    snapshot = open_snapshot(str(tmp_path))
    with connect_locked(snapshot) as connection:
        Browser(connection, snapshot, REVIEWS.empty_table())
        query = "EXPLAIN SELECT segment_id FROM browse WHERE emotion <> 'sad' AND confidence > 0.5"
        plan = str(connection.execute(query).fetchall())
        assert "Positional" in plan
        assert "Hash Join" not in plan


def test_tables_whose_rows_are_in_another_order_are_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    publish_each(store, "ab")
    snapshot = open_snapshot(str(tmp_path))
    with connect_locked(snapshot) as connection:
        connection.execute("CREATE TEMP TABLE turned AS FROM emotions ORDER BY segment_id DESC")
        connection.execute("CREATE OR REPLACE TEMP VIEW emotions AS FROM turned")
        with pytest.raises(StoreError, match="do not hold the same segments in the same order"):
            Browser(connection, snapshot, REVIEWS.empty_table())
