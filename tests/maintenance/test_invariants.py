"""Faults in the rows of a part, in memory, that the checks of verify() must find."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from pipeline.arrow import replace_columns
from pipeline.maintenance.invariants import wrong_rows
from pipeline.tables.to_tables import to_tables
from tests.support.bundle_rows import RUN, bundle, window

Changes = dict[str, dict[str, list[Any]]]


def good_tables() -> dict[str, pa.Table]:
    """Recordings a and b of 10 s, half of it labelled, two segments each with two events."""
    rows = bundle(window("a"), window("b"))
    for name in ("model", "model_hash", "fingerprint", "run_id"):
        rows = rows.append_column(name, pa.array([getattr(RUN, name)] * 2))
    return to_tables(rows, datetime.now(UTC))


def problems(changes: Changes) -> list[str]:
    tables = good_tables()
    for table, columns in changes.items():
        for name, values in columns.items():
            kind = tables[table].schema.field(name).type
            column = pa.array(values * (tables[table].num_rows // len(values)), kind)
            tables[table] = replace_columns(tables[table], **{name: column})
    return list(wrong_rows(tables, RUN.fingerprint))


def test_good_rows_have_no_problem() -> None:
    assert problems({}) == []


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("transcripts", "confidence"),
        ("languages", "probability"),
        ("emotions", "probability"),
        ("events", "probability"),
    ],
)
@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan")])
def test_a_probability_lies_between_0_and_1(table: str, column: str, value: float) -> None:
    (text,) = problems({table: {column: [0.5, value]}})
    assert text.startswith(f"{table}.{column} is not a probability")
    assert problems({table: {column: [0.0, 1.0]}}) == []


@pytest.mark.parametrize("name", ["labelled_s", "silence_s", "failed_s"])
def test_seconds_that_add_up_may_not_be_negative(name: str) -> None:
    other = "silence_s" if name != "silence_s" else "labelled_s"
    third = {"labelled_s", "silence_s", "failed_s"} - {name, other}
    columns: dict[str, list[Any]] = {name: [5.0, -1.0], other: [5.0, 11.0], third.pop(): [0.0]}
    (text,) = problems({"recordings": columns})
    assert "negative" in text and "1 of 2, first 'b'" in text


@pytest.mark.parametrize(("off_s", "is_good"), [(0.0004, True), (0.0006, False)])
def test_seconds_add_up_to_half_a_millisecond(off_s: float, is_good: bool) -> None:
    for sign in (1, -1):
        assert is_good == (not problems({"recordings": {"silence_s": [5.0 + sign * off_s]}}))


@pytest.mark.parametrize(("end_s", "is_good"), [(10.0005, True), (10.002, False)])
def test_a_segment_ends_with_its_recording(end_s: float, is_good: bool) -> None:
    changed = {"end_s": [2.5, end_s]}
    found = problems(dict.fromkeys(("transcripts", "languages", "emotions", "quality"), changed))
    assert is_good == (not found)


def test_a_segment_may_have_no_length_but_not_end_before_it_starts() -> None:
    tables = ("transcripts", "languages", "emotions", "quality")
    assert problems({table: {"end_s": [0.0, 4.0]} for table in tables}) == []
    assert problems({table: {"end_s": [2.5, 3.9]} for table in tables})
