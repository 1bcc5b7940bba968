import math
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from jobs import diff
from pipeline.evaluation.compare import Comparison, compare, normalise
from pipeline.storage.store import open_store
from pipeline.tables import open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, window


def labelled_row(
    recording_id: str, *segments: tuple[float, float, str, str, str]
) -> dict[str, Any]:
    """A recording with segments of (start_s, end_s, text, language, emotion)."""
    row = window(recording_id, n_segments=len(segments))
    for segment, (start_s, end_s, text, language, emotion) in zip(
        row["segments"], segments, strict=True
    ):
        segment |= {
            "start_s": start_s,
            "end_s": end_s,
            "text": text,
            "language": language,
            "emotion": emotion,
            "events": [],
        }
    return row


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "root")


def compared(root: str, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> Comparison:
    store = open_store(root)
    for run, rows in ((RUN, a), (OTHER_MODEL, b)):
        write_bundle(store, run, bundle(*rows))
        publish(store, run)
    return compare(
        open_snapshot(root, fingerprint=RUN.fingerprint),
        open_snapshot(root, fingerprint=OTHER_MODEL.fingerprint),
    )


def test_equal_labels_have_no_difference(root: str) -> None:
    result = compared(root, [window("a"), window("b")], [window("a"), window("b")])
    assert (result.total.n_stretches, result.total.n_edits, result.total.cer) == (4, 0, 0.0)
    assert not result.language_flips + result.emotion_flips
    assert (result.n_both, result.n_unmatched_a, result.n_unmatched_b) == (2, 0, 0)


def test_flips_are_counted_by_the_language_of_a(root: str) -> None:
    result = compared(
        root,
        [labelled_row("a", (0, 2, "one", "zh", "happy"), (3, 5, "two", "zh", "sad"))],
        [labelled_row("a", (0, 2, "one", "yue", "happy"), (3, 5, "two", "zh", "angry"))],
    )
    agreement = result.by_language["zh"]
    assert (agreement.n_stretches, agreement.n_language_flips, agreement.n_emotion_flips) == (
        2,
        1,
        1,
    )
    assert result.language_flips == {("zh", "yue"): 1}
    assert result.emotion_flips == {("sad", "angry"): 1}


def test_the_error_rate_is_per_character_of_a(root: str) -> None:
    result = compared(
        root,
        [labelled_row("a", (0, 2, "abcd efgh", "en", "sad"), (3, 5, "你好吗", "zh", "sad"))],
        [labelled_row("a", (0, 2, "abxd-efg", "en", "sad"), (3, 5, "你好马", "zh", "sad"))],
    )
    assert result.by_language["en"].cer == pytest.approx(2 / 8)
    assert result.by_language["zh"].cer == pytest.approx(1 / 3)
    assert result.total.cer == pytest.approx(3 / 11)


@pytest.mark.parametrize("swapped", [False, True])
def test_segments_with_other_borders_are_one_stretch(root: str, swapped: bool) -> None:
    whole = [labelled_row("a", (0, 9, "one two three", "en", "sad"))]
    pieces = [
        labelled_row(
            "a",
            (0.2, 2, "one", "en", "sad"),
            (2.1, 3, "two", "zh", "sad"),
            (4, 8, "three", "en", "sad"),
        )
    ]
    result = compared(root, pieces, whole) if swapped else compared(root, whole, pieces)
    assert (result.total.n_stretches, result.total.n_edits) == (1, 0)
    assert not result.language_flips, "a stretch has the language of its longest segment"


def test_segments_with_a_small_overlap_do_not_match(root: str) -> None:
    result = compared(
        root,
        [labelled_row("a", (0, 3, "one", "en", "sad"), (3, 6, "two", "en", "sad"))],
        [labelled_row("a", (0, 3.4, "one", "en", "sad"), (3.4, 6, "two", "en", "sad"))],
    )
    assert (result.total.n_stretches, result.total.n_edits) == (2, 0)


def test_a_stretch_has_segments_of_one_recording_only(root: str) -> None:
    rows = [labelled_row(name, (0, 3, name, "en", "sad")) for name in ("a", "b", "c")]
    result = compared(root, rows, rows)
    assert (result.total.n_stretches, result.total.n_edits) == (3, 0)


def test_segments_of_only_one_side_are_counted(root: str) -> None:
    result = compared(
        root,
        [
            labelled_row("a", (0, 2, "one", "en", "sad"), (3, 5, "two", "en", "sad")),
            window("only-a"),
        ],
        [
            labelled_row("a", (0, 2, "one", "en", "sad"), (6, 8, "six", "en", "sad")),
            window("only-b"),
        ],
    )
    assert (result.n_unmatched_a, result.n_unmatched_b) == (1, 1)
    assert (result.n_both, result.n_only_a, result.n_only_b) == (1, 1, 1)


def test_errors_gained_and_lost_are_counted_by_type(root: str) -> None:
    result = compared(
        root,
        [window("a"), window("b", error="TooLong", n_segments=0), window("c")],
        [window("a", error="OutOfMemory", n_segments=0), window("b"), window("c")],
    )
    assert result.errors_gained == {"OutOfMemory": 1}
    assert result.errors_lost == {"TooLong": 1}


def test_without_text_there_is_no_error_rate(root: str) -> None:
    silent = [labelled_row("a", (0, 2, "", "nospeech", "unknown"))]
    assert math.isnan(compared(root, silent, silent).total.cer)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Hello, World!", "helloworld"), ("你好。吗？", "你好吗"), ("ｶﾞ １２", "ガ12"), ("😊 ", "")],
)
def test_only_letters_digits_and_marks_count(text: str, expected: str) -> None:
    assert normalise(text) == expected


def run_job(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(diff.main)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))
    return result.exit_code, result.output


def test_the_command_shows_the_comparison(root: str) -> None:
    compared(
        root,
        [labelled_row("a", (0, 2, "one", "zh", "happy"))],
        [labelled_row("a", (0, 2, "two", "yue", "happy"))],
    )
    code, output = run_job(root, RUN.fingerprint[:4], OTHER_MODEL.fingerprint[:4])
    assert code == 0
    assert "1 (100.0%)" in output
    assert "zh -> yue 1" in output


def test_the_command_refuses_an_unknown_fingerprint(root: str) -> None:
    compared(root, [window("a")], [window("a")])
    assert run_job(root, "f1", "ff")[0] == 2
