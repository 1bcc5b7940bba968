import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import planning
from pipeline.manifest import Manifest, read_manifest
from pipeline.planning import (
    DENIED,
    MISSING,
    Plan,
    count_missing,
    look_up_versions,
    make_plan,
    work_key,
)
from pipeline.schema import PLANNED
from pipeline.storage import StoreError, filesystem_for
from tests.s3_server import S3

LEDGER = pa.schema(
    [
        ("recording_id", pa.string()),
        ("work_key", pa.string()),
        ("attempts", pa.int32()),
        ("status", pa.string()),
        ("error_type", pa.string()),
    ]
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "c.wav"):
        (tmp_path / name).write_bytes(name.encode() * 10)
    (tmp_path / "list.csv").write_text("audio,duration_s\na.wav,2\nb.wav,3\nc.wav,\n")
    return tmp_path


def manifest_of(corpus: Path) -> Manifest:
    return read_manifest(str(corpus / "list.csv"), {})


def plan_for(corpus: Path, ledger: pa.Table, fingerprint: str = "f", **how: Any) -> Plan:
    return make_plan(manifest_of(corpus), ledger, fingerprint, {}, **how)


def committed(plan: Plan, errors: dict[str, str] | None = None) -> pa.Table:
    """The ledger after the plan was carried out; `errors` gives the error_type by file name."""
    kinds = [(errors or {}).get(Path(uri).name, "") for uri in plan.todo["uri"].to_pylist()]
    return pa.table(
        {
            "recording_id": plan.todo["recording_id"],
            "work_key": plan.todo["work_key"],
            "attempts": plan.todo["attempts"],
            "status": ["error" if kind else "ok" for kind in kinds],
            "error_type": kinds,
        },
        schema=LEDGER,
    )


def names(plan: Plan) -> list[str]:
    return [Path(uri).name for uri in plan.todo["uri"].to_pylist()]


NOTHING = LEDGER.empty_table()


def test_at_first_everything_is_to_do(corpus: Path) -> None:
    plan = plan_for(corpus, NOTHING)
    assert plan.todo.schema.equals(PLANNED)
    assert names(plan) == ["a.wav", "b.wav", "c.wav"]
    assert (plan.n_manifest, plan.n_done, plan.bytes, plan.known_s) == (3, 0, 150, 5.0)
    assert set(plan.todo["attempts"].to_pylist()) == {1}
    assert set(plan.todo["supersedes"].to_pylist()) == {""}


def test_what_the_tables_hold_is_not_done_again(corpus: Path) -> None:
    plan = plan_for(corpus, committed(plan_for(corpus, NOTHING)))
    assert (plan.todo.num_rows, plan.n_done, plan.bytes) == (0, 3, 0)
    assert plan.todo.schema.equals(PLANNED)


def test_a_new_fingerprint_means_everything_again(corpus: Path) -> None:
    ledger = committed(plan_for(corpus, NOTHING, "old"))
    assert plan_for(corpus, ledger, "new").todo.num_rows == 3


def test_changed_audio_is_done_again_and_replaces_what_was(corpus: Path) -> None:
    ledger = committed(plan_for(corpus, NOTHING))
    (corpus / "b.wav").write_bytes(b"longer than before, or newer")
    plan = plan_for(corpus, ledger)
    assert names(plan) == ["b.wav"]
    (old,) = (row for row in ledger.to_pylist() if row["recording_id"].endswith("b.wav#t=0,3"))
    assert plan.todo["supersedes"].to_pylist() == [f"{old['work_key']}:1"]
    assert plan.todo["attempts"].to_pylist() == [1]
    assert plan.n_changed == 1


def test_the_same_length_at_another_time_is_a_change(corpus: Path) -> None:
    ledger = committed(plan_for(corpus, NOTHING))
    os.utime(corpus / "a.wav", ns=(1, 1))
    assert names(plan_for(corpus, ledger)) == ["a.wav"]


def test_errors_stay_unless_asked_for(corpus: Path) -> None:
    failures = {"a.wav": "StoreUnavailable", "b.wav": "NotAudio", "c.wav": "RuntimeError"}
    ledger = committed(plan_for(corpus, NOTHING), failures)
    kept = plan_for(corpus, ledger)
    assert (names(kept), kept.n_done, kept.n_errors_kept) == ([], 3, 3)
    again = plan_for(corpus, ledger, retry="errors")
    assert names(again) == ["a.wav", "c.wav"]  # b.wav would fail the same way
    assert (again.n_retried, again.n_errors_kept) == (2, 1)


def test_a_retry_is_the_next_attempt_and_replaces_the_one_before(corpus: Path) -> None:
    first = committed(plan_for(corpus, NOTHING), {"a.wav": "AccessDenied"})
    again = plan_for(corpus, first, retry="errors")
    key = again.todo["work_key"].to_pylist()[0]
    assert again.todo["supersedes"].to_pylist() == [f"{key}:1"]
    assert again.todo["attempts"].to_pylist() == [2]
    assert count_missing(again.todo, first) == 1
    assert count_missing(again.todo, committed(again)) == 0


