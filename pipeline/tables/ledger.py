"""The ledger: which recordings are done under a fingerprint. Knows five columns of `recordings`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.arrow import pc
from pipeline.schema import TABLES
from pipeline.storage.address import MEMBER
from pipeline.storage.redaction import public_uri
from pipeline.storage.store import Store, open_store
from pipeline.tables.commit_log import read_state
from pipeline.tables.parquet import N_READERS, read_files

_BATCH_ROWS = 1 << 20  # ledger rows read at a time: 120 MB
_VERSIONS = ("uri", "version")
_COLUMNS = ("recording_id", "work_key", "attempts", "status", "error_type")


def ledger(
    root: str, storage_options: Mapping[str, Any] | None = None, *, fingerprint: str
) -> pa.Table:
    """The ledger of a fingerprint: recording_id, work_key, attempts, status, error_type.

    One row per recording; empty before the first commit.
    """
    parts = ledger_parts(root, storage_options, fingerprint=fingerprint)
    schema = pa.schema([TABLES["recordings"].field(name) for name in _COLUMNS])
    return pa.concat_tables([schema.empty_table(), *parts])


def ledger_parts(
    root: str, storage_options: Mapping[str, Any] | None = None, *, fingerprint: str
) -> Iterator[pa.Table]:
    """`ledger`, a few files at a time. The whole of it takes 1.2 GB for ten million recordings."""
    store = open_store(root, storage_options)
    paths: list[str] = []
    n_rows = 0
    for file in read_state(store).table("recordings", fingerprint):
        if paths and (len(paths) == N_READERS or n_rows + file.rows > _BATCH_ROWS):
            yield read_files(store, "recordings", paths, _COLUMNS)
            paths, n_rows = [], 0
        paths.append(file.path)
        n_rows += file.rows
    if paths:
        yield read_files(store, "recordings", paths, _COLUMNS)


def versions_of_members(store: Store, archives: Sequence[str]) -> dict[str, set[str]]:
    """Address -> versions of the bytes that were read, for all known members of these archives."""
    shown = {public_uri(archive): archive for archive in archives}
    found: dict[str, set[str]] = {}
    paths = sorted(read_state(store).files.get("recordings", {}))
    for start in range(0, len(paths), N_READERS):
        rows = read_files(store, "recordings", paths[start : start + N_READERS], _VERSIONS)
        archive = pc.replace_substring_regex(rows["uri"], MEMBER, "")
        is_wanted = pc.and_(
            pc.is_in(archive, pa.array(list(shown))), pc.not_equal(archive, rows["uri"])
        )
        for row in rows.filter(is_wanted).to_pylist():
            found.setdefault(row["uri"], set()).add(row["version"])
    return found
