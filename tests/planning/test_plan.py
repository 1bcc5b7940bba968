"""What a plan contains: new, changed and retried recordings, and the versions of objects."""

import hashlib
import os
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import StoreError
from pipeline.flow.row_batches import guess_seconds
from pipeline.manifest import files as manifest_files
from pipeline.manifest import rows as manifest_rows
from pipeline.manifest.keys import ledger_states, work_keys
from pipeline.manifest.read import Manifest, read_manifest
from pipeline.planning import ledger_index
from pipeline.planning.ledger_index import LedgerIndex, find_missing
from pipeline.planning.plan import Plan, make_plan
from pipeline.schema import PLANNED
from pipeline.storage import versions
from pipeline.storage.store import filesystem_for
from pipeline.storage.versions import DENIED, MISSING, look_up_versions
from tests.support.s3_server import S3

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
    """The ledger after the plan was done; `errors` has the error_type of files that failed."""
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


def test_the_length_of_a_recording_is_guessed_before_it_is_decoded() -> None:
    todo = pa.table({"length_s": [2.5, 0.0, 0.0], "bytes": [7, 640_000, 0]})
    # The first from its length, the second from its bytes; the third is unknown.
    assert guess_seconds(todo).tolist() == [2.5, 10.0, 10.0]


def test_recordings_in_the_tables_are_not_planned_again(corpus: Path) -> None:
    plan = plan_for(corpus, committed(plan_for(corpus, NOTHING)))
    assert (plan.todo.num_rows, plan.n_done, plan.bytes) == (0, 3, 0)
    assert plan.todo.schema.equals(PLANNED)


def test_with_a_new_fingerprint_all_recordings_are_planned(corpus: Path) -> None:
    ledger = committed(plan_for(corpus, NOTHING, "old"))
    assert plan_for(corpus, ledger, "new").todo.num_rows == 3


def test_changed_audio_is_planned_and_supersedes_the_old_row(corpus: Path) -> None:
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


def test_errors_are_planned_again_only_with_retry_errors(corpus: Path) -> None:
    failures = {"a.wav": "StoreUnavailable", "b.wav": "NotAudio", "c.wav": "RuntimeError"}
    ledger = committed(plan_for(corpus, NOTHING), failures)
    kept = plan_for(corpus, ledger)
    assert (names(kept), kept.n_done, kept.n_errors_kept) == ([], 3, 3)
    again = plan_for(corpus, ledger, retry="errors")
    assert names(again) == ["a.wav", "c.wav"]  # b.wav would fail in the same way
    assert (again.n_retried, again.n_errors_kept) == (2, 1)


def test_a_retry_is_the_next_attempt_and_supersedes_the_last_one(corpus: Path) -> None:
    first = committed(plan_for(corpus, NOTHING), {"a.wav": "AccessDenied"})
    again = plan_for(corpus, first, retry="errors")
    key = again.todo["work_key"].to_pylist()[0]
    assert again.todo["supersedes"].to_pylist() == [f"{key}:1"]
    assert again.todo["attempts"].to_pylist() == [2]
    assert find_missing(again.todo, first).num_rows == 1
    assert find_missing(again.todo, committed(again)).num_rows == 0


def test_a_missing_file_is_planned_once_and_again_when_it_appears(corpus: Path) -> None:
    (corpus / "c.wav").unlink()
    plan = plan_for(corpus, NOTHING)
    assert plan.todo["version"].to_pylist()[2] == MISSING
    ledger = committed(plan, {"c.wav": "FileMissing"})
    assert names(plan_for(corpus, ledger)) == []
    (corpus / "c.wav").write_bytes(b"here")
    assert names(plan_for(corpus, ledger)) == ["c.wav"]


def test_a_labelled_recording_whose_file_is_missing_is_not_planned(corpus: Path) -> None:
    ledger = committed(plan_for(corpus, NOTHING))
    (corpus / "c.wav").unlink()
    assert names(plan_for(corpus, ledger)) == []


def test_manifest_errors_are_planned_once(corpus: Path) -> None:
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


def keyed(**fields: Any) -> str:
    """The work key of one row."""
    row = {"recording_id": "a", "uri": "b", "offset_s": 0.1, "length_s": 0.0, "channel": 0}
    row |= {"language": "", "version": "v"} | fields
    return str(work_keys(pa.Table.from_pylist([row]), "f")[0])


def test_a_work_key_is_the_md5_of_its_parts_with_their_lengths() -> None:
    """Work keys are stored in ledgers: this text, in bytes and microseconds, must not change."""
    text = "3:né1:b100000:0:0:1:vf"
    assert keyed(recording_id="né") == hashlib.md5(text.encode()).hexdigest()


def test_a_ledger_state_is_the_work_key_and_the_number_of_attempts() -> None:
    """Bundles store it in `supersedes`, so it must not change."""
    states = ledger_states(pa.array(["ab", "cd"]), pa.array([1, 12], pa.int32()))
    assert states.to_pylist() == ["ab:1", "cd:12"]


def test_work_keys_differ_if_only_the_joined_text_is_the_same() -> None:
    assert keyed(recording_id="ab", uri="c") != keyed(recording_id="a", uri="bc")


