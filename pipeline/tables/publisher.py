"""Bundles to tables, exactly once. Knows bundles, ledger, parts and commits; nothing of audio.

A publisher reads all bundles of all runs that no commit has consumed. It takes the recordings that
are complete and were planned against the present ledger (see attempts), writes their rows as new
parts, and commits the parts with one conditional write. Rows of retried, repeated or late tasks are
refused by the ledger. A commit that another run made first is refused by the conditional write; it
leaves files that no commit names. A publisher never deletes such files: if only the store's answer
was lost, they are the files that were committed.
"""

import logging
import uuid
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StoreError
from pipeline.manifest.keys import ledger_states
from pipeline.storage.store import Store
from pipeline.tables import commit_log as commits
from pipeline.tables.attempts import WINDOW_KEYS, Choice, choose_attempts
from pipeline.tables.bundles import BUNDLES, read_bundle
from pipeline.tables.commit_log import COMMIT_TRIES, DataFile, Record, State, new_record
from pipeline.tables.coverage import count_uncovered
from pipeline.tables.parquet import N_READERS, read_files
from pipeline.tables.parts import PART_BYTES, PartWriter, Tables, part_files, read_part, without
from pipeline.tables.run_records import RunInfo
from pipeline.tables.to_tables import to_tables

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """What one call of publish() committed; zeros if there was nothing to do."""

    seq: int  # the newest commit now
    n_recordings: int = 0
    n_errors: int = 0  # of these recordings
    n_segments: int = 0
    audio_s: float = 0.0
    n_dropped: int = 0  # attempts planned against an older ledger state: repeated or late tasks
    n_waiting: int = 0  # attempts whose other windows have not arrived
    n_unreadable: int = 0  # damaged bundles; the next run plans their recordings again
    # Recordings of the default fingerprint that this run's fingerprint lacks, so it did not become
    # the default. Counted only with `make_current`.
    n_uncovered: int = 0


@dataclass(frozen=True, slots=True)
class _Bundle:
    """The columns of a bundle that choosing attempts needs."""

    run: RunInfo
    windows: "pd.DataFrame"  # WINDOW_KEYS, bundle, row
    row_bytes: float  # Arrow bytes per row


@dataclass(slots=True)
class _Draft:
    """The next commit, while its files are written."""

    seq: int
    current_fingerprint: str = ""
    committed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    added: dict[str, list[DataFile]] = field(default_factory=lambda: defaultdict(list))
    removed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    runs: set[RunInfo] = field(default_factory=set)
    ids: list[pa.ChunkedArray] = field(default_factory=list)  # added for the publisher's own run
    waiting: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)


def publish(
    store: Store, run: RunInfo, *, make_current: bool = False, part_bytes: int = PART_BYTES
) -> Published:
    """Commit every complete recording of all bundles, of any run, that no commit has consumed.

    With `make_current`, this run's fingerprint becomes the default of readers if it has every
    recording of the present default; a small run must not hide the labels of a large one. Without,
    the default stays as it is. Any number of processes may call this at any time. Raises StoreError
    if the log is damaged, or if other publishers commit first COMMIT_TRIES times in a row.
    """
    return Publisher(store, run, part_bytes).publish(make_current=make_current)


