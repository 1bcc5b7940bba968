"""What must be true of the rows of one part. Pure: tables in, descriptions of problems out.

A part holds the same recordings in all tables. So all checks can be done a part at a time, except
that a recording must be in one part only.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.arrow import pc
from pipeline.schema import LOGGED_TABLES
from pipeline.tables.bundles import BALANCE_S
from pipeline.tables.parts import Tables

_EDGE_S = 0.001  # times are compared to the millisecond
_OF_SEGMENTS = ("languages", "emotions")
_KEYS = ["recording_id", "segment_id", "start_s", "end_s"]
_PROBABILITIES = {
    "transcripts": "confidence",
    "languages": "probability",
    "emotions": "probability",
    "events": "probability",
}

# The columns that the checks use; others need not be kept in memory.
CHECKED = {
    "transcripts": [*_KEYS, "confidence"],
    "languages": [*_KEYS, "probability"],
    "emotions": [*_KEYS, "probability"],
    "events": [*_KEYS, "probability"],
    "measures": ["recording_id", "version"],
    "quality": _KEYS,
    "recordings": [
        "recording_id",
        "version",
        "offset_s",
        "status",
        "error_stage",
        "duration_s",
        "labelled_s",
        "silence_s",
        "failed_s",
        "n_segments",
        "fingerprint",
    ],
}


def wrong_schema(table: str, schema: pa.Schema) -> Iterator[str]:
    """Columns that differ from schema.TABLES; a nullable column may be absent, or have no nulls."""
    expected = LOGGED_TABLES[table]
    for field in expected:
        if field.name not in schema.names:
            if not field.nullable:
                yield f"column {field.name} is missing"
        elif not _is_as(schema.field(field.name), field):
            yield f"column {field.name} is {schema.field(field.name)}, not {field}"
    for name in schema.names:
        if name not in expected.names:
            yield f"column {name} is unknown"


def _is_as(found: "pa.Field[Any]", expected: "pa.Field[Any]") -> bool:
    """Older programs wrote fewer nullable fields, and allowed no nulls where they are now."""
    return _is_type(found.type, expected.type) and (expected.nullable or not found.nullable)


def _is_type(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(expected) and pa.types.is_list(found):
        return _is_type(found.value_type, expected.value_type)
    if not (pa.types.is_struct(expected) and pa.types.is_struct(found)):
        return bool(found == expected)
    theirs = {field.name: field for field in found}
    return theirs.keys() <= {field.name for field in expected} and all(
        _is_as(theirs[field.name], field) if field.name in theirs else field.nullable
        for field in expected
    )


def wrong_rows(tables: Tables, fingerprint: str) -> Iterator[str]:
    """Problems among the rows of a part, each with the first recording or segment that has it.

    `tables` need only have the columns CHECKED.
    """
    recordings, transcripts = tables["recordings"], tables["transcripts"]
    for table, rows in tables.items():
        ids = rows["recording_id"].to_numpy(zero_copy_only=False)
        yield from _report(ids, ids[:-1] > ids[1:], f"{table} are not sorted by recording_id")
    yield from _wrong_recordings(recordings, fingerprint)
    known = np.asarray(
        pc.index_in(transcripts["recording_id"], _combined(recordings["recording_id"]))
    )
    yield from _wrong_segments(recordings, transcripts, known)
    for table in _OF_SEGMENTS:
        if not tables[table].select(_KEYS).equals(transcripts.select(_KEYS)):
            yield f"{table} and transcripts differ in {_first_difference(tables, table)}"
    yield from _wrong_measures(tables["measures"], tables["quality"], recordings, transcripts)
    yield from _wrong_events(tables["events"], transcripts, recordings)
    for table, column in _PROBABILITIES.items():
        values = tables[table][column].to_numpy()
        bad = ~((values >= 0) & (values <= 1 + 1e-4)) & np.asarray(tables[table][column].is_valid())
        yield from _report(_ids(tables[table]), bad, f"{table}.{column} is not a probability")


def _wrong_recordings(recordings: pa.Table, fingerprint: str) -> Iterator[str]:
    ids = recordings["recording_id"].to_numpy(zero_copy_only=False)
    yield from _report(ids, ids[:-1] == ids[1:], "a recording has two rows")
    column = {
        name: recordings[name].to_numpy(zero_copy_only=False) for name in CHECKED["recordings"]
    }
    spent_s = column["labelled_s"] + column["silence_s"] + column["failed_s"]
    unbalanced = ~(np.abs(spent_s - column["duration_s"]) < BALANCE_S)
    yield from _report(ids, unbalanced, "labelled_s + silence_s + failed_s is not duration_s")
    negative = np.zeros(len(ids), bool)
    for name in ("duration_s", "labelled_s", "silence_s", "failed_s"):
        negative |= ~(column[name] >= -BALANCE_S)
    yield from _report(ids, negative, "seconds are negative or not a number")
    is_error = column["error_stage"] != ""
    agrees = np.where(is_error, "error", "ok") == column["status"]
    yield from _report(ids, ~agrees, "status and error_stage do not agree")
    foreign = column["fingerprint"] != fingerprint
    yield from _report(ids, foreign, "the fingerprint of a row is not the one of its file")


def _wrong_segments(
    recordings: pa.Table, transcripts: pa.Table, owner: NDArray[Any]
) -> Iterator[str]:
    """`owner` is the row of each segment's recording in `recordings`; NaN: it has none."""
    segment_ids = _ids(transcripts)
    is_known = ~np.isnan(owner.astype(float))
    yield from _report(segment_ids, ~is_known, "a segment belongs to no recording")
    counts = np.bincount(owner[is_known].astype(int), minlength=recordings.num_rows)
    miscounted = counts != recordings["n_segments"].to_numpy()
    yield from _report(
        recordings["recording_id"].to_numpy(zero_copy_only=False),
        miscounted,
        "n_segments is not the number of segments",
    )
    ids = transcripts["recording_id"].to_numpy(zero_copy_only=False)
    is_first = np.append(True, ids[1:] != ids[:-1])[: len(ids)]
    run = np.cumsum(is_first) - 1
    index = np.arange(len(ids)) - np.flatnonzero(is_first)[run] if len(ids) else np.arange(0)
    digits = pc.utf8_lpad(pa.array(index).cast(pa.string()), 6, "0")
    expected = pc.binary_join_element_wise(_combined(transcripts["recording_id"]), digits, "-")
    misnamed = ~np.asarray(pc.equal(_combined(transcripts["segment_id"]), expected))
    yield from _report(segment_ids, misnamed, "segment_ids are not numbered in order, each once")
    start_s = transcripts["start_s"].to_numpy()
    late = ~is_first[1:] & ~(start_s[1:] >= start_s[:-1])
    yield from _report(segment_ids[1:], late, "segments are not in time order")
    yield from _outside(transcripts, recordings, "a segment")


