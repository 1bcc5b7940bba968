"""Tasks for Label Studio, and what its annotators said, back as reviews.

An annotation is made as Label Studio documents it: a copy of the prediction's results, some of them
changed (https://labelstud.io/guide/task_format.html).
"""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import evaluate, reviews
from pipeline.errors import ConfigError
from pipeline.export.label_studio_reviews import Imported, import_reviews
from pipeline.export.reviewed import Reviewed
from pipeline.export.write import export
from pipeline.maintenance.verify import verify
from pipeline.storage.store import open_store
from pipeline.tables import connect
from pipeline.tables.reviews import Interval, history, save
from tests.support.bundle_rows import RUN
from tests.support.explored import NAMES, review, write_output

Task = dict[str, Any]
ANN = Interval("ann", "v1", 0.0, 2.5)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_output(tmp_path_factory.mktemp("labelled")))


@pytest.fixture
def root(labelled: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(labelled, tmp_path / "labels"))


def tasks_of(root: str, folder: Path, reviewed: Reviewed = "ignore", **options: Any) -> list[Task]:
    """The exported tasks of the first model, with the numbers that Label Studio gives them."""
    export(
        *(root, folder, "label-studio"),
        fingerprint=RUN.fingerprint,
        reviewed=reviewed,
        **options,
    )
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    return [
        {"id": number, "project": 7, "annotations": [], **task} for number, task in enumerate(tasks)
    ]


def annotate(
    task: Task, *, key: str = "a1", at: str = "2026-11-27T10:00:00.5Z", **changes: Any
) -> list[dict[str, Any]]:
    """Add an annotation with the prediction's results; returns these, to be changed."""
    results: list[dict[str, Any]] = deepcopy(task["predictions"][0]["result"])
    task["annotations"].append(
        {
            "id": len(task["annotations"]) + 1,
            "unique_id": f"{key}-{task['id']}",
            "completed_by": {"id": 1, "email": "eva@example.org"},
            "result": results,
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": at,
            "updated_at": at,
            "lead_time": 8.0,
        }
        | changes
    )
    return results


def value_of(results: list[dict[str, Any]], name: str, region: str = "000000") -> dict[str, Any]:
    values: list[dict[str, Any]] = [
        one["value"] for one in results if (one["from_name"], one["id"]) == (name, region)
    ]
    assert len(values) == 1
    return values[0]


def import_tasks(root: str, folder: Path, tasks: list[Task]) -> Imported:
    path = folder / "project-7.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return import_reviews(root, path)


def test_a_task_is_a_recording_and_its_segments_are_regions(root: str, tmp_path: Path) -> None:
    tasks = tasks_of(root, tmp_path / "x")
    assert [task["data"]["recording_id"] for task in tasks] == sorted(NAMES)
    first = tasks[0]
    address = first["data"]["audio"]
    assert address.startswith("/data/local-files/?d=")
    assert address.endswith("/audio/0.wav")
    assert "=/" not in address  # relative to Label Studio's document root
    assert first["data"]["extra"] == {"corpus": "made up"}
    (prediction,) = first["predictions"]
    assert prediction["model_version"] == RUN.fingerprint[:8]
    results = prediction["result"]
    assert value_of(results, "segment") == {
        **{"start": 0.0, "end": 2.5, "channel": 0},
        "labels": ["segment"],
    }
    assert value_of(results, "text", "000001")["text"] == ["two words here"]
    assert value_of(results, "language")["choices"] == ["en"]
    assert value_of(results, "events")["choices"] == ["speech", "laughter"]


def test_the_labelling_configuration_has_every_control_and_value(root: str, tmp_path: Path) -> None:
    results = tasks_of(root, tmp_path / "x")[0]["predictions"][0]["result"]
    view = ET.fromstring((tmp_path / "x" / "labeling_config.xml").read_text(encoding="utf-8"))
    controls = {one.get("name"): one for one in view.iter() if one.get("toName") == "audio"}
    for result in results:
        control = controls[result["from_name"]]
        assert control.tag.lower() == result["type"]
        known = {one.get("value") for one in control}
        assert result["type"] == "textarea" or known >= {*result["value"][result["type"]]}


