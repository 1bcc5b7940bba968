"""The evaluation job on the demo corpus: what it tells, what it refuses, and its gates."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs import evaluate
from pipeline.evaluation.gates import METRICS
from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from pipeline.tables.reviews import save
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, window
from tests.support.demo import demo_config, execute
from tests.support.explored import review, write_output


def run(*arguments: str) -> Result:
    return CliRunner().invoke(evaluate.app, list(arguments))


def scores(root: str, *arguments: str) -> dict[str, Any]:
    done = run(root, "--json", *arguments)
    assert done.exit_code in (0, 3), done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two models, three recordings: `b` failed under both; the second errs once less."""
    store = open_store(str(tmp_path_factory.mktemp("evaluate") / "labels"))
    for run_info, said in ((RUN, "one too three"), (OTHER_MODEL, "one two three")):
        rows = [window(name, n_segments=1) for name in "ac"] + [
            window("b", error="NotAudio", n_segments=0)
        ]
        for row, text in zip(rows, (said, "four five", ""), strict=True):
            row["extra"] = [
                ("ref_text", "one two three" if row["recording_id"] == "a" else "four five")
            ]
            row["extra"] += [("ref_emotion", "sad"), ("ref_language", "en"), ("corpus", "x")]
            for segment in row["segments"]:
                segment["text"] = text
        write_bundle(store, run_info, bundle(*rows))
        publish(store, run_info)
    return store.root


def test_a_failed_recording_counts_as_deleted_words(root: str) -> None:
    found = scores(root)
    assert found["mixed"]["n_units"] == 7
    assert (found["mixed"]["substitutions"], found["mixed"]["deletions"]) == (1, 2)
    assert found["metrics"]["wer"] == pytest.approx(3 / 7)
    assert (found["n_recordings"], found["n_failed"], found["n_missing"]) == (3, 1, 0)
    assert found["language"]["n_abstained"] == 1


def test_a_reference_without_a_recording_counts_as_deleted_words(root: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"id": "a", "text": "one two three"}, {"id": "elsewhere", "text": "six words"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = scores(root, "--references", str(path))
    assert (found["n_missing"], found["n_recordings_without_reference"]) == (1, 2)
    assert found["mixed"]["deletions"] == 2
    shown = run(root, "--references", str(path)).stdout
    assert "1 references have no recording in the tables" in shown
    assert "2 recordings have no reference" in shown


def test_references_of_more_than_was_labelled_are_left_out_on_request(
    root: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"id": "a", "text": "one two three"}, {"id": "elsewhere", "text": "six words"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    options = ("--references", str(path), "--ignore-missing")
    found = scores(root, *options)
    assert (found["n_missing"], found["n_references_ignored"]) == (0, 1)
    assert found["mixed"]["deletions"] == 0
    assert (
        "1 references have no recording in the tables and were left out"
        in run(root, *options).stdout
    )


def test_gates_decide_the_exit_code(root: str) -> None:
    assert run(root, "--max", "wer=0.5").exit_code == 0
    assert run(root, "--max", "wer=0.2").exit_code == 3
    missing = run(root, "--max", "event_error=0.5")
    assert missing.exit_code == 3
    assert "not measured" in missing.stdout
    gate = scores(root, "--max", "wer=0.2")["gates"][0]
    assert gate["is_met"] is False


def test_two_models_are_compared_pair_by_pair(root: str) -> None:
    found = scores(root, "--baseline", OTHER_MODEL.fingerprint)
    assert found["differences"]["mixed_error_rate"]["value"] == pytest.approx(1 / 7)
    assert found["differences"]["wer"]["value"] == pytest.approx(
        found["metrics"]["wer"]
        - scores(root, "--fingerprint", OTHER_MODEL.fingerprint)["metrics"]["wer"]
    )
    arguments = ("--baseline", OTHER_MODEL.fingerprint, "--max-regression")
    assert run(root, *arguments, "0.2").exit_code == 0
    assert run(root, *arguments, "0.1").exit_code == 3
    swapped = ("--fingerprint", OTHER_MODEL.fingerprint, "--baseline", RUN.fingerprint)
    assert run(root, *swapped, "--max-regression", "0.0").exit_code == 0


def test_a_recording_that_one_model_lacks_counts_in_the_difference(tmp_path: Path) -> None:
    """Keys are names of files here, so a missing recording has no recording_id."""
    store = open_store(str(tmp_path / "labels"))
    for run_info, names in ((RUN, "ac"), (OTHER_MODEL, "a")):
        rows = [window(name, n_segments=1) for name in names]
        for row in rows:
            row["uri"] = f"/audio/file_{row['recording_id']}.wav"
            row["segments"][0]["text"] = "one two"
        write_bundle(store, run_info, bundle(*rows))
        publish(store, run_info)
    path = tmp_path / "r.jsonl"
    path.write_text("".join(f'{{"id": "file_{one}.wav", "text": "one two"}}\n' for one in "ac"))
    arguments = ("--fingerprint", OTHER_MODEL.fingerprint, "--baseline", RUN.fingerprint)
    found = scores(store.root, *arguments, "--references", str(path), "--max-regression", "0.01")
    assert found["differences"]["mixed_error_rate"]["value"] == pytest.approx(0.5)
    assert found["gates"][0]["is_met"] is False


def test_a_recording_without_a_segment_has_no_label_and_did_not_fail(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "labels"))
    rows = [window("a", n_segments=0), window("b", n_segments=1)]
    for row in rows:
        row["extra"] = [("ref_language", "en")]
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    shown = run(store.root, "-o", str(tmp_path / "out")).stdout
    assert "1 recordings have no segment, because the VAD found no speech" in shown
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "no label 1" in page
    assert "failed" not in page


def test_groups_are_scored_alone(root: str) -> None:
    found = scores(root, "--by", "language,corpus")
    assert set(found["groups"]) == {"language", "corpus"}
    assert found["groups"]["corpus"]["x"]["n_recordings"] == 3
    assert "colour" in run(root, "--by", "colour").output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--max", "speed=1"], "there is no metric 'speed'"),
        (["--max", "wer"], "write METRIC=NUMBER"),
        (["--max-regression", "0.1"], "needs a --baseline"),
        (["--published", "nothing"], "there are aishell1"),
        (["--references", "/nowhere"], "/nowhere: does not exist"),
    ],
)
def test_what_makes_no_sense_is_refused(root: str, arguments: list[str], complaint: str) -> None:
    done = run(root, *arguments)
    assert done.exit_code == 2
    assert complaint in done.output


