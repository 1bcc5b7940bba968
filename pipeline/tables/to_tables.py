"""Bundle rows to table rows. Knows the columns of both; knows nothing of files or commits.

All work is on columns: a corpus has a hundred times more segments than recordings, and a Python
loop over them would take longer than the minute between two commits.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from pipeline.arrow import Integers, pc
from pipeline.schema import MEASURE_FIELDS, QUALITY_FIELDS, TABLES
from pipeline.storage.address import MEMBER

# table -> column of the table -> field of schema.LABELLED_SEGMENT
_FROM_SEGMENT: Mapping[str, Mapping[str, str]] = {
    "transcripts": {
        name: name
        for name in (
            *("text", "rich_text", "language", "confidence", "n_tokens", "words", "itn"),
            *("confidence_frames", "confidence_min"),
        )
    },
    "languages": {
        "language": "language",
        "probability": "language_probability",
        "runner_up": "language_runner_up",
        "runner_up_probability": "language_runner_up_probability",
        "probabilities": "language_probabilities",
        "entropy": "language_entropy",
    },
    "emotions": {
        "emotion": "emotion",
        "probability": "emotion_probability",
        "runner_up": "emotion_runner_up",
        "runner_up_probability": "emotion_runner_up_probability",
        "probabilities": "emotion_probabilities",
        "entropy": "emotion_entropy",
        "emotion_forced": "emotion_forced",
    },
}

_NESTED = ("segments", "measures", "quality")


def to_tables(rows: pa.Table, committed_at: datetime) -> dict[str, pa.Table]:
    """All tables of whole recordings, ordered by recording_id and time.

    `rows` have schema.BUNDLE plus model, model_hash, fingerprint and run_id. They hold every window
    of every recording once, in any order.
    """
    rows = rows.sort_by([("recording_id", "ascending"), ("window_index", "ascending")])
    rows = rows.combine_chunks()
    recording_ids = rows["recording_id"].to_numpy()
    is_first = np.append(True, recording_ids[1:] != recording_ids[:-1])[: rows.num_rows]
    firsts = np.flatnonzero(is_first)
    owners = np.cumsum(is_first) - 1  # index of each row's recording in `firsts`
    return {
        "recordings": _recordings(rows, firsts, owners, committed_at),
        "measures": _measures(rows),
        **_segment_tables(rows, owners),
    }


def _recordings(
    rows: pa.Table, firsts: Integers, owners: Integers, committed_at: datetime
) -> pa.Table:
    columns: dict[str, Any] = {
        name: rows[name].take(firsts) for name in rows.column_names if name not in _NESTED
    }
    n_segments = pc.list_value_length(rows["segments"]).to_numpy()
    for name in ("duration_s", "labelled_s", "silence_s", "failed_s"):
        columns[name] = np.add.reduceat(rows[name].to_numpy(), firsts) if len(firsts) else []
    gap_s = rows["gap_s"].to_numpy()  # of the recording so far: the last window has all of it
    columns["gap_s"] = np.maximum.reduceat(gap_s, firsts) if len(firsts) else []
    columns["n_segments"] = np.add.reduceat(n_segments, firsts) if len(firsts) else []

    failed = np.flatnonzero(_has_text(rows["error_stage"]).to_numpy())
    failed_owners, first_failure = np.unique(owners[failed], return_index=True)
    # The row that gives each recording its error columns: its first failed window.
    error_rows = firsts.copy()
    error_rows[failed_owners] = failed[first_failure]
    for name in ("error_stage", "error_type", "error_message"):
        columns[name] = rows[name].take(error_rows)
    columns["status"] = np.where(np.isin(np.arange(len(firsts)), failed_owners), "error", "ok")
    columns["member"] = _members(columns["uri"])
    columns["channel"], columns["n_streams"] = _streams(rows, owners, len(firsts))
    columns["warning"] = _joined_warnings(rows, owners, len(firsts))
    columns["committed_at"] = pa.repeat(
        pa.scalar(committed_at, pa.timestamp("us", "UTC")), len(firsts)
    )
    return _table("recordings", columns)


def _streams(rows: pa.Table, owners: Integers, n_recordings: int) -> tuple[Any, Any]:
    """Of each recording the only channel that was labelled, or null, and the number of streams.

    A window of all channels, among windows of single ones, is one in which all had one signal.
    """
    pairs = pa.table({"owner": owners, "channel": rows["channel"]})
    single = pairs.filter(pc.greater(pairs["channel"], pa.scalar(0, pa.int32())))
    counted = single.group_by("owner", use_threads=False).aggregate(
        [("channel", "count_distinct"), ("channel", "min")]
    )
    place = pc.index_in(pa.array(np.arange(n_recordings)), counted["owner"].combine_chunks())
    n_single = counted["channel_count_distinct"].combine_chunks().take(place).fill_null(0)
    n_streams = pc.max_element_wise(n_single, pa.scalar(1, pa.int64())).cast(pa.int32())
    first = counted["channel_min"].combine_chunks().take(place)
    return pc.if_else(pc.equal(n_single, pa.scalar(1, pa.int64())), first, None), n_streams


def _measures(rows: pa.Table) -> pa.Table:
    """What was measured of each recording, from its last window; nothing of some recordings."""
    measured = rows["measures"].combine_chunks()
    places = pc.list_parent_indices(measured)
    columns = {name: rows[name].take(places) for name in ("recording_id", "version")}
    return _table("measures", columns | _known(measured, MEASURE_FIELDS))


def _known(
    nested: "pa.ListArray[Any]", fields: Sequence[tuple[str, pa.DataType]]
) -> dict[str, Any]:
    """The fields of a list of structs, one value each; NaN and "" become null."""
    flat = pc.list_flatten(nested)
    columns = {}
    for name, kind in fields:
        values = pc.struct_field(flat, name)
        is_known = _has_text(values) if kind == pa.string() else pc.is_finite(values)
        columns[name] = pc.if_else(is_known, values, pa.scalar(None, kind))
    return columns


def _members(uris: Any) -> Any:
    """The names of recordings in their archives; null for files."""
    names = pc.struct_field(pc.extract_regex(uris, MEMBER).combine_chunks(), "name")
    if names.null_count == len(names):
        return names
    return pa.array(
        [name and unquote(name, errors="replace") for name in names.to_pylist()], pa.string()
    )


def _joined_warnings(rows: pa.Table, owners: Integers, n_recordings: int) -> "pa.Array[Any]":
    """The distinct warnings of each recording's windows, joined by "; "."""
    warned = _has_text(rows["warning"])
    pairs = rows.select(["warning"]).append_column("owner", pa.array(owners)).filter(warned)
    # With one thread, groups and lists keep the order of the rows.
    distinct = pairs.group_by(["owner", "warning"], use_threads=False).aggregate([])
    lists = distinct.group_by("owner", use_threads=False).aggregate([("warning", "list")])
    joined: Any = pc.binary_join(lists["warning_list"].combine_chunks(), "; ")
    places = pc.index_in(pa.array(np.arange(n_recordings)), lists["owner"].combine_chunks())
    warnings: pa.Array[Any] = joined.take(places).fill_null("")
    return warnings


