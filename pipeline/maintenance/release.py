"""Copy one snapshot to files that can be read with a glob. Knows files; commits nothing.

The files are TARGET/{table}/part-00000.parquet and so on. If the copy is partitioned, a directory
like language=en/ or commit_date=2026-01-31/ precedes the file name. `_release.json` says what was
copied. `_SUCCESS` is written last: a copy without it is not complete.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StoreError
from pipeline.schema import SCHEMA_VERSION, TABLES
from pipeline.storage.store import Store
from pipeline.tables import Snapshot
from pipeline.tables.parquet import to_parquet
from pipeline.tables.parts import PART_BYTES, Tables, ordered, read_part
from pipeline.tables.review_table import TABLE as REVIEWS
from pipeline.tables.review_table import committed_reviews

PartitionBy = Literal["none", "language", "commit_date"]
PARTITIONS: tuple[PartitionBy, ...] = get_args(PartitionBy)
_ABSENT = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class Released:
    """What a release holds."""

    source: str
    seq: int
    fingerprint: str
    schema_version: int
    partition_by: PartitionBy
    n_files: int
    n_rows: dict[str, int]  # by table


def release(
    snapshot: Snapshot,
    target: Store,
    *,
    partition_by: PartitionBy = "none",
    part_bytes: int = PART_BYTES,
) -> Released:
    """Copy a snapshot to an empty directory, in files of `part_bytes`, sorted by recording_id.

    The reviews of the snapshot are a sixth table, if there are any; it is not partitioned.
    Partitioning by `language` divides the segment tables only, by the language of each segment. As
    in Hive, the partition column is in the path and not in the files. Raises StoreError if the
    target is not empty, lies below a directory that is named like a column (`language=yue`), or if
    a file is not what was committed.
    """
    _check_empty(target)
    _check_place(target.root)
    writer = _Writer(target, snapshot.fingerprint, partition_by, part_bytes)
    for path in snapshot.parts():
        writer.add(read_part(snapshot.store, snapshot.state, path))
    n_rows = writer.finish()
    reviews = committed_reviews(snapshot.store, snapshot.state)
    if reviews.num_rows:
        writer.write(REVIEWS, "", reviews)
        n_rows[REVIEWS] = reviews.num_rows
    released = Released(
        source=snapshot.store.root,
        seq=snapshot.seq,
        fingerprint=snapshot.fingerprint,
        schema_version=SCHEMA_VERSION,
        partition_by=partition_by,
        n_files=writer.n_files,
        n_rows=n_rows,
    )
    target.put("_release.json", json.dumps(asdict(released), indent=1).encode())
    target.put("_SUCCESS", b"")
    return released


def preview(snapshot: Snapshot, target: Store, *, partition_by: PartitionBy = "none") -> Released:
    """What `release` would copy, by the log alone; the number of files is known afterwards.

    Raises StoreError as `release` does for the target.
    """
    _check_empty(target)
    _check_place(target.root)
    return Released(
        source=snapshot.store.root,
        seq=snapshot.seq,
        fingerprint=snapshot.fingerprint,
        schema_version=SCHEMA_VERSION,
        partition_by=partition_by,
        n_files=0,
        n_rows={
            table: sum(file.rows for file in snapshot.state.table(table, snapshot.fingerprint))
            for table in TABLES
        },
    )


def _check_empty(target: Store) -> None:
    if target.list(""):
        raise StoreError(
            f"{target.root}: is not empty; release to a new directory (a directory without "
            "_SUCCESS is an incomplete release and can be deleted)"
        )


def _check_place(root: str) -> None:
    """Raise StoreError if a glob would take a directory above the files for a column."""
    columns = {name for schema in TABLES.values() for name in schema.names} | {*PARTITIONS}
    for part in root.split("/"):
        if "=" in part and part.partition("=")[0] in columns:
            raise StoreError(
                f"{root}: readers of a release take {part!r} for a column of its rows; release to "
                "a directory that is not below it"
            )


class _Writer:
    """Collects rows by table and directory; writes them all when they reach `part_bytes`."""

    def __init__(
        self, target: Store, fingerprint: str, partition_by: PartitionBy, part_bytes: int
    ) -> None:
        self.n_files = 0
        self._target = target
        self._metadata = {"schema_version": str(SCHEMA_VERSION), "fingerprint": fingerprint}
        self._partition_by = partition_by
        self._part_bytes = part_bytes
        self._pending: dict[tuple[str, str], list[pa.Table]] = defaultdict(list)
        self._n_bytes = 0
        self._n_rows = dict.fromkeys(TABLES, 0)

    def add(self, tables: Tables) -> None:
        for table, directory, rows in _divide(tables, self._partition_by):
            self._pending[table, directory].append(rows)
            self._n_bytes += rows.nbytes
            self._n_rows[table] += rows.num_rows
        if self._n_bytes >= self._part_bytes:
            self._flush()

    def finish(self) -> dict[str, int]:
        """Write the remaining rows; return the number of rows by table."""
        self._flush()
        for table, n_rows in self._n_rows.items():
            if not n_rows:  # a glob without files is an error in most engines
                self.write(table, "", TABLES[table].empty_table())
        return self._n_rows

    def _flush(self) -> None:
        for (table, directory), parts in sorted(self._pending.items(), key=lambda item: item[0]):
            self.write(table, directory, ordered(pa.concat_tables(parts)))
        self._pending.clear()
        self._n_bytes = 0

    def write(self, table: str, directory: str, rows: pa.Table) -> None:
        key = f"{table}/{directory}part-{self.n_files:05d}.parquet"
        self._target.put(key, to_parquet(rows, self._metadata))
        self.n_files += 1


def _divide(tables: Tables, partition_by: PartitionBy) -> Iterator[tuple[str, str, pa.Table]]:
    """(table, directory, rows) of a part, one for each value of the partition column."""
    for table, rows in tables.items():
        values = _values(tables, table, partition_by)
        if values is None:
            yield table, "", rows
            continue
        kept = rows.drop_columns([name for name in (partition_by,) if name in rows.column_names])
        for value in sorted(pc.unique(values).to_pylist()):
            some = kept.filter(pc.equal(values, value))
            yield table, f"{partition_by}={value or _ABSENT}/", some


def _values(tables: Tables, table: str, partition_by: PartitionBy) -> Any:
    """The partition value of each row of a table; None if the table is not partitioned."""
    if partition_by == "commit_date":
        recordings = tables["recordings"]
        dates = pc.strftime(recordings["committed_at"], "%Y-%m-%d")
        return _look_up(tables[table]["recording_id"], recordings["recording_id"], dates)
    if partition_by == "language" and table not in ("recordings", "measures"):
        languages = tables["languages"]
        return _look_up(tables[table]["segment_id"], languages["segment_id"], languages["language"])
    return None


def _look_up(keys: Any, known: Any, values: Any) -> Any:
    return values.take(pc.index_in(keys, value_set=known.combine_chunks()))