class Publisher:
    """publish() for a driver that calls it every minute: keeps the log and the ledger's ids.

    Memory: the recording_ids of the ledger as Arrow columns, and about three parts.
    """

    def __init__(self, store: Store, run: RunInfo, part_bytes: int = PART_BYTES) -> None:
        self._store = store
        self._run = run
        self._part_bytes = part_bytes
        self._state = State()
        self._bundles: dict[str, _Bundle | None] = {}  # not consumed; None: damaged
        self._ids: dict[str, pa.Array[Any]] = {}  # recording_id by path of a recordings file

    @property
    def state(self) -> State:
        """The log as the last call of publish() left it."""
        return self._state

    def publish(self, *, make_current: bool = False) -> Published:
        """Do what the function of this name says."""
        reason = ""
        for _ in range(COMMIT_TRIES):
            is_start = self._state.seq == 0  # this publisher has not read the log yet
            self._state = commits.read_state(self._store, since=self._state, whole_log=is_start)
            try:
                record, published = self._prepare(make_current)
            except FileNotFoundError as error:
                # A vacuum deletes files only after a commit without them: read the log again.
                reason = f"{error} is missing"
                continue
            if record is None:
                commits.repair_derived(self._store, self._state)
                return published
            if commits.write_record(self._store, record):
                self._state = commits.replay(self._store, self._state, [record])
                commits.write_derived(self._store, self._state)
                return published
            reason = "other publishers were faster; let fewer runs share one output"
        raise StoreError(f"{self._store.root}: no commit in {COMMIT_TRIES} tries, because {reason}")

    def _prepare(self, make_current: bool) -> tuple[Record | None, Published]:
        """Write the files of the next commit; its record, or None if nothing would change."""
        self._read_new_bundles()
        draft = _Draft(self._state.seq + 1)
        counts = Published(draft.seq)
        for fingerprint, windows in self._by_fingerprint():
            choice = self._choose(windows, fingerprint)
            draft.waiting |= choice.waiting
            draft.settled |= choice.settled
            counts = replace(
                counts,
                n_dropped=counts.n_dropped + choice.n_dropped,
                n_waiting=counts.n_waiting + choice.n_waiting,
            )
            if len(choice.taken):
                counts = self._write(draft, counts, choice, fingerprint)
                draft.current_fingerprint = draft.current_fingerprint or fingerprint
        if self._state.current_fingerprint:  # only an output's first rows become current unasked
            draft.current_fingerprint = ""
        if make_current and self._run.fingerprint != self._state.current_fingerprint:
            n_uncovered = count_uncovered(
                self._store, self._state, self._run.fingerprint, draft.ids
            )
            counts = replace(counts, n_uncovered=n_uncovered)
            if not n_uncovered:
                draft.current_fingerprint = self._run.fingerprint
        record = self._record(draft)
        if record.consumed or record.opened or record.current_fingerprint:
            return record, replace(counts, n_unreadable=len(record.unreadable))
        return None, Published(
            self._state.seq, n_waiting=counts.n_waiting, n_uncovered=counts.n_uncovered
        )

    def _record(self, draft: _Draft) -> Record:
        return replace(
            new_record(draft.seq, self._run.run_id, draft.committed_at),
            added={table: tuple(files) for table, files in draft.added.items()},
            removed={table: tuple(paths) for table, paths in draft.removed.items()},
            consumed=tuple(key for key in self._bundles if key not in draft.waiting),
            opened=tuple(sorted((draft.waiting & draft.settled) - self._state.opened)),
            unreadable=tuple(key for key, bundle in self._bundles.items() if bundle is None),
            current_fingerprint=draft.current_fingerprint,
            runs=tuple(asdict(run) for run in sorted(draft.runs, key=lambda run: run.run_id)),
        )

    def _read_new_bundles(self) -> None:
        """Read the bundles that arrived since the last call; drop those that are consumed."""
        listed = [key for key in self._store.list(BUNDLES) if key.endswith(".parquet")]
        keys = [key for key in listed if key not in self._state.consumed]
        new = [key for key in keys if key not in self._bundles]
        with ThreadPoolExecutor(N_READERS) as pool:
            self._bundles.update(zip(new, pool.map(self._read_windows, new), strict=True))
        self._bundles = {key: self._bundles[key] for key in keys}

    def _read_windows(self, key: str) -> _Bundle | None:
        found = read_bundle(self._store, key)
        if found is None:
            log.warning(
                "%s is damaged; the next run labels its recordings again", self._store.uri(key)
            )
            return None
        run, rows = found
        windows = rows.select(WINDOW_KEYS).to_pandas()
        windows = windows.assign(bundle=key, row=range(len(windows)))
        return _Bundle(run, windows, rows.nbytes / max(1, rows.num_rows))

    def _by_fingerprint(self) -> "Iterator[tuple[str, pd.DataFrame]]":
        frames: dict[str, list[pd.DataFrame]] = defaultdict(list)
        for bundle in self._bundles.values():
            if bundle is not None:
                frames[bundle.run.fingerprint].append(bundle.windows)
        for fingerprint in sorted(frames):
            yield fingerprint, _joined(frames[fingerprint])

    def _choose(self, windows: "pd.DataFrame", fingerprint: str) -> Choice:
        import pandas as pd

        ids = pa.array(windows["recording_id"].unique(), pa.string())
        frames = [pd.DataFrame(columns=["recording_id", "state", "path"], dtype="str")]
        # The cached ids show which of the files hold any of these recordings; usually few do.
        present = self._state.files["recordings"] if self._state.files else {}
        self._ids = {path: column for path, column in self._ids.items() if path in present}
        paths = [file.path for file in self._state.table("recordings", fingerprint)]
        new = [path for path in paths if path not in self._ids]
        with ThreadPoolExecutor(N_READERS) as pool:
            self._ids.update(zip(new, pool.map(self._read_ids, new), strict=True))
        holding = [
            path for path in paths if pc.any(pc.is_in(self._ids[path], value_set=ids)).as_py()
        ]
        frames += [self._read_states(path, ids) for path in holding]
        return choose_attempts(windows, pd.concat(frames), self._state.opened)

    def _read_ids(self, path: str) -> "pa.Array[Any]":
        read = read_files(self._store, "recordings", [path], ["recording_id"])
        ids: pa.Array[Any] = read["recording_id"].combine_chunks()
        return ids

    def _read_states(self, path: str, ids: "pa.Array[Any]") -> "pd.DataFrame":
        import pandas as pd

        rows = read_files(
            self._store, "recordings", [path], ["recording_id", "work_key", "attempts"]
        )
        found = rows.filter(pc.is_in(rows["recording_id"], value_set=ids))
        states = ledger_states(found["work_key"], found["attempts"])
        return pd.DataFrame(
            {
                "recording_id": found["recording_id"].to_pandas(),
                "state": states.to_pandas(),
                "path": path,
            }
        )

    def _write(
        self, draft: _Draft, counts: Published, choice: Choice, fingerprint: str
    ) -> Published:
        """Write the chosen rows, and the remaining rows of the parts that held older ones."""
        stem = f"c{draft.seq:08d}-{uuid.uuid4().hex}"
        writer = PartWriter(self._store, fingerprint, stem, self._part_bytes)
        for rows in self._load(choice.taken):
            tables = to_tables(rows, draft.committed_at)
            writer.add(tables)
            counts = _counted(counts, tables)
            if fingerprint == self._run.fingerprint:
                draft.ids.append(tables["recordings"]["recording_id"])
        for path, old in choice.taken[choice.taken["path"] != ""].groupby("path"):
            ids = pa.array(old["recording_id"].unique(), pa.string())
            writer.add(without(read_part(self._store, self._state, str(path)), ids))
            for table, file in part_files(self._state, str(path)):
                draft.removed[table].append(file.path)
        for table, files in writer.finish().items():
            draft.added[table].extend(files)
        used = [self._bundles[key] for key in choice.taken["bundle"].unique()]
        draft.runs.update(bundle.run for bundle in used if bundle is not None)
        return counts

    def _load(self, taken: "pd.DataFrame") -> Iterator[pa.Table]:
        """Whole recordings with the columns of their run, about one part at a time."""
        row_bytes = taken["bundle"].map(
            {key: bundle.row_bytes for key, bundle in self._bundles.items() if bundle is not None}
        )
        taken = taken.assign(share=row_bytes.cumsum() // self._part_bytes)
        # Windows of one recording may be in distant bundles; all get the share of the first one.
        share = taken.groupby("attempt")["share"].transform("first")
        for _, some in taken.groupby(share):
            with ThreadPoolExecutor(N_READERS) as pool:
                parts = pool.map(self._load_rows, *zip(*some.groupby("bundle")["row"], strict=True))
                yield pa.concat_tables(parts)

    def _load_rows(self, key: str, rows: "pd.Series[int]") -> pa.Table:
        found = read_bundle(self._store, key)
        if found is None:
            raise StoreError(
                f"{self._store.uri(key)}: was readable before and is damaged now; run again"
            )
        run, table = found
        table = table.take(pa.array(rows))
        for name in ("model", "model_hash", "fingerprint", "run_id"):
            column = pa.repeat(pa.scalar(getattr(run, name)), table.num_rows)
            table = table.append_column(name, column)
        return table


def _counted(counts: Published, tables: Tables) -> Published:
    recordings = tables["recordings"]
    n_errors = recordings.filter(pc.equal(recordings["status"], pa.scalar("error"))).num_rows
    return replace(
        counts,
        n_recordings=counts.n_recordings + recordings.num_rows,
        n_errors=counts.n_errors + n_errors,
        n_segments=counts.n_segments + tables["transcripts"].num_rows,
        audio_s=counts.audio_s + (pc.sum(recordings["duration_s"]).as_py() or 0.0),
    )


def _joined(frames: "list[pd.DataFrame]") -> "pd.DataFrame":
    import pandas as pd  # takes 2 s, which --help and refusals do not need

    return pd.concat(frames, ignore_index=True)
