"""Files of schema version 1, in which a segment without text had the confidence 0."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.export.write import export
from pipeline.maintenance.compact import compact
from pipeline.maintenance.verify import verify
from pipeline.schema import SCHEMA_VERSION, TABLES
from pipeline.storage.store import Store, open_store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.rewritten import file_of, rewrite

WORDLESS = {"text": "", "words": [], "n_tokens": 0, "confidence": 0.0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two recordings of two segments, of which one has no text; written by this version."""
    store = open_store(str(tmp_path / "root"))
    rows = [window("a"), window("b")]
    rows[0]["segments"][1] |= WORDLESS
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    return store


def as_version_1(rows: pa.Table) -> pa.Table:
    later = {"channel"}
    fields = [field for field in TABLES["transcripts"] if field.name not in later]
    old = pa.schema([field.with_nullable(False) for field in fields])
    values = [row | {"confidence": row["confidence"] or 0.0} for row in rows.to_pylist()]
    return pa.Table.from_pylist(values, old)


def confidences(root: str) -> list[float | None]:
    found = connect(root).sql("SELECT confidence FROM segments ORDER BY segment_id").fetchall()
    return [None if value is None else round(value, 3) for (value,) in found]


def test_a_segment_without_text_has_no_confidence(store: Store, tmp_path: Path) -> None:
    assert confidences(store.root) == [0.9, None, 0.9, 0.9]
    assert open_snapshot(store.root).read("transcripts")["confidence"].null_count == 1
    assert verify(store).problems == []
    export(store.root, tmp_path / "x", "rttm")
    first, second, *_ = (tmp_path / "x" / "languages.rttm").read_text().splitlines()
    assert (first.split()[8], second.split()[8]) == ("0.900", "<NA>")


def test_a_file_of_schema_version_1_is_read_verified_and_rewritten_as_of_today(
    store: Store,
) -> None:
    metadata = {"fingerprint": RUN.fingerprint, "schema_version": "1"}
    rewrite(store, "transcripts", as_version_1, metadata)
    assert confidences(store.root) == [0.9, None, 0.9, 0.9]
    snapshot = open_snapshot(store.root)
    for columns in (None, ["confidence"], ["text", "confidence"]):
        read = snapshot.read("transcripts", columns)
        assert read.column_names == (columns or TABLES["transcripts"].names)
        assert read["confidence"].null_count == 1
    assert verify(store).problems == []
    write_bundle(store, RUN, bundle(window("c")))
    publish(store, RUN)
    compact(store)
    path = file_of(store, "transcripts")
    schema = pq.read_schema(pa.BufferReader(store.get(path)))
    assert schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    assert confidences(store.root) == [0.9, None, 0.9, 0.9, 0.9, 0.9]
    assert pq.read_table(pa.BufferReader(store.get(path)))["confidence"].null_count == 1
    assert verify(store).problems == []
