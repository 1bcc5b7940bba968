"""The negative controls of tests/support/oracle.py: it finds every table that was changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.storage.store import open_store
from pipeline.tables import Snapshot, open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.oracle import violations

Change = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Tampered(Snapshot):
    """A snapshot whose read() changes one of its tables."""

    table: str
    change: Change

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        rows = super().read(table, columns)
        return self.change(rows) if table == self.table else rows


TAMPERINGS: list[tuple[str, Change, str]] = [
    ("recordings", lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "2 rows"),
    ("recordings", lambda rows: rows.slice(1), "which has no row"),
    ("transcripts", lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "twice"),
    ("transcripts", lambda rows: rows.slice(1), "n_segments"),
    ("emotions", lambda rows: rows.slice(1), "different segments"),
    ("events", lambda rows: rows.set_column(0, "segment_id", [["x"] * len(rows)]), "no segment"),
]


@pytest.mark.parametrize(("table", "change", "found"), TAMPERINGS)
def test_the_oracle_finds_a_changed_table(
    table: str, change: Change, found: str, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path))
    write_bundle(store, RUN, bundle(window("a"), window("b", n_segments=1)))
    publish(store, RUN)
    snapshot = open_snapshot(str(tmp_path))
    assert violations(snapshot) == []
    parts = (snapshot.seq, snapshot.fingerprint, snapshot.store, snapshot.state)
    assert any(found in text for text in violations(Tampered(*parts, table, change)))
