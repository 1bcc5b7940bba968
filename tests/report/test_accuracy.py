"""Accuracy from the random share: exact counts, and intervals that hold what they promise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.report.accuracy import measure, wilson
from pipeline.report.card import make_report
from pipeline.storage.store import open_store
from pipeline.tables.review_table import fold_reviews
from pipeline.tables.reviews import save
from tests.support.bundle_rows import OTHER_MODEL
from tests.support.explored import review, write_output


def row(recording: str = "a", verdict: str = "right", **changes: Any) -> dict[str, Any]:
    said = {"text": "one two three", "language": "en", "emotion": "sad", "events": ["speech"]}
    return {
        "recording_id": recording,
        "verdict": verdict,
        "sample": "random",
        **said,
        "shown": said,
        **changes,
    }


def test_only_what_was_drawn_by_chance_counts() -> None:
    found = measure(
        [
            row(),
            row("b", "fixed", text="one two four"),
            row("c", "fixed", sample="", language="zh"),
            row("d", "unusable"),
            row("e", "unsure"),
            row("f", "withdrawn"),
        ]
    )
    assert (found.n_random, found.n_left_out) == (2, 2)
    assert found.language is not None
    assert (found.language.value, found.language.n) == (1.0, 2)
    assert found.whole_text is not None
    assert found.whole_text.value == 0.5
    assert found.error_rate is not None
    assert found.error_rate.value == pytest.approx(1 / 6)


def test_characters_are_counted_where_a_language_has_no_spaces() -> None:
    chinese: dict[str, Any] = {
        "text": "开放时间",
        "language": "zh",
        "emotion": "sad",
        "events": ["speech"],
    }
    found = measure([row(verdict="fixed", **chinese, shown={**chinese, "text": "开饭时间。"})])
    assert found.error_rate is not None
    assert found.error_rate.value == 0.25


def test_case_and_punctuation_are_no_errors() -> None:
    found = measure([row(text="One, two – three!")])
    assert found.whole_text is not None
    assert found.whole_text.value == 1.0


def test_without_reviews_nothing_is_told() -> None:
    found = measure([])
    assert (found.n_random, found.language, found.error_rate) == (0, None, None)


@pytest.mark.parametrize(
    ("n_right", "n", "low", "high"),  # R: prop.test(k, n, correct = FALSE)$conf.int
    [(3, 3, 0.4385, 1.0), (8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (95, 100, 0.8882, 0.9785)],
)
def test_the_interval_is_wilsons(n_right: int, n: int, low: float, high: float) -> None:
    found = wilson(n_right, n)
    assert [found.low, found.high] == pytest.approx([low, high], abs=1e-4)


def test_the_interval_of_the_error_rate_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(150):
        reviews = []
        for number in range(60):
            text = " ".join("x" if right else "y" for right in rng.random(8) > 0.2)
            reviews.append(
                row(
                    f"r{number}",
                    "fixed",
                    text=" ".join("x" * 8),
                    shown={**row()["shown"], "text": text},
                )
            )
        found = measure(reviews).error_rate
        assert found is not None
        held += found.low <= 0.2 <= found.high
    assert 0.88 <= held / 150 <= 0.99


def test_the_card_tells_accuracy_from_reviews_of_its_own_labels(tmp_path: Path) -> None:
    root = write_output(tmp_path)
    assert 'id="accuracy"' not in make_report(root)
    save(open_store(root), review("ann", 0, "two better words", sample="random"))
    fold_reviews(open_store(root))
    page = make_report(root)
    assert 'id="accuracy"' in page
    assert "From 1 segments that were drawn by chance" in page
    assert 'id="accuracy"' not in make_report(root, fingerprint=OTHER_MODEL.fingerprint)
