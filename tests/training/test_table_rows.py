"""Rows from the tables: whose labels they have, which of them are chosen, and their split."""

from typing import Any, Literal

import pytest

from pipeline.errors import ConfigError
from pipeline.export.reviewed import Reviewed
from pipeline.models.sensevoice.decoding import Vocabulary
from pipeline.storage.store import open_store
from pipeline.tables.reviews import Labels, save
from pipeline.training.data import read_data
from pipeline.training.settings import DataConfig, TableRows
from pipeline.training.table_rows import read_table_rows
from tests.support.explored import HOSTILE, review, write_output

CORRECTED = Labels("one two", "ko", "sad", ("laughter",))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six segments: one corrected, one right, one unusable, one unsure, two without a review."""
    root = write_output(tmp_path_factory.mktemp("tables"))
    store = open_store(root)
    save(store, review("ann", 0, "", labels=CORRECTED))
    save(store, review("ann", 1, "two words here", verdict="right", sample="random"))
    save(store, review("bob", 0, "x", verdict="unusable"))
    save(store, review("bob", 1, "perhaps", verdict="unsure"))
    return root


def texts(root: str, **settings: Any) -> list[str | None]:
    return [row.text for row in read_table_rows(TableRows(root=root, **settings), {})]


@pytest.mark.parametrize(
    ("reviewed", "expected"),
    [
        ("only", ["one two", "two words here"]),
        (
            "prefer",
            ["one two", "two words here", "three words here", "four words here", HOSTILE],
        ),
        ("exclude", ["four words here", HOSTILE]),
        (
            "ignore",
            ["two words here"] * 2 + ["three words here"] * 2 + ["four words here", HOSTILE],
        ),
    ],
)
def test_rows_have_the_labels_of_whom_the_settings_name(
    root: str, reviewed: str, expected: list[str]
) -> None:
    """A segment that a person called unusable is trained only where reviews are ignored."""
    assert texts(root, reviewed=reviewed) == expected


def test_a_corrected_segment_has_all_labels_of_its_review(root: str) -> None:
    (row,) = read_table_rows(TableRows(root=root, where="verdict = 'fixed'"), {})
    assert (row.text, row.language) == ("one two", "ko")
    assert (row.emotion, row.event) == ("<|SAD|>", "<|Laughter|>")
    assert (row.start_s, row.length_s) == (0.0, 2.5)
    assert row.itn is True


def test_a_condition_sees_the_corrected_labels(root: str) -> None:
    assert texts(root, reviewed="prefer", where="language = 'ko'") == ["one two"]
    assert texts(root, reviewed="exclude", where="start_s < 1") == ["four words here"]


@pytest.mark.parametrize("where", ["no_column = 1", "1; DROP TABLE segments"])
def test_a_condition_that_is_no_sql_is_refused(root: str, where: str) -> None:
    with pytest.raises(ConfigError, match="is not an SQL condition on the view segments"):
        texts(root, where=where)


def test_a_condition_that_selects_nothing_is_refused(root: str) -> None:
    with pytest.raises(ConfigError, match="no segment with reviewed=only, split=train"):
        texts(root, where="language = 'ja'")


@pytest.mark.parametrize("reviewed", ["ignore", "prefer"])
def test_a_test_share_keeps_whole_recordings_out_of_the_training(
    root: str, reviewed: Reviewed
) -> None:
    """And those that were drawn by chance and reviewed, as `ann`, however small the share is."""

    def keys(split: Literal["train", "test"]) -> list[str]:
        chosen = TableRows(root=root, reviewed=reviewed, split=split, test_share=1e-9)
        return [row.key for row in read_table_rows(chosen, {})]

    assert keys("test") == ["ann-000000", "ann-000001"]
    assert len(keys("train")) >= 3
    assert not any(key.startswith("ann") for key in keys("train"))


def test_the_audio_of_a_segment_is_cut_from_its_recording(
    root: str, vocabulary: Vocabulary
) -> None:
    chosen = TableRows(root=root, where="verdict = 'fixed'")
    (example,) = read_data(DataConfig(train=chosen), vocabulary, {}).train.examples
    assert example.duration_s == 2.5
    assert vocabulary.text(example.tokens).strip() == "one two"