def test_a_correction_becomes_a_review_that_evaluate_uses(root: str, tmp_path: Path) -> None:
    tasks = tasks_of(root, tmp_path / "x", draw=6)
    results = annotate(tasks[0])
    value_of(results, "text")["text"] = ["two better words"]
    value_of(results, "emotion")["choices"] = ["happy"]
    results[0]["meta"] = {"text": ["noisy"]}
    done = import_tasks(root, tmp_path, tasks)
    assert (done.n_saved, done.n_present, done.problems, done.n_without) == (2, 0, [], 2)
    rows = connect(root, fingerprint=RUN.fingerprint).sql(
        "SELECT segment_id, verdict, text, emotion, note, reviewer, sample, spent_s "
        "FROM segment_reviews ORDER BY 1"
    )
    rest = ("eva@example.org", "random", 4.0)
    assert rows.fetchall() == [
        ("ann-000000", "fixed", "two better words", "happy", "noisy", *rest),
        ("ann-000001", "right", "two words here", "unknown", "", *rest),
    ]
    options = ["--references", "reviews", "--fingerprint", RUN.fingerprint, "--json"]
    scored = CliRunner().invoke(evaluate.app, [root, *options])
    found = json.loads(scored.stdout)
    assert (found["n_recordings"], found["mixed"]["n_units"]) == (2, 6)
    assert found["mixed"]["substitutions"] + found["mixed"]["insertions"] > 0
    assert verify(open_store(root)).problems == []


def test_importing_twice_changes_nothing(root: str, tmp_path: Path) -> None:
    tasks = tasks_of(root, tmp_path / "x")
    value_of(annotate(tasks[0]), "text")["text"] = ["other"]
    import_tasks(root, tmp_path, tasks)
    before = sorted(path for path in Path(root).rglob("*") if path.is_file())
    done = import_tasks(root, tmp_path, tasks)
    assert (done.n_saved, done.n_present, done.problems) == (0, 2, [])
    assert sorted(path for path in Path(root).rglob("*") if path.is_file()) == before


def test_an_annotation_that_was_changed_is_the_next_revision(root: str, tmp_path: Path) -> None:
    tasks = tasks_of(root, tmp_path / "x")
    value_of(annotate(tasks[0]), "text")["text"] = ["first"]
    import_tasks(root, tmp_path, tasks)
    old = deepcopy(tasks)
    tasks[0]["annotations"][0]["updated_at"] = "2026-11-28T10:00:00Z"
    value_of(tasks[0]["annotations"][0]["result"], "text")["text"] = ["second"]
    assert import_tasks(root, tmp_path, tasks).n_saved == 1
    assert import_tasks(root, tmp_path, old).n_saved == 0  # an older export goes back to nothing
    found = history(open_store(root), ANN)
    assert [one.labels.text for one in found] == ["first", "second"]


def test_of_two_annotators_the_second_has_a_conflict_unless_they_agree(
    root: str, tmp_path: Path
) -> None:
    tasks = tasks_of(root, tmp_path / "x")
    annotate(tasks[0])
    other = annotate(tasks[0], key="a2", at="2026-11-27T11:00:00Z", completed_by=2)
    value_of(other, "text")["text"] = ["another's"]
    done = import_tasks(root, tmp_path, tasks)
    assert (done.n_saved, done.n_present, done.counts()) == (2, 1, {"conflict": 1})
    assert done.problems[0].segment == "ann-000000"


def test_a_review_that_the_annotator_did_not_see_is_not_replaced(root: str, tmp_path: Path) -> None:
    store = open_store(root)
    save(store, review("ann", 0, "of the explorer"))
    unseen = tasks_of(root, tmp_path / "x")
    value_of(annotate(unseen[0]), "text")["text"] = ["blind"]
    done = import_tasks(root, tmp_path, unseen)
    assert done.counts() == {"conflict": 1}
    seen = tasks_of(root, tmp_path / "y", "prefer")
    results = annotate(seen[0])
    assert value_of(results, "text")["text"] == ["of the explorer"]
    value_of(results, "text")["text"] = ["better"]
    assert import_tasks(root, tmp_path, seen).problems == []
    assert [one.labels.text for one in history(store, ANN)] == ["of the explorer", "better"]


def remove(results: list[dict[str, Any]]) -> None:
    results[:] = [one for one in results if one["id"] != "000000"]


def move(results: list[dict[str, Any]]) -> None:
    for one in results:
        one["value"]["end"] += 1.5 * (one["id"] == "000000")


def draw_anew(results: list[dict[str, Any]]) -> None:
    value = {"start": 7.0, "end": 8.0, "channel": 0, "labels": ["segment"]}
    results.append({"id": "Xy_1", "from_name": "segment", "type": "labels", "value": value})


def mislabel(results: list[dict[str, Any]]) -> None:
    value_of(results, "language")["choices"] = ["fr"]


def add_control(results: list[dict[str, Any]]) -> None:
    results.append({"id": "000000", "from_name": "speaker", "type": "choices", "value": {}})


