"""Labels of other settings in an output, and which settings differ."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.runs.other_labels import (
    differences,
    explain_differences,
    explain_other_labels,
    find_other_labels,
    label_settings,
    run_settings,
)
from pipeline.storage.store import Store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from pipeline.tables.run_records import RunInfo, RunRecord, save_run
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, window

CONFIG = RunConfig(manifest="m.csv", output="out", model="demo", vad="silero")
SAME_MODEL = replace(OTHER_MODEL, model_hash=RUN.model_hash)


def record_of(config: RunConfig, run: RunInfo, run_id: str = "") -> RunRecord:
    return RunRecord(
        run_id or run.run_id, run.fingerprint, run.vad, 1, 0, 1.0, 1.0, {}, run_settings(config)
    )


def publish_with(store: Store, run: RunInfo, *recording_ids: str) -> None:
    write_bundle(store, run, bundle(*map(window, recording_ids)))
    publish(store, run)


def changed(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(CONFIG.model_dump() | sections)


def test_an_empty_output_holds_no_other_labels(store: Store) -> None:
    assert find_other_labels(store, CONFIG, RUN) == []


def test_labels_of_the_same_settings_are_no_other_labels(store: Store) -> None:
    publish_with(store, RUN, "a")
    publish_with(store, OTHER_MODEL, "a")
    assert find_other_labels(store, CONFIG, RUN) == []


def test_other_labels_name_their_count_and_what_differs(store: Store) -> None:
    publish_with(store, RUN, "a", "b")
    save_run(store, record_of(CONFIG, RUN))
    config = changed(label={"language": "en"}, segment={"merge_length_s": 9.0})
    (other,) = find_other_labels(store, config, SAME_MODEL)
    assert (other.fingerprint, other.n_recordings, other.is_default) == (RUN.fingerprint, 2, True)
    assert other.differing == {
        "label.language": ("auto", "en"),
        "segment.merge_length_s": (15.0, 9.0),
    }
    text = explain_other_labels([other], OTHER_MODEL)
    assert "2 recordings under f1f1f1f1f1f1 (the default of readers, " in text
    assert "label.language: auto -> en" in text


def test_the_newest_run_of_a_fingerprint_gives_its_settings(store: Store) -> None:
    publish_with(store, RUN, "a")
    save_run(store, record_of(changed(vad="none"), RUN, "20260102T000000-b"))
    save_run(store, record_of(CONFIG, RUN, "20260101T000000-a"))
    (other,) = find_other_labels(store, CONFIG, SAME_MODEL)
    assert other.differing == {"vad": ("none", "silero")}


def test_settings_that_were_not_recorded_are_said_to_be_so(store: Store) -> None:
    publish_with(store, RUN, "a")
    (other,) = find_other_labels(store, CONFIG, OTHER_MODEL)
    assert other.differing is None
    assert "settings not recorded" in explain_other_labels([other], OTHER_MODEL)


def test_only_settings_that_change_labels_are_compared() -> None:
    config = changed(ray={"label_workers": 4}, label={"batch_s": 20.0, "compile": True})
    assert not differences(
        label_settings(run_settings(CONFIG)), label_settings(run_settings(config))
    )


def test_the_precision_is_compared_as_the_device_decides_it() -> None:
    old, new = (
        label_settings(run_settings(config)) for config in (CONFIG, changed(ray={"num_gpus": 1}))
    )
    assert explain_differences(differences(old, new)) == "label.precision: fp32 -> bf16"


def test_the_address_of_a_model_counts_only_if_its_files_differ(store: Store) -> None:
    publish_with(store, RUN, "a")
    save_run(store, record_of(CONFIG, RUN))
    moved = CONFIG.model_copy(update={"model": "/elsewhere/demo"})
    (same,) = find_other_labels(store, moved, SAME_MODEL)
    (other,) = find_other_labels(store, CONFIG, OTHER_MODEL)
    assert same.differing == {}
    assert other.differing == {"model files": ("m0m0m0m0m0m0", "m1m1m1m1m1m1")}


@pytest.mark.parametrize("lost", ["label", "segment"])
def test_a_key_that_an_older_record_lacks_has_its_default(lost: str) -> None:
    settings = run_settings(CONFIG)
    older = {name: value for name, value in settings.items() if name != lost}
    assert label_settings(older) == label_settings(settings)


def test_a_dry_run_and_a_plan_say_it(tmp_path: Path) -> None:
    """The same function gives the text of label, its --dry-run, and plan."""
    for job in ("label", "plan"):
        source = (Path(__file__).parents[2] / "jobs" / f"{job}.py").read_text()
        assert "explain_other_labels(" in source
