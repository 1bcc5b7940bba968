"""Before and after the labelling of a run: bundles that are adopted, models that become current.

No Ray: everything that would be labelled is there already, or the worker pool labels nothing.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import RunConfig
from pipeline.runs.execute import plan_run, prepare
from pipeline.runs.progress import DefaultLabels
from pipeline.stages.error_rows import error_row
from pipeline.storage.store import open_store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import OTHER_MODEL, bundle, window
from tests.support.demo import demo_config, execute


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Three recordings whose files do not exist."""
    lines = "".join(f"{name}.wav,v1\n" for name in "abc")
    (tmp_path / "list.csv").write_text(f"audio,audio_version\n{lines}")
    return demo_config(tmp_path / "out", f"manifest={tmp_path / 'list.csv'}", "vad=none")


def leave_bundles(config: RunConfig, n_recordings: int) -> None:
    """What a run that died before its commit leaves: a bundle for each of its recordings."""
    store, run = prepare(config)
    for planned in plan_run(config, run).todo.to_pylist(maps_as_pydicts="strict")[:n_recordings]:
        write_bundle(store, run, error_row(planned, "decode", "FileMissing", "gone"))


def test_a_run_adopts_what_another_one_finished_and_did_not_commit(config: RunConfig) -> None:
    leave_bundles(config, 3)
    outcome = execute(config)
    assert (outcome.n_adopted, outcome.n_unfinished, outcome.plan.todo.num_rows) == (3, 0, 0)
    assert (outcome.plan.n_done, outcome.progress.n_recordings) == (3, 0)
    snapshot = open_snapshot(config.output)
    assert snapshot.read("recordings")["error_type"].to_pylist() == ["FileMissing"] * 3
    assert outcome.progress.seq == snapshot.seq == 1
    assert execute(config).n_adopted == 0


@pytest.fixture
def idle_workers(monkeypatch: pytest.MonkeyPatch) -> list[pa.Table]:
    """Workers that lose all recordings; yields the plans that they were given."""
    given: list[pa.Table] = []

    def lose(todo: pa.Table, *_: Any, **__: Any) -> Iterator[Any]:
        given.append(todo)
        yield from ()

    monkeypatch.setattr("pipeline.flow.session.ray_session", lambda _: nullcontext())
    monkeypatch.setattr("pipeline.flow.chain.label", lose)
    monkeypatch.setattr("pipeline.flow.alone.label_alone", lose)
    return given


def publish_other_model(config: RunConfig, *recording_ids: str) -> None:
    store = open_store(config.output)
    write_bundle(store, OTHER_MODEL, bundle(*map(window, recording_ids)))
    publish(store, OTHER_MODEL, make_current=True)


def test_a_new_model_is_current_once_all_of_the_corpus_is_labelled(
    config: RunConfig, idle_workers: list[pa.Table]
) -> None:
    publish_other_model(config, str(Path(config.manifest).parent / "a.wav"))
    leave_bundles(config, 2)
    outcome = execute(config)
    assert (outcome.n_adopted, outcome.n_unfinished) == (2, 1)
    assert [len(todo) for todo in idle_workers] == [1, 1]  # through the flow, then alone
    assert open_snapshot(config.output).fingerprint == OTHER_MODEL.fingerprint

    leave_bundles(config, 1)
    outcome = execute(config)
    assert (outcome.n_adopted, outcome.n_unfinished) == (1, 0)
    assert open_snapshot(config.output).fingerprint == outcome.run.fingerprint
    assert open_snapshot(config.output).read("recordings").num_rows == 3
    assert len(idle_workers) == 2


def test_a_small_run_does_not_hide_the_labels_of_a_larger_one(
    config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pipeline")
    publish_other_model(config, "x", "y")
    leave_bundles(config, 3)
    outcome = execute(config)
    assert outcome.n_unfinished == 0
    assert open_snapshot(config.output).fingerprint == OTHER_MODEL.fingerprint
    own = outcome.run.fingerprint
    assert outcome.default == DefaultLabels(OTHER_MODEL.fingerprint, 2, n_uncovered=2, n_of_run=3)
    assert f"python -m jobs promote {config.output} {own[:12]}" in caplog.text
    assert "2 recordings under fingerprint e2e2e2e2e2e2; 2 of them are not" in caplog.text


def test_a_run_says_before_it_starts_that_other_labels_are_there(
    config: RunConfig, idle_workers: list[pa.Table], caplog: pytest.LogCaptureFixture
) -> None:
    publish_other_model(config, "x", "y")
    execute(config)
    (text,) = (text for text in caplog.messages if "labels of other settings" in text)
    assert "2 recordings under e2e2e2e2e2e2 (the default of readers, settings not" in text
