"""Planned rows in legs: the same rows, in order, some at a time."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import AudioConfig
from pipeline.manifest.read import read_manifest
from pipeline.planning import ledger_index, legs
from pipeline.planning.ledger_index import count_missing, find_missing
from pipeline.planning.legs import Legs
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.survey import survey_todo
from pipeline.schema import PLANNED
from tests.planning.test_plan import NOTHING, committed


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    rows = [f"gone-{number}.wav,v,{number}\n" for number in range(100)]
    (tmp_path / "list.csv").write_text("audio,audio_version,audio_bytes\n" + "".join(rows))
    return make_plan(read_manifest(str(tmp_path / "list.csv"), {}), NOTHING, "f", {})


def small(monkeypatch: pytest.MonkeyPatch, leg_rows: int, packed_rows: int) -> None:
    monkeypatch.setattr(legs, "LEG_ROWS", leg_rows)
    monkeypatch.setattr(legs, "_PACKED_ROWS", packed_rows)


def test_legs_hold_all_rows_in_order(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 25, 10)
    packed = Legs.of(plan.todo.slice(start, 5) for start in range(0, 100, 5))
    assert [leg.num_rows for leg in packed] == [20] * 5
    assert packed.n_rows == 100
    assert packed.table.equals(plan.todo)
    assert plan.todo.schema.equals(PLANNED)


def test_a_table_larger_than_a_leg_is_a_leg(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 25, 10)
    assert [leg.num_rows for leg in Legs.of([plan.todo, plan.todo.slice(0, 3)])] == [100, 3]


def test_no_rows_are_no_legs() -> None:
    empty = Legs.of([PLANNED.empty_table()])
    assert (list(empty), empty.n_rows) == ([], 0)
    assert empty.table.schema.equals(PLANNED)


def test_missing_rows_are_found_leg_by_leg(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 25, 10)
    monkeypatch.setattr(ledger_index, "_BATCH_ROWS", 7)
    ledger = committed(plan).filter(pa.array([number % 4 != 0 for number in range(100)]))
    parts = [ledger.slice(start, 11) for start in range(0, ledger.num_rows, 11)]
    packed = Legs.of(plan.todo.slice(start, 10) for start in range(0, 100, 10))
    missing = [find_missing(leg, parts) for leg in packed]
    assert [table.num_rows for table in missing] == [5] * 5
    assert pa.concat_tables(missing)["bytes"].to_pylist() == list(range(0, 100, 4))
    assert count_missing(packed, parts) == 25
    assert count_missing(packed, []) == 100


def test_a_sample_of_legs_is_that_of_the_whole(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, 25, 10)
    packed = Legs.of(plan.todo.slice(start, 10) for start in range(0, 100, 10))
    options: dict[str, Any] = {"n_sampled": 17, "seed": 3}
    whole = survey_todo(plan.todo, AudioConfig(), {}, **options)
    assert survey_todo(packed, AudioConfig(), {}, **options) == whole
    assert whole.n_sampled == 17


def test_a_plan_says_what_its_listing_left_out(tmp_path: Path) -> None:
    for name in ("a.wav", "b.txt"):
        (tmp_path / name).write_bytes(b"x")
    plan = make_plan(read_manifest(str(tmp_path), {}), NOTHING, "f", {})
    assert plan.n_todo == 1
    left_out = "left out 1 files that do not have the name of audio: .txt 1"
    assert plan.notes == [f"{tmp_path}: {left_out}"]
