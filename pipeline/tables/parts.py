"""Parts: the files of one name in all tables. Knows how to write a part and read it back whole.

The files `{table}/{fingerprint[:8]}/c{seq:08d}-{uuid}-{n}.parquet` of one name hold the same
recordings in every table (a table without rows of them has no file). All recordings of a part have
the status ok, or all have the status error. So the `recordings` file alone shows which part holds a
recording, and a retry of errors rewrites only the small parts of failed recordings.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DamagedError, StoreError
from pipeline.schema import SCHEMA_VERSION, TABLES
from pipeline.storage.read_twice import read_twice
from pipeline.storage.store import Store
from pipeline.tables.commit_log import DataFile, State
from pipeline.tables.older_files import in_todays_meaning
from pipeline.tables.parquet import from_parquet, to_parquet, with_absent_columns

PART_BYTES = 256 << 20  # Arrow bytes of a part, all tables: limits memory, makes 50-100 MB on disk

Tables = Mapping[str, pa.Table]


class PartWriter:
    """Collects rows of one fingerprint for one commit and writes them as parts of `part_bytes`."""

    def __init__(self, store: Store, fingerprint: str, stem: str, part_bytes: int) -> None:
        self.files: dict[str, list[DataFile]] = defaultdict(list)
        self._store = store
        self._fingerprint = fingerprint
        self._stem = stem  # unique to this attempt at a commit
        self._part_bytes = part_bytes  # Arrow bytes
        self._pending: dict[str, list[Tables]] = defaultdict(list)  # by status
        self._n_parts = 0

    def add(self, tables: Tables) -> None:
        """Add rows of whole recordings in all tables, each table sorted by recording and time."""
        for status, some in _by_status(tables).items():
            pending = self._pending[status]
            pending.append(some)
            if sum(_n_bytes(tables) for tables in pending) >= self._part_bytes:
                self._flush(status)

    def finish(self) -> dict[str, tuple[DataFile, ...]]:
        """Write the remaining rows; return all files by table."""
        for status in sorted(self._pending):
            self._flush(status)
        return {table: tuple(files) for table, files in self.files.items()}

    def _flush(self, status: str) -> None:
        pending = self._pending.pop(status)
        for table in TABLES:
            rows = pa.concat_tables([tables[table] for tables in pending])
            if rows.num_rows:
                self._write(table, ordered(rows) if len(pending) > 1 else rows)
        self._n_parts += 1

    def _write(self, table: str, rows: pa.Table) -> None:
        name = f"{self._stem}-{self._n_parts}.parquet"
        path = f"{table}/{self._fingerprint[:8]}/{name}"
        metadata = {"schema_version": str(SCHEMA_VERSION), "fingerprint": self._fingerprint}
        data = to_parquet(rows, metadata)
        self._store.put(path, data)
        self.files[table].append(
            DataFile(
                path=path,
                rows=rows.num_rows,
                bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                fingerprint=self._fingerprint,
                first_id=rows["recording_id"][0].as_py(),
                last_id=rows["recording_id"][-1].as_py(),
            )
        )


def part_files(state: State, recordings_path: str) -> Iterator[tuple[str, DataFile]]:
    """(table, file) of each file of the part with this file in the `recordings` table."""
    tail = recordings_path.removeprefix("recordings/")
    for table in TABLES:
        if file := state.files[table].get(f"{table}/{tail}"):
            yield table, file


def read_part(store: Store, state: State, recordings_path: str) -> Tables:
    """All rows of a part. Raises StoreError if a file is not what was committed."""
    tables = {table: schema.empty_table() for table, schema in TABLES.items()}
    for table, file in part_files(state, recordings_path):
        data = read_twice(partial(_get, store, file), DamagedError)
        rows = in_todays_meaning(from_parquet(data))
        if newer := [name for name in rows.column_names if name not in TABLES[table].names]:
            raise StoreError(
                f"{store.uri(file.path)}: a newer program wrote it, with the column {newer[0]}, "
                "which would be lost; upgrade this program"
            )
        # Rows of an older program are merged with new ones, so they get the columns added since.
        tables[table] = with_absent_columns(rows, TABLES[table])
    return tables


def _get(store: Store, file: DataFile) -> bytes:
    data = store.get(file.path)
    if hashlib.sha256(data).hexdigest() == file.sha256:
        return data
    raise DamagedError(
        f"{store.uri(file.path)}: differs from what was committed; restore the file from a backup "
        "or an older version"
    )


def without(tables: Tables, recording_ids: "pa.Array[Any]") -> Tables:
    """`tables` without the rows of some recordings."""
    return {
        name: table.filter(pc.invert(pc.is_in(table["recording_id"], value_set=recording_ids)))
        for name, table in tables.items()
    }


def _by_status(tables: Tables) -> dict[str, Tables]:
    recordings = tables["recordings"]
    is_failed = pc.equal(recordings["status"], pa.scalar("error"))
    failed = recordings.filter(is_failed)["recording_id"].combine_chunks()
    good = recordings.filter(pc.invert(is_failed))["recording_id"].combine_chunks()
    if len(failed) and len(good):
        return {"ok": without(tables, failed), "error": without(tables, good)}
    return {"ok": tables} if len(good) else {"error": tables} if len(failed) else {}


def ordered(rows: pa.Table) -> pa.Table:
    """Sorted by recording_id; the rows of a recording keep their order."""
    # sort_indices is stable.
    return rows.take(pc.sort_indices(rows["recording_id"]))


def _n_bytes(tables: Tables) -> int:
    return sum(table.nbytes for table in tables.values())