def _wrong_measures(
    measures: pa.Table, quality: pa.Table, recordings: pa.Table, transcripts: pa.Table
) -> Iterator[str]:
    """Both tables may lack any recording; what is there must belong to one."""
    ids = measures["recording_id"].to_numpy(zero_copy_only=False)
    yield from _report(ids[1:], ids[1:] == ids[:-1], "a recording has two rows in measures")
    place = pc.index_in(measures["recording_id"], _combined(recordings["recording_id"]))
    versions = _combined(recordings["version"]).take(place)
    is_same = pc.fill_null(pc.equal(versions, _combined(measures["version"])), False)
    yield from _report(ids, ~np.asarray(is_same), "measures are of no recording, or of other audio")
    place = pc.index_in(quality["segment_id"], _combined(transcripts["segment_id"]))
    is_same = np.ones(quality.num_rows, bool)
    for name in _KEYS:
        there = _combined(transcripts[name]).take(place)
        is_same &= np.asarray(pc.fill_null(pc.equal(there, _combined(quality[name])), False))
    ids = _ids(quality)
    yield from _report(ids, ~is_same, "a row of quality is of no segment")
    yield from _report(ids[1:], ids[1:] == ids[:-1], "a segment has two rows in quality")


def _wrong_events(events: pa.Table, transcripts: pa.Table, recordings: pa.Table) -> Iterator[str]:
    place = pc.index_in(events["segment_id"], _combined(transcripts["segment_id"]))
    yield from _report(_ids(events), np.asarray(place.is_null()), "an event has no segment")
    owner = _combined(transcripts["recording_id"]).take(place)
    moved = np.asarray(pc.fill_null(pc.not_equal(owner, events["recording_id"]), False))
    yield from _report(_ids(events), moved, "an event's segment is of another recording")
    yield from _outside(events, recordings, "an event")


def _outside(rows: pa.Table, recordings: pa.Table, what: str) -> Iterator[str]:
    """Rows that end before they start, or lie outside their recording."""
    place = pc.index_in(rows["recording_id"], _combined(recordings["recording_id"]))
    from_s = np.asarray(recordings["offset_s"].take(place), float)
    to_s = from_s + np.asarray(recordings["duration_s"].take(place), float)
    start_s, end_s = rows["start_s"].to_numpy(), rows["end_s"].to_numpy()
    is_inside = (
        (start_s >= from_s - _EDGE_S) & (end_s <= to_s + _EDGE_S) & (start_s <= end_s + _EDGE_S)
    )
    is_owned = np.asarray(place.is_valid())
    yield from _report(_ids(rows), is_owned & ~is_inside, f"{what} lies outside its recording")


def _first_difference(tables: Tables, table: str) -> str:
    here, there = (
        {tuple(row.values()) for row in tables[name].select(_KEYS).to_pylist()}
        for name in (table, "transcripts")
    )
    different = sorted(here ^ there, key=str)
    if not different:
        return "the order or the number of rows"
    return f"{len(different)} rows, first {different[0][1]!r}"


def _ids(rows: pa.Table) -> NDArray[Any]:
    ids: NDArray[Any] = rows["segment_id"].to_numpy(zero_copy_only=False)
    return ids


def _combined(column: Any) -> Any:
    return column.combine_chunks()


def _report(ids: NDArray[Any], is_bad: Any, sentence: str) -> Iterator[str]:
    """The sentence with the number of bad rows and the first of their ids, if there are any."""
    places = np.flatnonzero(is_bad)
    if len(places):
        yield f"{sentence}: {len(places)} of {len(ids)}, first {ids[places[0]]!r}"