def test_a_missing_file_is_planned_once_and_again_when_it_appears(corpus: Path) -> None:
    (corpus / "c.wav").unlink()
    plan = plan_for(corpus, NOTHING)
    assert plan.todo["version"].to_pylist()[2] == MISSING
    ledger = committed(plan, {"c.wav": "FileMissing"})
    assert names(plan_for(corpus, ledger)) == []
    (corpus / "c.wav").write_bytes(b"here")
    assert names(plan_for(corpus, ledger)) == ["c.wav"]


def test_labels_outlive_their_file(corpus: Path) -> None:
    ledger = committed(plan_for(corpus, NOTHING))
    (corpus / "c.wav").unlink()
    assert names(plan_for(corpus, ledger)) == []


def test_manifest_errors_go_through_once(corpus: Path) -> None:
    (corpus / "list.csv").write_text("audio,offset_s\na.wav,x\n,\n")
    plan = plan_for(corpus, NOTHING)
    assert plan.todo["error_stage"].to_pylist() == ["manifest"] * 2
    assert (plan.todo["version"].to_pylist(), plan.bytes) == (["", ""], 0)
    assert plan_for(corpus, committed(plan)).todo.num_rows == 0


def test_an_empty_manifest_is_an_empty_plan(corpus: Path) -> None:
    (corpus / "list.csv").write_text("audio\n")
    plan = plan_for(corpus, NOTHING)
    assert plan.todo.schema.equals(PLANNED)
    assert (plan.todo.num_rows, plan.bytes, plan.known_s) == (0, 0, 0.0)


def test_work_keys_tell_apart_what_joins_to_the_same_text() -> None:
    assert work_key("ab", "c") != work_key("a", "bc")
    assert work_key("a", 1.0) == work_key("a", 1.0)
    assert len(work_key("a")) == 32


def test_every_row_has_its_own_work_key(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_ROWS", 2)
    (corpus / "list.csv").write_text("audio,offset_s,language\na.wav,,\na.wav,1,\na.wav,2,en\n")
    keys = plan_for(corpus, NOTHING).todo["work_key"].to_pylist()
    assert len(set(keys)) == 3


def test_an_unknown_scheme_is_left_to_decoding() -> None:
    assert look_up_versions(["gopher://a/b.wav", ""], {}) == [("", 0), ("", 0)]


class _Down(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store that answers nothing but errors; the path says which."""

    protocol = "down"

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        raise PermissionError("403")

    def info(self, path: str, **options: Any) -> Any:
        if "denied" in path:
            raise PermissionError("403")
        raise TimeoutError("timed out")


def test_a_denied_object_has_a_version_of_its_own() -> None:
    fsspec.register_implementation("down", _Down, clobber=True)
    uris = [f"down://denied/{index}" for index in range(30)]
    assert look_up_versions(uris, {}) == [(DENIED, 0)] * 30


def test_no_plan_is_made_while_the_store_does_not_answer() -> None:
    fsspec.register_implementation("down", _Down, clobber=True)
    with pytest.raises(StoreError, match=r"down://a/b\.wav.*timed out"):
        look_up_versions(["down://a/b.wav"], {})


def test_listing_and_asking_give_the_same_version(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    root = s3.new_bucket()
    fs, _ = filesystem_for(root, s3.storage_options)
    keys = ["a b.wav", "é%20+.wav", *(f"{index}.wav" for index in range(20))]
    uris = [f"{root}/dir/{key}" for key in keys]
    for uri in uris:
        fs.pipe(uri, uri.encode())
    uris.append(f"{root}/dir/none.wav")
    listed = look_up_versions(uris, s3.storage_options)
    monkeypatch.setattr(planning, "_LIST_FROM", 1000)
    assert look_up_versions(uris, s3.storage_options) == listed
    assert listed[-1] == (MISSING, 0)
    assert listed[0][1] == len(uris[0].encode())
    assert len({version for version, _ in listed}) == len(uris)


def test_a_bucket_name_that_cannot_be_is_no_reason_to_stop(s3: S3) -> None:
    assert look_up_versions(["s3://No Bucket!/a.wav"], s3.storage_options) == [("", 0)]


def test_many_objects_of_a_directory_cost_one_listing(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = s3.new_bucket()
    fs, _ = filesystem_for(root, s3.storage_options)
    uris = [f"{root}/{index}.wav" for index in range(25)]
    for uri in uris:
        fs.pipe(uri, b"x")

    def refuse(*_: Any) -> Any:
        raise AssertionError("asked for a single object")

    monkeypatch.setattr(planning, "_ask", refuse)
    assert all(version for version, _ in look_up_versions(uris, s3.storage_options))