def _segment_tables(rows: pa.Table, owners: Integers) -> dict[str, pa.Table]:
    nested = rows["segments"].combine_chunks()
    parents = pc.list_parent_indices(nested).to_numpy()
    segments = pc.list_flatten(nested)
    starts_s = pc.struct_field(segments, "start_s").to_numpy()
    in_time_order = np.lexsort((starts_s, owners[parents]))
    segments = segments.take(pa.array(in_time_order, pa.int64()))
    parents = parents[in_time_order]
    owner = owners[parents]
    index = np.arange(len(owner)) - np.searchsorted(owner, owner)  # from 0 in each recording
    recording_id = rows["recording_id"].combine_chunks().take(pa.array(parents))
    digits = pc.utf8_lpad(pa.array(index).cast(pa.string()), 6, "0")
    keys = {
        "recording_id": recording_id,
        "segment_id": pc.binary_join_element_wise(recording_id, digits, "-"),
        "start_s": pc.struct_field(segments, "start_s"),
        "end_s": pc.struct_field(segments, "end_s"),
        "channel": _or_null(rows["channel"].combine_chunks().take(pa.array(parents))),
    }
    tables = {
        table: _table(
            table, keys | {to: pc.struct_field(segments, of) for to, of in fields.items()}
        )
        for table, fields in _FROM_SEGMENT.items()
    }
    tables["transcripts"] = _without_empty_confidence(tables["transcripts"])
    tables["quality"] = _quality(rows, in_time_order, keys)
    return {**tables, "events": _events(pc.struct_field(segments, "events"), keys)}


def _quality(
    rows: pa.Table, in_time_order: Integers, keys: Mapping[str, "pa.Array[Any]"]
) -> pa.Table:
    """What was measured of each segment; a row of a bundle has it of all segments, or of none."""
    nested = rows["quality"].combine_chunks()
    n_measured = pc.fill_null(pc.list_value_length(nested), 0).to_numpy()
    n_segments = pc.list_value_length(rows["segments"]).to_numpy()
    is_measured = np.repeat(n_measured > 0, n_segments)  # of each segment, as in the bundle
    place = (np.cumsum(is_measured) - 1)[in_time_order]  # among those that were measured
    kept = pa.array(is_measured[in_time_order])
    places = pa.array(place[is_measured[in_time_order]])
    columns = {name: pc.filter(values, kept) for name, values in keys.items()}
    measured = _known(nested, QUALITY_FIELDS)
    return _table("quality", columns | {name: measured[name].take(places) for name in measured})


def _without_empty_confidence(rows: pa.Table) -> pa.Table:
    """A segment without text has no confidence: 0 would count in every mean."""
    is_text = pc.and_(
        _has_text(rows["text"]), pc.greater(rows["n_tokens"], pa.scalar(0, pa.int32()))
    )
    for name in ("confidence", "confidence_frames", "confidence_min"):
        told = pc.if_else(is_text, rows[name], pa.scalar(None, pa.float32()))
        place = rows.column_names.index(name)
        rows = rows.set_column(place, rows.schema.field(place), told)
    return rows


def _or_null(channels: Any) -> Any:
    return pc.if_else(pc.greater(channels, pa.scalar(0, pa.int32())), channels, None)


def _events(nested: "pa.ListArray[Any]", keys: Mapping[str, "pa.Array[Any]"]) -> pa.Table:
    events = pc.list_flatten(nested)
    parents = pc.list_parent_indices(nested)
    columns = {name: keys[name].take(parents) for name in ("recording_id", "segment_id", "channel")}
    names = ("start_s", "end_s", "event", "probability", "source")
    return _table("events", columns | {name: pc.struct_field(events, name) for name in names})


def _table(name: str, columns: Mapping[str, Any]) -> pa.Table:
    schema = TABLES[name]
    return pa.table({field: columns[field] for field in schema.names}, schema=schema)


def _has_text(column: Any) -> Any:
    return pc.not_equal(column, pa.scalar(""))  # a scalar imports pandas: none at the top
