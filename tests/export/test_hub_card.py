"""README.md of an export for the Hub."""

from pipeline.export.hub_card import HUB_FORMATS, hub_card
from pipeline.export.write import FORMATS

FACTS = {
    **{"format": "parquet", "audio": "clips", "root": "s3://secret-bucket/labels", "seq": 7},
    **{"fingerprint": "f1" * 16, "where": "", "n_recordings": 1_200, "n_segments": 34_000},
    **{
        "n_test": 0,
        "reviewed": "ignore",
        "hours": 27.5,
        "skipped": {"s3://secret-bucket/a.wav": "FileMissing"},
    },
}


def test_the_card_counts_and_describes_the_columns() -> None:
    text = hub_card(FACTS)
    assert text.startswith("---\n")
    assert "34,000 segments of 1,200 recordings, 27.500 h, in data/train-*.parquet" in text
    assert "Condition: none, all segments." in text
    assert "`confidence`" in text and "16000 Hz" in text


def test_the_card_names_no_store() -> None:
    assert "secret" not in hub_card(FACTS)


def test_a_condition_stays_on_one_line_and_is_no_markup() -> None:
    text = hub_card(FACTS | {"where": "text <> '`x`'\n\n# heading {seq}"})
    assert "Condition: `text <> ''x'' # heading {seq}`.\n" in text


def test_every_hub_format_is_a_format() -> None:
    assert set(FORMATS) > HUB_FORMATS
