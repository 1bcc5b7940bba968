"""Cost of planning a large corpus: time and memory for a manifest and a ledger of the same size.

Makes a parquet manifest with object versions and a committed ledger that holds all its rows but one
in a hundred. Then plans in a process of its own, as a run does: from the files to the rows to do.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.benchmark.process_tree import peak_bytes
from pipeline.manifest.keys import work_keys
from pipeline.manifest.read import read_manifest
from pipeline.planning.plan import make_plan
from pipeline.schema import SCHEMA_VERSION
from pipeline.storage.store import open_store
from pipeline.tables.commit_log import DataFile, Record, write_record
from pipeline.tables.ledger import ledger_parts

_FINGERPRINT = "f" * 32
_PART_ROWS = 1_000_000  # of a ledger file
_FIRST = "--first"
_NEW_EVERY = 100  # one row in so many is new: it is not in the ledger


@dataclass(frozen=True, slots=True)
class PlanningCost:
    """What one process that plans takes, including the interpreter and libraries."""

    n_manifest: int
    n_ledger: int
    n_todo: int
    wall_s: float
    cpu_s: float
    peak_mib: float


def measure_in_child(work: Path, *, first: bool = False) -> PlanningCost:
    """`measure_planning` in a new process, so that no memory of this one is counted."""
    command = [sys.executable, "-m", "pipeline.benchmark.planning", str(work)]
    command += [_FIRST] if first else []
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True
    )
    return PlanningCost(**json.loads(done.stdout))


def measure_planning(work: Path, *, first: bool = False) -> PlanningCost:
    """Plan the corpus that `make_corpus` wrote to `work`, and return the cost of this process.

    `first` leaves the ledger out, as in the first run on a corpus: all rows are to do.
    """
    started = time.monotonic()
    manifest = read_manifest(str(work / "manifest.parquet"), {}, ["s3://corpus/"])
    ledger = ledger_parts(str(work / "labels"), fingerprint="" if first else _FINGERPRINT)
    plan = make_plan(manifest, ledger, _FINGERPRINT, {})
    n_todo = sum(leg.num_rows for leg in plan.legs)  # as a run reads them
    wall_s = time.monotonic() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return PlanningCost(
        n_manifest=plan.n_manifest,
        n_ledger=plan.n_done,
        n_todo=n_todo,
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mib=peak_bytes() / (1 << 20),
    )


def make_corpus(work: Path, n_rows: int) -> None:
    """Write a manifest and a committed ledger that holds all its rows but every hundredth."""
    work.mkdir(parents=True, exist_ok=True)
    store = open_store(str(work / "labels"))
    files = []
    with pq.ParquetWriter(work / "manifest.parquet", _rows(0, 0).schema) as writer:
        for start, rows in _parts(n_rows):
            writer.write_table(rows)
            path = f"recordings/{start:012d}.parquet"
            sink = pa.BufferOutputStream()
            done = _done(rows)
            pq.write_table(done, sink, compression="zstd", write_page_checksum=True)
            store.put(path, sink.getvalue().to_pybytes())
            files.append(DataFile(path, done.num_rows, 0, "", _FINGERPRINT, "", ""))
    record = Record(1, "c", "r", "", SCHEMA_VERSION, added={"recordings": tuple(files)})
    write_record(store, record)


def _parts(n_rows: int) -> Iterator[tuple[int, pa.Table]]:
    for start in range(0, n_rows, _PART_ROWS):
        yield start, _rows(start, min(start + _PART_ROWS, n_rows))


def _rows(first: int, last: int) -> pa.Table:
    numbers = range(first, last)
    versions = np.random.default_rng(first).integers(0, 1 << 62, last - first)
    return pa.table(
        {
            "audio": pa.array(
                [f"s3://corpus/speech/{n % 9973:04d}/recording-{n:010d}.flac" for n in numbers],
                pa.string(),
            ),
            "audio_version": pa.array([f"{v:032x}-1" for v in versions.tolist()], pa.string()),
            "audio_bytes": pa.array([160_000] * (last - first), pa.int64()),
            "duration_s": pa.array([9.5] * (last - first), pa.float64()),
        }
    )


def _done(rows: pa.Table) -> pa.Table:
    """The ledger of these manifest rows, with the columns that planning reads."""
    n_rows = rows.num_rows
    ids = [f"{uri}#t=0,9.5" for uri in rows["audio"].to_pylist()]
    named = pa.table(
        {
            "recording_id": ids,
            "uri": rows["audio"],
            "offset_s": np.zeros(n_rows),
            "length_s": rows["duration_s"],
            "channel": np.zeros(n_rows, np.int32),
            "language": [""] * n_rows,
            "version": rows["audio_version"],
        }
    )
    ledger = pa.table(
        {
            "recording_id": named["recording_id"],
            "work_key": work_keys(named, _FINGERPRINT),
            "attempts": pa.array(np.ones(n_rows), pa.int32()),
            "status": ["ok"] * n_rows,
            "error_type": [""] * n_rows,
        }
    )
    return ledger.filter(pa.array(np.arange(n_rows) % _NEW_EVERY != 0))


def show_planning(console: Console, cost: PlanningCost) -> None:
    """Print the cost in one line."""
    console.print(
        f"{cost.n_manifest:,} manifest rows and {cost.n_ledger:,} ledger rows: "
        f"{cost.wall_s:.1f} s, {cost.cpu_s:.1f} CPU-seconds, peak {cost.peak_mib:,.0f} MiB, "
        f"{cost.n_todo:,} to do",
        soft_wrap=True,
    )


if __name__ == "__main__":  # the process of measure_in_child
    cost = measure_planning(Path(sys.argv[1]), first=_FIRST in sys.argv)
    sys.stdout.write(json.dumps(asdict(cost)))
