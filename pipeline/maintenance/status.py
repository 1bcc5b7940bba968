"""What an output holds: commits, fingerprints, what waits, what failed. Changes nothing."""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.store import Store
from pipeline.tables.bundles import BUNDLES
from pipeline.tables.commit_log import DataFile, Record, State, read_record, read_state
from pipeline.tables.parquet import N_READERS, read_files
from pipeline.tables.run_records import RunRecord, newest_records

_COLUMNS = ("status", "error_type", "duration_s", "model", "model_hash")
_N_NEWEST = 5  # commits


@dataclass(frozen=True, slots=True)
class Labels:
    """What an output holds under one fingerprint."""

    fingerprint: str
    is_default: bool  # readers get these labels by default
    n_ok: int
    n_failed: int
    audio_s: float
    model: str
    model_hash: str
    errors: Mapping[str, int]  # recordings by error_type, the most frequent first
    newest_run: RunRecord | None  # with its settings; None if it was not recorded


@dataclass(frozen=True, slots=True)
class Status:
    """What an output holds after its newest commit."""

    seq: int
    newest: tuple[Record, ...]  # the newest commits, in order
    labels: tuple[Labels, ...]  # the default first
    n_waiting: int  # bundles that no commit has consumed; the next run commits what is complete
    n_files: int
    n_bytes: int


def read_status(store: Store) -> Status:
    """Read the log and four columns of the recordings. Zeros if there are no tables yet."""
    state = read_state(store)
    records = newest_records(store)
    first = max(1, state.seq - _N_NEWEST + 1)
    files = [file for table in state.files.values() for file in table.values()]
    return Status(
        seq=state.seq,
        newest=tuple(read_record(store, seq) for seq in range(first, state.seq + 1)),
        labels=tuple(
            _labels(store, state, name, records.get(name)) for name in _fingerprints(state)
        ),
        n_waiting=sum(
            key.endswith(".parquet") and key not in state.consumed for key in store.list(BUNDLES)
        ),
        n_files=len(files),
        n_bytes=sum(file.bytes for file in files),
    )


def _fingerprints(state: State) -> list[str]:
    """Those that have recordings: the default first, then by their first recording."""
    default = state.current_fingerprint
    found = {file.fingerprint for file in state.files.get("recordings", {}).values()}
    return sorted(found, key=lambda name: (name != default, name))


def _labels(store: Store, state: State, fingerprint: str, newest: RunRecord | None) -> Labels:
    def read(file: DataFile) -> pa.Table:
        return read_files(store, "recordings", [file.path], _COLUMNS)

    errors: Counter[str] = Counter()
    n_rows, audio_s, model, model_hash = 0, 0.0, "", ""
    with ThreadPoolExecutor(N_READERS) as pool:
        for rows in pool.map(read, state.table("recordings", fingerprint)):
            failed = rows.filter(pc.equal(rows["status"], pa.scalar("error")))
            errors.update(failed["error_type"].to_pylist())
            n_rows += rows.num_rows
            audio_s += pc.sum(rows["duration_s"]).as_py() or 0.0
            if rows.num_rows:
                model, model_hash = rows["model"][0].as_py(), rows["model_hash"][0].as_py()
    return Labels(
        fingerprint=fingerprint,
        is_default=fingerprint == state.current_fingerprint,
        n_ok=n_rows - errors.total(),
        n_failed=errors.total(),
        audio_s=audio_s,
        model=model,
        model_hash=model_hash,
        errors=dict(errors.most_common()),
        newest_run=newest,
    )