def test_every_row_has_its_own_work_key(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (manifest_files, manifest_rows):
        monkeypatch.setattr(module, "ROWS", 2)
    (corpus / "list.csv").write_text("audio,offset_s,language\na.wav,,\na.wav,1,\na.wav,2,en\n")
    keys = plan_for(corpus, NOTHING).todo["work_key"].to_pylist()
    assert len(set(keys)) == 3


def test_slices_make_the_same_plan_as_the_whole(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = committed(plan_for(corpus, NOTHING), {"b.wav": "AccessDenied"})
    (corpus / "a.wav").write_bytes(b"changed")
    expected = plan_for(corpus, whole, retry="errors")
    for module in (manifest_files, manifest_rows):
        monkeypatch.setattr(module, "ROWS", 2)
    monkeypatch.setattr(ledger_index, "_BATCH_ROWS", 2)
    parts = [whole.slice(row, 1) for row in (2, 0, 1)]
    sliced = make_plan(manifest_of(corpus), parts, "f", {}, retry="errors")
    assert sliced == expected
    assert find_missing(sliced.todo, parts).equals(sliced.todo)


def test_two_ids_whose_hashes_begin_alike_have_their_own_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hash_weakly(texts: Any) -> Any:
        low = np.array([sum(text.encode()) for text in texts.to_pylist()], np.uint64)
        return np.stack([low // np.uint64(100), low], axis=1).reshape(-1, 2)

    monkeypatch.setattr(ledger_index, "hash_texts", hash_weakly)
    ids = [chr(code) for code in range(101, 140)]
    keys = [f"{index:032x}" for index in range(len(ids))]
    table = pa.table({"recording_id": ids, "work_key": keys, "attempts": range(len(ids))})
    table = table.append_column("status", [["ok"] * len(ids)])
    table = table.append_column("error_type", [[""] * len(ids)])
    found = LedgerIndex.build([table]).find(pa.array([*reversed(ids), "ÿ", "z!"]))
    assert found.attempts[: len(ids)].tolist() == list(reversed(range(len(ids))))
    assert found.is_known.tolist() == [True] * len(ids) + [False] * 2


def test_a_version_in_the_manifest_is_used_without_asking_the_store(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "audio,audio_version,audio_bytes\n"
        "gone-1.wav,etag-1,100\ngone-2.wav,etag-2,x\ngone-3.wav,,7\n"
    )
    plan = plan_for(tmp_path, NOTHING)
    assert plan.todo["version"].to_pylist() == ["etag-1", "etag-2", MISSING]
    assert plan.bytes == 100
    text = (tmp_path / "list.csv").read_text()
    (tmp_path / "list.csv").write_text(text.replace("etag-1", "etag-9"))
    assert names(plan_for(tmp_path, committed(plan))) == ["gone-1.wav"]


def test_labels_are_kept_when_their_root_is_not_allowed_any_more(corpus: Path) -> None:
    (corpus / "sub").mkdir()
    (corpus / "sub" / "d.wav").write_bytes(b"d")
    (corpus / "list.csv").write_text("audio\na.wav\nsub/d.wav\n")
    source = str(corpus / "list.csv")
    ledger = committed(make_plan(read_manifest(source, {}), NOTHING, "f", {}))
    narrow = read_manifest(source, {}, [str(corpus / "sub")])
    assert make_plan(narrow, ledger, "f", {}).todo.num_rows == 0
    first = make_plan(narrow, NOTHING, "f", {})
    assert first.todo["error_type"].to_pylist() == ["NotAllowed", ""]
    again = make_plan(read_manifest(source, {}), committed(first, {"a.wav": "NotAllowed"}), "f", {})
    assert names(again) == ["a.wav"]  # now allowed, so it is planned without retry=errors


def test_a_new_signature_does_not_change_a_work_key(tmp_path: Path) -> None:
    uri = "https://user:secret@host/a.wav?id=5&X-Amz-Signature={}"
    keys = []
    for signature in ("abc", "def"):
        line = f"audio,audio_version\n{uri.format(signature)},v\n"
        (tmp_path / "list.csv").write_text(line)
        source = read_manifest(str(tmp_path / "list.csv"), {}, allow_http=True)
        todo = make_plan(source, NOTHING, "f", {}).todo
        assert todo["uri"].to_pylist() == [uri.format(signature)]  # it can be opened
        assert todo["recording_id"].to_pylist() == ["https://host/a.wav?id=5"]
        keys += todo["work_key"].to_pylist()
    assert keys[0] == keys[1]


def test_an_unknown_scheme_has_no_version() -> None:
    assert look_up_versions(["gopher://a/b.wav", ""], {}) == [("", 0), ("", 0)]


class _Down(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store that answers with errors only; the path decides with which."""

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
    monkeypatch.setattr(versions, "_LIST_FROM", 1000)
    assert look_up_versions(uris, s3.storage_options) == listed
    assert listed[-1] == (MISSING, 0)
    assert listed[0][1] == len(uris[0].encode())
    assert len({version for version, _ in listed}) == len(uris)


def test_an_impossible_bucket_name_has_no_version(s3: S3) -> None:
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

    monkeypatch.setattr(versions, "_look_up_one", refuse)
    assert all(version for version, _ in look_up_versions(uris, s3.storage_options))
