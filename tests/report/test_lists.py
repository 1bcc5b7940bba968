"""The rows of a card: the sample, the lists for review, the groups, and what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Refused
from pipeline.report.attention import find_problems
from pipeline.report.figures import Figures, measure_snapshot
from pipeline.report.queries import take_in_turn
from pipeline.storage.store import open_store
from pipeline.tables import connect
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.figures import LARGE


def labelled(root: Path, *rows: dict[str, Any]) -> str:
    store = open_store(str(root))
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    return str(root)


def figures_of(root: Path, *rows: dict[str, Any], by: list[str] | None = None) -> Figures:
    with connect(labelled(root, *rows)) as connection:
        return measure_snapshot(connection, by)


def with_labels(recording_id: str, *labels: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A recording with one segment for each of `labels`."""
    row = window(recording_id, n_segments=len(labels)) | fields
    for segment, each in zip(row["segments"], labels, strict=True):
        segment.update(each)
    return row


def ids_of(figures: Figures, title: str) -> list[str]:
    lists = {each.title: each for each in figures.reviews}
    return [row.segment_id for row in lists[title].rows] if title in lists else []


# ---------------------------------------------------------------------------- segments


def test_the_least_confident_texts_come_first(tmp_path: Path) -> None:
    labels = [{"confidence": 0.9}, {"confidence": 0.2}, {"confidence": 0.0, "n_tokens": 0}]
    figures = figures_of(tmp_path, with_labels("a", *labels))
    assert ids_of(figures, "Lowest confidence") == ["a-000001", "a-000000"]


def test_the_nearest_second_language_and_emotion_come_first(tmp_path: Path) -> None:
    sure = {"emotion": "happy", "emotion_probability": 0.9, "emotion_runner_up_probability": 0.0}
    near = {"emotion": "sad", "emotion_probability": 0.5, "emotion_runner_up_probability": 0.4}
    two = {"language_probability": 0.5, "language_runner_up_probability": 0.45}
    figures = figures_of(tmp_path, with_labels("a", sure, near | two, {}))
    assert ids_of(figures, "Two likely languages")[0] == "a-000001"
    assert ids_of(figures, "Two likely emotions") == ["a-000001", "a-000000"]
    assert ids_of(figures, "EMO_UNKNOWN") == ["a-000002"]


def test_a_listed_segment_has_its_labels_and_probabilities(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, with_labels("a", {"text": "x" * 999, "language": "zh"}))
    (row,) = figures.sample.rows
    assert (row.recording_id, row.uri, row.end_s - row.start_s) == ("a", "/audio/a.wav", 2.5)
    assert len(row.text) == 300
    assert (row.language, row.language_runner_up, row.emotion_runner_up) == ("zh", "zh", "happy")
    assert row.confidence == pytest.approx(0.9)
    assert (list(row.events), row.script, row.script_fits) == (
        *(["laughter", "speech"], "latin", False),
    )


def test_a_segment_without_text_has_no_confidence(tmp_path: Path) -> None:
    figures = figures_of(tmp_path, with_labels("a", {"n_tokens": 0, "text": "", "confidence": 0.0}))
    assert [row.confidence for row in figures.sample.rows] == [None]


def test_lists_are_short_however_many_segments_there_are(tmp_path: Path) -> None:
    rows = [window(f"r{i}", n_segments=2, warning="odd") for i in range(40)]
    figures = figures_of(tmp_path, *rows)
    assert len(figures.sample.rows) == 12
    assert {len(each.rows) for each in figures.reviews} == {8}
    assert len(figures.warned) == 8


def test_a_rare_language_is_in_the_sample(tmp_path: Path) -> None:
    rows = [window(f"r{i}", n_segments=2) for i in range(40)]
    figures = figures_of(tmp_path, *rows, with_labels("rare", {"language": "ko"}))
    assert "rare-000000" in [row.segment_id for row in figures.sample.rows]


def test_items_are_taken_from_each_group_in_turn() -> None:
    assert take_in_turn([["a", "b", "c"], [], ["x"]], 3) == ["a", "x", "b"]


# ------------------------------------------------------------------------------ groups


def speakers(folder: str = "/audio") -> list[dict[str, Any]]:
    return [
        window(f"r{i}", error="NotAudio" if i == 5 else "", n_segments=0 if i == 5 else 2)
        | {"uri": f"{folder}/{'xyz'[i % 3]}/deep/r{i}.wav", "extra": [("speaker", "ab"[i % 2])]}
        for i in range(6)
    ]


def test_a_column_with_few_values_is_broken_down_by_default(tmp_path: Path) -> None:
    by = {each.by: each for each in figures_of(tmp_path, *speakers()).breakdowns}
    assert list(by) == ["speaker", "prefix:1"]
    b, a = sorted(by["speaker"].groups, key=lambda group: group.value, reverse=True)
    assert (a.value, a.n_recordings, a.n_errors, a.n_segments, a.n_unknown) == ("a", 3, 0, 6, 6)
    assert (b.value, b.n_recordings, b.n_errors, b.n_segments, b.audio_s) == ("b", 3, 1, 4, 30.0)
    assert a.language == "en"
    assert a.confidence == pytest.approx(0.9)


@pytest.mark.parametrize("folder", ["/audio", "s3://bucket/it's"])
def test_folders_are_counted_below_the_one_that_all_share(tmp_path: Path, folder: str) -> None:
    figures = figures_of(tmp_path, *speakers(folder), by=["prefix:1", "prefix:2", "prefix:9"])
    values = [sorted(group.value for group in each.groups) for each in figures.breakdowns]
    assert values == [["x", "y", "z"], *[["x/deep", "y/deep", "z/deep"]] * 2]


def test_an_unknown_column_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"--by agent: .* speaker; or prefix:1"):
        figures_of(tmp_path, *speakers(), by=["agent"])


def test_the_name_of_a_column_is_no_sql(tmp_path: Path) -> None:
    name = "it's; DROP VIEW recordings"
    row = window("a") | {"extra": [(name, "1")]}
    (breakdown,) = figures_of(tmp_path, row, by=[name]).breakdowns
    assert [group.value for group in breakdown.groups] == ["1"]


def test_only_the_largest_groups_are_kept(tmp_path: Path) -> None:
    rows = [window(f"r{i}") | {"extra": [("id", str(i))]} for i in range(40)]
    (breakdown,) = figures_of(tmp_path, *rows, by=["id"]).breakdowns
    assert len(breakdown.groups) == 12
    assert 30 < breakdown.n_groups < 50


# ---------------------------------------------------------------------------- problems


def test_what_is_wrong_is_named_worst_first() -> None:
    assert [(each.tone, each.section) for each in find_problems(LARGE)] == [
        *(("bad", "errors"), ("bad", "review"), ("warn", "review")),
    ]
    assert find_problems(LARGE)[0].text.startswith(
        "3,127 of 1,284,503 recordings (0.2 %) failed, 14.4 h of audio lost: Truncated 1,990"
    )


def test_a_snapshot_without_problems_has_none(tmp_path: Path) -> None:
    assert find_problems(figures_of(tmp_path, window("a"))) == []
