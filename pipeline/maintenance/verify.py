"""Check a whole output: the log, every file and every row. Changes nothing.

Reads every file once, one at a time. Memory: one file, the checked columns of its part, and eight
bytes per recording.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import StoreError, one_line
from pipeline.maintenance.invariants import CHECKED, wrong_rows, wrong_schema
from pipeline.schema import LOGGED_TABLES, OPTIONAL_TABLES, SCHEMA_VERSION, TABLES
from pipeline.storage.store import Store
from pipeline.tables import commit_log as commits
from pipeline.tables.bundles import BUNDLES
from pipeline.tables.commit_log import DataFile, State
from pipeline.tables.parquet import read_files
from pipeline.tables.parts import part_files
from pipeline.tables.review_table import FINGERPRINT, lost_reviews
from pipeline.tables.review_table import TABLE as REVIEWS


@dataclass(slots=True)
class Verdict:
    """The result of verify(). The output is good if `problems` is empty."""

    seq: int = 0
    n_fingerprints: int = 0
    n_recordings: int = 0
    n_errors: int = 0  # of these recordings
    n_segments: int = 0
    audio_s: float = 0.0
    n_files: int = 0
    n_bytes: int = 0
    n_waiting: int = 0  # bundles that no commit has consumed; the next run publishes them
    n_reviews: int = 0
    problems: list[str] = field(default_factory=list)


def verify(store: Store) -> Verdict:
    """Check every commit, file and row under a root. Problems are returned, not raised."""
    verdict = Verdict()
    try:
        state = _read_log(store)
    except StoreError as error:
        verdict.problems.append(str(error))
        return verdict
    verdict.seq = state.seq
    verdict.n_waiting = len(set(store.list(BUNDLES)) - state.consumed)
    verdict.problems += _wrong_derived(store, state)
    verdict.problems += _stray_files(state)
    fingerprints = sorted({file.fingerprint for file in _files(state, "recordings")})
    verdict.n_fingerprints = len(fingerprints)
    for fingerprint in fingerprints:
        _verify_fingerprint(store, state, fingerprint, verdict)
    _verify_reviews(store, state, verdict)
    return verdict


def _read_log(store: Store) -> State:
    """The newest state. Raises StoreError if the log and its newest checkpoint disagree."""
    state = commits.read_state(store, whole_log=True)  # raises for a hole or an unreadable record
    records = (commits.read_record(store, seq) for seq in range(1, state.seq + 1))
    replayed = commits.replay(store, State(), records)
    if state.seq and replayed != state:
        raise StoreError(
            f"{store.root}: a checkpoint and the commit log disagree; delete _checkpoints/, which "
            "is derived from the log"
        )
    return state


def _wrong_derived(store: Store, state: State) -> Iterator[str]:
    """What readers without this library would find wrong: _latest.json and the lists it names.

    It may name an older commit than the newest: the next writer writes it again.
    """
    seq = commits.derived_seq(store)
    if not seq:
        if _exists(store, commits.LATEST):
            yield f"{store.uri(commits.LATEST)}: names no commit; run the label job again"
        return
    if not commits.has_record(store, seq):
        yield (
            f"{store.uri(commits.LATEST)}: names commit {seq}, but the newest is {state.seq}; "
            "restore the newer records from a backup, or delete this file"
        )
        return
    named = state if seq == state.seq else commits.read_state(store, seq)
    problems = list(_wrong_lists(store, named))
    if commits.derived_seq(store) == seq:  # else a writer has replaced them in the meantime
        yield from problems


def _wrong_lists(store: Store, state: State) -> Iterator[str]:
    for table in TABLES:
        key = commits.list_key(state.seq, table)
        expected = [file.path for file in state.table(table, state.current_fingerprint)]
        try:
            listed = [json.loads(line)["path"] for line in store.get(key).splitlines()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, FileNotFoundError) and table in OPTIONAL_TABLES and not expected:
                continue  # older programs wrote no list of these tables
            yield f"{store.uri(key)}: cannot be read: {error}; run the label job again"
            continue
        # Older programs wrote absolute paths. Of an output that was moved, they name the old place.
        if len(listed) != len(expected) or not all(
            path == right or path.endswith(f"/{right}")
            for path, right in zip(listed, expected, strict=True)
        ):
            yield f"{store.uri(key)}: does not list the files of commit {state.seq}"


def _exists(store: Store, key: str) -> bool:
    try:
        store.get(key)
    except FileNotFoundError:
        return False
    return True


def _stray_files(state: State) -> Iterator[str]:
    """Files whose part has no file in `recordings`."""
    names = {file.path.partition("/")[2] for file in _files(state, "recordings")}
    for table in TABLES:
        for file in _files(state, table):
            if file.path.partition("/")[2] not in names:
                yield f"{file.path}: its part has no file in recordings"


def _files(state: State, table: str) -> list[DataFile]:
    return list(state.files.get(table, {}).values())


def _verify_fingerprint(store: Store, state: State, fingerprint: str, verdict: Verdict) -> None:
    paths = [file.path for file in state.table("recordings", fingerprint)]
    hashes = [_verify_part(store, state, path, verdict) for path in paths]
    verdict.problems += _repeated(store, paths, hashes)


def _verify_reviews(store: Store, state: State, verdict: Verdict) -> None:
    """Check the table of reviews, and that each of its rows is an object, too."""
    n_before = len(verdict.problems)
    for file in state.table(REVIEWS, FINGERPRINT):
        _, problems = _read_file(store, REVIEWS, file)
        verdict.n_files += 1
        verdict.n_bytes += file.bytes
        verdict.n_reviews += file.rows
        verdict.problems += [f"{store.uri(file.path)}: {problem}" for problem in problems]
    try:
        if len(verdict.problems) == n_before:
            verdict.problems += lost_reviews(store, state)
    except StoreError as error:
        verdict.problems.append(str(error))


def _verify_part(store: Store, state: State, path: str, verdict: Verdict) -> NDArray[np.uint64]:
    """Check the files and rows of a part; return the hashes of its recording_ids."""
    tables = {name: TABLES[name].empty_table().select(CHECKED[name]) for name in TABLES}
    n_before = len(verdict.problems)
    for table, file in part_files(state, path):
        rows, problems = _read_file(store, table, file)
        verdict.n_files += 1
        verdict.n_bytes += file.bytes
        verdict.problems += [f"{store.uri(file.path)}: {problem}" for problem in problems]
        if rows is not None:
            tables[table] = rows
    recordings = tables["recordings"]
    if len(verdict.problems) == n_before:  # with a damaged file, all tables would look wrong
        fingerprint = state.files["recordings"][path].fingerprint
        verdict.problems += [
            f"{store.uri(path)}: {text}" for text in wrong_rows(tables, fingerprint)
        ]
    is_error = pc.equal(recordings["status"], pa.scalar("error"))
    verdict.n_recordings += recordings.num_rows
    verdict.n_errors += pc.sum(is_error).as_py() or 0
    verdict.n_segments += tables["transcripts"].num_rows
    verdict.audio_s += pc.sum(recordings["duration_s"]).as_py() or 0.0
    return _hashes(recordings["recording_id"].to_numpy(zero_copy_only=False))


def _hashes(ids: NDArray[np.object_]) -> NDArray[np.uint64]:
    import pandas as pd  # takes 2 s, which --help and refusals do not need

    return pd.util.hash_array(ids)


def _read_file(store: Store, table: str, file: DataFile) -> tuple[pa.Table | None, list[str]]:
    """(columns CHECKED of a file, or None if it cannot be read; its problems)."""
    try:
        data = store.get(file.path)
    except FileNotFoundError:
        return None, ["is missing, but a commit lists it"]
    except OSError as error:
        return None, [f"cannot be read: {type(error).__name__}: {error}"]
    if len(data) != file.bytes:
        return None, [f"has {len(data)} bytes, but {file.bytes} were committed"]
    if hashlib.sha256(data).hexdigest() != file.sha256:
        return None, ["differs from what was committed (sha256)"]
    try:
        return _check_file(table, file, data)
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        return None, [f"cannot be read as parquet: {one_line(error)}"]


def _check_file(table: str, file: DataFile, data: bytes) -> tuple[pa.Table | None, list[str]]:
    parquet = pq.ParquetFile(
        pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True
    )
    schema = parquet.schema_arrow
    problems = list(wrong_schema(table, schema))
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if metadata.get("fingerprint") != file.fingerprint:
        problems.append("has another fingerprint in its metadata")
    if not metadata.get("schema_version", "").isdigit() or (
        int(metadata["schema_version"]) > SCHEMA_VERSION
    ):
        problems.append(f"has schema_version {metadata.get('schema_version')!r} in its metadata")
    if problems:
        return None, problems
    rows = parquet.read(use_threads=False)  # all columns, so that each page's checksum is checked
    ids = rows["recording_id"]
    ends = (rows.num_rows, ids[0].as_py(), ids[-1].as_py()) if rows.num_rows else (0, "", "")
    if ends != (file.rows, file.first_id, file.last_id):
        problems.append(f"has other rows or ids ({ends}) than its commit says")
    if any(
        column.null_count
        for field, column in zip(rows.schema, rows.columns, strict=True)
        if not field.nullable
    ):
        problems.append("has nulls in a column that must have none")
    columns = CHECKED.get(table, LOGGED_TABLES[table].names)
    return rows.select(columns).combine_chunks().replace_schema_metadata(None), problems


def _repeated(store: Store, paths: list[str], hashes: list[NDArray[np.uint64]]) -> Iterator[str]:
    """Recordings that are in more than one part of a fingerprint."""
    everything = np.sort(np.concatenate([*hashes, np.empty(0, np.uint64)]))
    twice = np.unique(everything[1:][everything[1:] == everything[:-1]])
    suspects = [
        path for path, some in zip(paths, hashes, strict=True) if np.isin(some, twice).any()
    ]
    seen: dict[str, str] = {}  # equal hashes may have different ids, so the ids are compared
    for path in suspects:
        column = read_files(store, "recordings", [path], ["recording_id"])["recording_id"]
        ids = column.to_numpy(zero_copy_only=False)
        ids = ids[np.isin(_hashes(ids), twice)]
        others = {name: seen[name] for name in ids if seen.setdefault(name, path) != path}
        if others:
            name, other = next(iter(others.items()))
            yield f"{path}: {len(others)} recordings are in another part, too, {name!r} in {other}"