def test_spelled_numbers_against_digits_are_refused_with_the_key(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "labels"))
    row = window("a", n_segments=1) | {"extra": [("ref_text", "one two")]}
    row["segments"][0] |= {"text": "12.", "itn": True}
    write_bundle(store, RUN, bundle(row))
    publish(store, RUN)
    done = run(store.root)
    assert done.exit_code == 2
    assert "label.use_itn=false" in done.output


def test_labels_without_any_reference_are_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "labels"))
    write_bundle(store, RUN, bundle(window("a")))
    publish(store, RUN)
    done = run(store.root)
    assert done.exit_code == 2
    assert "name a file with --references" in done.output


def test_the_page_and_the_json_are_written_and_tell_the_same(root: str, tmp_path: Path) -> None:
    done = run(
        root, "-o", str(tmp_path / "out"), "--by", "corpus", "--published", "librispeech-clean"
    )
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "evaluation.html").read_text()
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert told["evaluation_schema"] == 1
    assert f"{100 * told['metrics']['wer']:.1f} %" in page
    assert "<del>two</del><ins>too</ins>" in page
    assert "failed: NotAudio" in page
    assert "LibriSpeech test-clean" in page
    assert "<script" not in page


def test_the_demo_corpus_is_scored(tmp_path: Path, patience: None) -> None:
    """As README says: a VAD hides sounds and cuts speech, so short clips go whole."""
    execute(demo_config(tmp_path, "ray.local=always", "segment.whole_below_s=30"))
    found = scores(str(tmp_path))
    assert found["text_form"] == "written"
    assert found["n_recordings"] == 18  # of the long one, where speech is
    assert found["language"]["n"] == 17
    assert 0.8 < found["speech"]["recall"] < 1.0  # the VAD loses some
    assert found["metrics"] == dict.fromkeys(METRICS, 0.0)  # 12 of 12 texts, 4 of 4 sounds
    assert found["mixed"]["n_recordings"] == 17
    assert sum(one["n"] for name, one in found["events"].items()) == 5  # one is behind speech
    assert set(found["calibration"]) == {"language", "emotion", "event", "confidence"}
    assert all(0 <= one["ece"] <= 1 for one in found["calibration"].values())


def test_reviews_of_segments_drawn_by_chance_are_references(tmp_path: Path) -> None:
    """Two of six segments count: one that was corrected, one that was right."""
    root = write_output(tmp_path)
    store = open_store(root)
    assert run(root, "--references", "reviews").exit_code == 2
    save(store, review("ann", 0, "two better words", sample="random"))
    save(store, review("bob", 0, "three words here", verdict="right", sample="random"))
    save(store, review("ann", 1, "looked doubtful"))
    save(store, review("bob", 1, "x", verdict="unusable", sample="random"))
    found = scores(root, "--references", "reviews")
    assert found["n_recordings"] == 2
    assert found["mixed"]["n_units"] == 6
    assert found["metrics"]["wer"] == pytest.approx(2 / 6)
    assert found["metrics"]["language_error"] == 0.0
    arguments = ("--references", "reviews", "--baseline", OTHER_MODEL.fingerprint)
    assert scores(root, *arguments)["differences"]["mixed_error_rate"]["value"] == 0.0
