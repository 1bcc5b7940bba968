"""Which recordings are planned again: attempts, missing files, web hosts that do not answer."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.arrow import replace_columns
from pipeline.config import RunConfig
from pipeline.manifest.read import read_manifest
from pipeline.planning.ledger_index import find_missing
from pipeline.planning.plan import Plan, make_plan
from pipeline.storage.http_guard import OPTION as PRIVATE_HOSTS
from pipeline.storage.versions import MISSING, UNREACHABLE
from tests.planning.test_plan import NOTHING, committed, names

AWAY = "http://127.0.0.1:9/a.wav"  # the discard port: refused at once


def plan_of(folder: Path, lines: str, ledger: pa.Table = NOTHING, **how: Any) -> Plan:
    (folder / "list.csv").write_text(lines)
    manifest = read_manifest(str(folder / "list.csv"), {}, allow_http=True)
    return make_plan(manifest, ledger, "f", {PRIVATE_HOSTS: True}, **how)


def with_attempts(ledger: pa.Table, attempts: int) -> pa.Table:
    return replace_columns(ledger, attempts=pa.array([attempts] * ledger.num_rows, pa.int32()))


# ------------------------------------------------------------------------- attempts


@pytest.mark.parametrize(("attempts", "n_todo"), [(1, 1), (2, 1), (3, 0), (4, 0)])
def test_a_recording_is_tried_max_attempts_times(
    tmp_path: Path, attempts: int, n_todo: int
) -> None:
    lines = "audio,audio_version\na.wav,v1\n"
    failed = committed(plan_of(tmp_path, lines), {"a.wav": "AccessDenied"})
    again = plan_of(
        tmp_path, lines, with_attempts(failed, attempts), retry="errors", max_attempts=3
    )
    assert (again.todo.num_rows, again.n_retried) == (n_todo, n_todo)
    assert (again.n_done, again.n_errors_kept) == (1 - n_todo, 1 - n_todo)
    assert again.todo["attempts"].to_pylist() == [attempts + 1] * n_todo


def test_a_recording_is_tried_three_times_by_default() -> None:
    assert RunConfig(manifest="m", output="o").max_attempts == 3


def test_new_audio_starts_at_its_first_attempt_again(tmp_path: Path) -> None:
    lines = "audio,audio_version\na.wav,{}\n"
    failed = committed(plan_of(tmp_path, lines.format("v1")), {"a.wav": "AccessDenied"})
    again = plan_of(tmp_path, lines.format("v2"), with_attempts(failed, 3))
    key = failed["work_key"].to_pylist()[0]
    assert again.todo["supersedes"].to_pylist() == [f"{key}:3"]
    assert again.todo["attempts"].to_pylist() == [1]
    assert (again.n_changed, again.n_retried) == (1, 0)


def test_an_attempt_that_is_not_the_planned_one_is_still_missing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "audio,audio_version\na.wav,v1\n")
    done = committed(plan)
    assert find_missing(plan.todo, done).num_rows == 0
    assert find_missing(plan.todo, with_attempts(done, 2)).num_rows == 1
    assert find_missing(plan.todo, NOTHING).num_rows == 1


# ----------------------------------------------------------------------- lost files


def test_a_failed_recording_whose_file_is_missing_is_planned_again(tmp_path: Path) -> None:
    """Its row then has the error_type FileMissing instead of NotAudio."""
    lines = "audio,audio_version\na.wav,v1\n"
    failed = committed(plan_of(tmp_path, lines), {"a.wav": "NotAudio"})
    again = plan_of(tmp_path, "audio\na.wav\n", failed)
    assert again.todo["version"].to_pylist() == [MISSING]
    assert again.todo["attempts"].to_pylist() == [1]
    assert (again.n_changed, again.n_done, again.n_errors_kept) == (1, 0, 0)


def test_labels_are_kept_while_a_web_host_does_not_answer(tmp_path: Path) -> None:
    ledger = committed(plan_of(tmp_path, f"audio,audio_version\n{AWAY},v1\n"))
    plan = plan_of(tmp_path, f"audio\n{AWAY}\n", ledger)
    assert (plan.todo.num_rows, plan.n_done, plan.n_errors_kept) == (0, 1, 0)
    assert plan.n_changed == 0


def test_without_labels_it_is_planned_if_its_host_does_not_answer(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, f"audio\n{AWAY}\n")
    assert plan.todo["version"].to_pylist() == [UNREACHABLE]
    failed = committed(plan, {"a.wav": "StoreUnavailable"})
    assert plan_of(tmp_path, f"audio\n{AWAY}\n", failed).todo.num_rows == 0
    again = plan_of(tmp_path, f"audio\n{AWAY}\n", failed, retry="errors")
    assert again.todo["attempts"].to_pylist() == [2]


# -------------------------------------------------------------------------- figures


def test_a_plan_counts_what_is_done_and_what_is_to_do(tmp_path: Path) -> None:
    lines = "audio,audio_version,audio_bytes,duration_s\n" + "".join(
        f"{name}.wav,{version},{size},{size / 10}\n"
        for name, version, size in (("a", "v1", 100), ("b", "v1", 20), ("c", "{c}", 3))
    )
    ledger = committed(plan_of(tmp_path, lines.format(c="v1")), {"b.wav": "NotAudio"})
    plan = plan_of(tmp_path, lines.format(c="v2") + "d.wav,v1,4000,5\nd.wav,v1,4000,5\n", ledger)
    assert names(plan) == ["c.wav", "d.wav"]
    assert (plan.n_manifest, plan.n_duplicates) == (4, 1)
    assert (plan.n_done, plan.n_errors_kept, plan.n_changed, plan.n_retried) == (2, 1, 1, 0)
    assert plan.bytes == 4003
    assert plan.known_s == pytest.approx(5.3)