@pytest.mark.parametrize(
    ("change", "reason", "n_saved"),
    [
        (remove, "deleted", 1),
        (move, "moved", 1),
        (draw_anew, "unknown segment", 2),
        (mislabel, "bad label", 1),
        (add_control, "bad label", 2),
    ],
)
def test_what_does_not_become_a_review_is_told(
    root: str,
    tmp_path: Path,
    change: Callable[[list[dict[str, Any]]], None],
    reason: str,
    n_saved: int,
) -> None:
    tasks = tasks_of(root, tmp_path / "x")
    change(annotate(tasks[0]))
    done = import_tasks(root, tmp_path, tasks)
    assert (done.counts(), done.n_saved) == ({reason: 1}, n_saved)


def test_a_task_of_other_tables_is_told(root: str, tmp_path: Path) -> None:
    foreign, relabelled, changed = tasks_of(root, tmp_path / "x")
    foreign["data"] = {"audio": "x.wav"}
    relabelled["data"]["fingerprint"] = "0" * 32
    changed["data"]["version"] = "v0"
    for task in (foreign, relabelled, changed):
        annotate(task)
    done = import_tasks(root, tmp_path, [foreign, relabelled, changed])
    assert (done.n_saved, done.counts()) == (0, {"unknown task": 3})


def test_a_region_that_was_drawn_again_is_found_by_its_time(root: str, tmp_path: Path) -> None:
    tasks = tasks_of(root, tmp_path / "x")
    for one in annotate(tasks[0]):
        one["id"] = f"new{one['id']}"
        one["value"]["start"] += 0.1
    done = import_tasks(root, tmp_path, tasks)
    assert (done.n_saved, done.problems) == (2, [])


def test_a_segment_that_was_not_drawn_counts_as_not_drawn(root: str, tmp_path: Path) -> None:
    (task,) = tasks_of(root, tmp_path / "x", draw=1)
    (drawn,) = task["data"]["segments"]
    results = annotate(task)
    start_s = 4.0 if drawn == "000000" else 0.0
    value = {"start": start_s, "end": start_s + 2.5, "channel": 0, "labels": ["segment"]}
    results.append({"id": "Xy_1", "from_name": "segment", "type": "labels", "value": value})
    assert import_tasks(root, tmp_path, [task]).n_saved == 2
    rows = connect(root).sql("SELECT segment_id, sample FROM reviews").fetchall()
    assert {(name[-6:], sample) for name, sample in rows} == {
        (drawn, "random"),
        ("000001" if drawn == "000000" else "000000", ""),
    }


def test_unusable_and_skipped_are_what_the_annotator_said(root: str, tmp_path: Path) -> None:
    tasks = tasks_of(root, tmp_path / "x")
    value = {"start": 0.0, "end": 2.5, "channel": 0, "choices": ["unusable"]}
    results = annotate(tasks[0])
    results.append({"id": "000000", "from_name": "verdict", "type": "choices", "value": value})
    annotate(tasks[1], was_cancelled=True)
    done = import_tasks(root, tmp_path, tasks)
    assert (done.n_saved, done.n_cancelled, done.problems) == (2, 1, [])
    assert history(open_store(root), ANN)[0].verdict == "unusable"


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '[{"id": 1, "audio": "x"}]', '[{"annotations": [{}], "data": [1]}]'],
)
def test_a_file_that_is_no_export_is_refused(root: str, tmp_path: Path, text: str) -> None:
    path = tmp_path / "export.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"export\.json"):
        import_reviews(root, path)


def test_the_command_tells_what_it_did_and_what_it_did_not(root: str, tmp_path: Path) -> None:
    tasks = tasks_of(root, tmp_path / "x")
    mislabel(annotate(tasks[0]))
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    done = CliRunner().invoke(reviews.app, ["import", root, str(path)])
    assert done.exit_code == 3
    assert "1 reviews saved, 0 were there; 3 tasks, 2 without an annotation" in done.stdout
    assert "bad label: 1, not saved" in done.stderr
    assert "task 0 ann-000000: language: 'fr' is none of zh" in done.stderr
    told = CliRunner().invoke(reviews.app, ["import", root, str(path), "--json"])
    assert json.loads(told.stdout)["counts"] == {"bad label": 1}


def test_what_was_drawn_is_the_same_each_time_and_part_of_a_larger_draw(
    root: str, tmp_path: Path
) -> None:
    def drawn(n: int, folder: str, **options: Any) -> tuple[set[tuple[str, str]], set[str]]:
        tasks = tasks_of(root, tmp_path / folder, draw=n, **options)
        data = [task["data"] for task in tasks]
        ids = {(one["recording_id"], name) for one in data for name in one["segments"]}
        return ids, {one["sample"] for one in data}

    two, sample = drawn(2, "a")
    assert (len(two), sample) == (2, {"random"})
    assert drawn(2, "b")[0] == two < drawn(4, "c")[0]
    assert drawn(2, "d", where="confidence > 0")[1] == {""}  # a condition chooses
