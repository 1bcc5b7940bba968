"""Measure the recordings of an output that were labelled without it. Labels nothing.

The audio is decoded again; where the segments are, and their texts, is in the tables. The rows are
added part by part, each part in one commit, beside publishers and readers.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrow import Row
from pipeline.audio.channels import MIXED, Waveform
from pipeline.audio.checks import WITHOUT_LIMITS
from pipeline.audio.meter import N_LEVELS
from pipeline.audio.sources import Source, open_source
from pipeline.audio.streams import Floats
from pipeline.audio.windows import Window, decode_source, hops_of
from pipeline.errors import StoreError
from pipeline.schema import SAMPLE_RATE, TABLES, Segment
from pipeline.stages.quality import measure_segments, measure_text
from pipeline.storage.store import Store
from pipeline.tables import commit_log as commits
from pipeline.tables.commit_log import COMMIT_TRIES, Record, State, new_record
from pipeline.tables.parts import PartWriter, Tables, part_files, read_part

_NO_LIMIT = 1 << 62  # bytes: a part stays one part

Measured = tuple[Row, list[Row]]  # of a recording: its row of `measures`, its rows of `quality`


@dataclass(slots=True)
class Added:
    """What one call of add_measures() did, in recordings."""

    seq: int = 0  # the newest commit now
    n_measured: int = 0
    n_there: int = 0  # measured before
    n_changed: int = 0  # other audio than was labelled: label it again
    n_unreadable: int = 0  # gone, or cannot be decoded now


def add_measures(store: Store, fingerprint: str, options: Mapping[str, Any]) -> Added:
    """Add the rows of `measures` and `quality` that the good recordings of a fingerprint lack.

    Speech is the whole of each segment here: what the VAD found in it is not in the tables. One
    recording is in memory at a time, and its part. Raises StoreError if other writers commit first
    COMMIT_TRIES times in a row.
    """
    known: dict[tuple[str, str], Measured | str] = {}  # so that a lost commit costs no decoding
    done: set[str] = set()
    state, n_lost = State(), 0
    added = Added()
    while n_lost < COMMIT_TRIES:
        state = commits.read_state(store, since=state, whole_log=state.seq == 0)
        paths = [file.path for file in state.table("recordings", fingerprint)]
        path = next((path for path in paths if path not in done), None)
        if path is None:
            added.seq = state.seq
            return _counted(added, known)
        try:
            tables = read_part(store, state, path)
        except FileNotFoundError:  # another writer replaced the part, and a vacuum deleted it
            n_lost += 1
            continue
        rows = _new_rows(tables, options, known)
        if rows:
            record = _record(store, state, path, _with(tables, rows))
            if not commits.write_record(store, record):
                n_lost += 1
                continue
            state = commits.replay(store, state, [record])
            commits.write_derived(store, state)
            done.update(file.path for file in record.added["recordings"])
            added.n_measured += len(rows)
        # The rows of this part are stored; the reasons of others are counted at the end.
        known = {key: one for key, one in known.items() if isinstance(one, str)}
        added.n_there += tables["measures"].num_rows
        n_lost = 0
        done.add(path)
    raise StoreError(
        f"{store.root}: no commit in {COMMIT_TRIES} tries, because other writers were faster"
    )


def _counted(added: Added, known: Mapping[tuple[str, str], Measured | str]) -> Added:
    reasons = [one for one in known.values() if isinstance(one, str)]
    added.n_changed = reasons.count("changed")
    added.n_unreadable = len(reasons) - added.n_changed
    return added


def _new_rows(
    tables: Tables, options: Mapping[str, Any], known: dict[tuple[str, str], Measured | str]
) -> list[Measured]:
    """What the good recordings of a part lack; `known` grows by what is measured here."""
    there = {*tables["measures"]["recording_id"].to_pylist()}
    texts: dict[str, list[Row]] = defaultdict(list)
    for row in tables["transcripts"].to_pylist():
        texts[row["recording_id"]].append(row)
    found = []
    for row in tables["recordings"].to_pylist(maps_as_pydicts="strict"):
        if row["status"] == "error" or row["recording_id"] in there:
            continue
        key = row["recording_id"], row["version"]
        if key not in known:
            known[key] = _measure(row, texts[row["recording_id"]], options)
        one = known[key]
        if not isinstance(one, str):
            found.append(one)
    return found


def _measure(row: Row, texts: list[Row], options: Mapping[str, Any]) -> Measured | str:
    """The rows of a recording, or the reason why there are none."""
    try:
        with open_source(row["uri"], WITHOUT_LIMITS, options) as source:
            if source.version != row["version"]:
                return "changed"
            windows = _decoded(source, row)
    except (Exception, SystemExit) as error:  # whatever a decoder raises, as in a run
        return f"unreadable: {error}"
    measures = windows[-1].measures
    if measures is None:
        return "unreadable: no samples"
    levels = _joined_levels(windows)
    quality: dict[str, Row] = {}
    for channel in {text["channel"] for text in texts}:
        of_channel = [text for text in texts if text["channel"] == channel]
        segments = [
            Segment(text["start_s"] - row["offset_s"], text["end_s"] - row["offset_s"])
            for text in of_channel
        ]
        found = measure_segments(_waveform_of(windows, channel), levels, segments, segments)
        quality |= {text["segment_id"]: one for text, one in zip(of_channel, found, strict=True)}
    keys = ("recording_id", "segment_id", "start_s", "end_s")
    return (
        {"recording_id": row["recording_id"], "version": row["version"], **asdict(measures)},
        [
            {name: text[name] for name in keys} | one | measure_text(text, one["speech_s"])
            for text in texts
            for one in [quality[text["segment_id"]]]
        ],
    )


def _decoded(source: Source, row: Row) -> list[Window]:
    """The windows of a recording, of the channels that were labelled."""
    n_streams = row["n_streams"] or 1
    config = WITHOUT_LIMITS
    if n_streams > 1:
        config = config.model_copy(update={"channels": "split"})
    part = (row["offset_s"], row["duration_s"] / n_streams, row["channel"] or 0)
    return list(decode_source(source, config, *part, measure=True))


def _waveform_of(windows: Sequence[Window], channel: int | None) -> Waveform:
    """The samples of a channel; windows of all channels as one are part of each."""
    wanted = (MIXED, channel)
    return np.concatenate(
        [one.waveform for one in windows if channel is None or one.channel in wanted]
    )


def _joined_levels(windows: Sequence[Window]) -> Floats:
    """The hops of all windows; two neighbours may both have the hop in which they meet."""
    start_s = windows[0].start_s
    _, n_hops = hops_of(windows[-1].start_s - start_s, windows[-1].waveform.size / SAMPLE_RATE)
    joined = np.zeros((n_hops, N_LEVELS), np.float32)
    for window in windows:
        first, _ = hops_of(window.start_s - start_s, 0)
        joined[first : first + len(window.levels)] = window.levels
    return joined


def _with(tables: Tables, rows: list[Measured]) -> Tables:
    """The part with more rows, sorted by recording and time."""
    measures = _table("measures", [one for one, _ in rows])
    quality = _table("quality", [one for _, some in rows for one in some])
    return {
        **tables,
        "measures": pa.concat_tables([tables["measures"], measures]).sort_by("recording_id"),
        "quality": pa.concat_tables([tables["quality"], quality]).sort_by(
            [("recording_id", "ascending"), ("segment_id", "ascending")]
        ),
    }


def _table(name: str, rows: list[Row]) -> pa.Table:
    known = [
        {key: None if value == "" or value != value else value for key, value in row.items()}
        for row in rows
    ]
    return pa.Table.from_pylist(known, schema=TABLES[name])


def _record(store: Store, state: State, path: str, tables: Tables) -> Record:
    seq = state.seq + 1
    fingerprint = state.files["recordings"][path].fingerprint
    stem = f"c{seq:08d}-{uuid.uuid4().hex}"
    writer = PartWriter(store, fingerprint, stem, _NO_LIMIT)
    writer.add(tables)
    return replace(
        new_record(seq, f"quality-{uuid.uuid4().hex[:8]}", datetime.now(UTC)),
        added=writer.finish(),
        removed={table: (file.path,) for table, file in part_files(state, path)},
    )
