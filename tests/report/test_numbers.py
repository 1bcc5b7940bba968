"""The numbers of a report: each label's own hours, and bars as long as their values."""

import re
from pathlib import Path
from typing import Any
from xml.dom.minidom import parseString

import pytest
from markupsafe import Markup

from pipeline.report.charts import bars, divided, histogram, standalone
from pipeline.report.figures import Bin, Figures, Share, measure_snapshot
from pipeline.storage.store import open_store
from pipeline.tables import connect
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import bundle
from tests.tables.test_rows import RUN, event, first_window, segment


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    """Two segments of Chinese, one of Korean; 1.5 + 2 + 4 s."""
    sad: dict[str, Any] = {"emotion": "sad", "n_tokens": 0, "events": [], "confidence": 0.0}
    unknown = {"emotion": "unknown", "language": "ko", "confidence": 0.5}
    segments = [
        segment(30.0, 31.5),
        segment(33.0, 35.0, **sad),
        segment(36.0, 40.0, **unknown, events=[event("bgm", 0.5, 36.0, 40.0, "tag")]),
    ]
    good = first_window(n_windows=1, segments=segments)
    bad = first_window(
        **{"recording_id": "bad", "n_windows": 1, "segments": [], "duration_s": 7.0},
        **{"labelled_s": 0.0, "silence_s": 0.0, "failed_s": 7.0, "warning": ""},
        **{"error_stage": "decode", "error_type": "Truncated", "error_message": "half"},
    )
    store = open_store(str(tmp_path))
    write_bundle(store, RUN, bundle(good, bad))
    publish(store, RUN)
    with connect(str(tmp_path)) as connection:
        return measure_snapshot(connection)


def test_every_label_has_its_own_number_and_seconds(figures: Figures) -> None:
    assert figures.languages == [Share("ko", 1, 4.0, 1), Share("zh", 2, 3.5, 0)]
    assert figures.emotions == [
        *(Share("unknown", 1, 4.0), Share("sad", 1, 2.0), Share("fearful", 1, 1.5)),
    ]
    assert figures.events == [
        *(Share("bgm", 1, 4.0), Share("speech", 1, 1.5), Share("laughter", 1, 0.5)),
    ]


def test_sums_are_those_of_the_rows(figures: Figures) -> None:
    totals = figures.totals
    assert (totals.n_recordings, totals.n_errors, totals.n_warnings) == (2, 1, 1)
    assert (totals.audio_s, totals.labelled_s) == (19.0, 3.0)
    assert (totals.silence_s, totals.failed_s) == (8.0, 8.0)
    assert (totals.n_segments, figures.n_with_text, figures.n_emotion_unknown) == (3, 2, 1)
    assert (figures.nospeech_s, figures.models) == (0.0, [("iic/SenseVoiceSmall", "d0" * 32)])
    (group,) = figures.errors
    assert (group.stage, group.type, group.n) == ("decode", "Truncated", 1)
    assert list(group.examples) == [("s3://corpus/talk.flac", "half")]
    (run,) = figures.runs
    assert (run.run_id, run.n_recordings, run.n_errors, run.seconds) == ("run-1", 2, 1, 19.0)


def test_histograms_count_each_thing_in_its_bin(figures: Figures) -> None:
    assert figures.segment_lengths == [Bin(k, k + 1.0, n) for k, n in enumerate((0, 1, 1, 0, 1))]
    filled = {round(one.low, 2): one.n for one in figures.confidences if one.n}
    assert filled == {0.5: 1, 0.85: 1}
    assert [(one.low, one.high, one.n) for one in figures.recording_lengths if one.n] == [
        (10, 20, 1)
    ]


# ---------------------------------------------------------------------------- charts


def lengths(svg: str, name: str = "width") -> list[float]:
    rectangles = re.findall(r"<rect [^>]*>", svg)
    return [float(re.findall(rf' {name}="([\d.]+)"', one)[0]) for one in rectangles]


def test_bars_are_as_long_as_their_values() -> None:
    rows = [("a", 40.0, "40"), ("b", 20.0, "20"), ("c", 10.0, "10"), ("d", 0.0, "0")]
    longest, *others = lengths(str(bars("name", rows)))
    assert longest > 100
    assert others == pytest.approx([longest / 2, longest / 4, 0], abs=0.06)
    assert lengths(str(bars("name", rows[:1]))) == [longest]


def test_a_value_that_is_not_nothing_can_be_seen() -> None:
    assert lengths(str(bars("name", [("a", 1e6, "x"), ("b", 1.0, "y")])))[1] == 1.5


def test_columns_stand_on_one_line_and_are_as_high_as_their_counts() -> None:
    svg = str(histogram("name", [8, 4, 0, 2], ["", "", "", ""], []))
    heights = lengths(svg, "height")
    assert heights == pytest.approx([heights[0], heights[0] / 2, 0, heights[0] / 4], abs=0.06)
    bottoms = [y + height for y, height in zip(lengths(svg, "y"), heights, strict=True)]
    assert bottoms == pytest.approx([bottoms[0]] * 4, abs=0.06)


def test_a_divided_bar_shows_shares_from_edge_to_edge() -> None:
    svg = str(divided("name", [("a", 0.5), ("b", 0.0), ("c", 0.25), ("d", 0.25)]))
    assert lengths(svg, "x") == [0.0, 500.0, 750.0]
    assert lengths(svg) == [498.0, 248.0, 248.0]


def test_the_axis_of_a_histogram_ends_at_a_round_number() -> None:
    svg = str(histogram("name", [740_000, 3], ["", ""], [], "segments"))
    assert re.findall(r'end">([^<]*)<', svg) == ["800k", "400k", "0"]
    assert re.findall(r'end">([^<]*)<', str(histogram("name", [1], [""], []))) == ["1", "0"]
    assert ">segments<" in svg


def test_bars_below_a_limit_have_the_colour_of_a_warning() -> None:
    svg = str(histogram("name", [1, 2, 3], ["", "", ""], [], n_warned=2))
    assert re.findall(r'<rect class="(\w+)"', svg) == ["warn", "warn", "bar"]
    row = str(bars("name", [("x", 1.0, ""), ("unknown", 1.0, "")], tones={"unknown": "warn"}))
    assert re.findall(r'<rect class="(\w+)"', row) == ["bar", "warn"]


def test_a_plot_for_a_notebook_is_a_document_with_its_own_colours() -> None:
    svg = standalone(bars('a "name" < b', [("a", 1.0, "1")]))
    element = parseString(svg).documentElement
    assert element is not None
    assert element.getAttribute("aria-label") == 'a "name" < b'
    assert "#2d6cb0" in svg and "svg .bar" in svg
    empty = standalone(Markup())
    assert parseString(empty).documentElement is not None and ">Nothing to show<" in empty
    with pytest.raises(ValueError, match="not a plot"):
        standalone(Markup("<svg/>"))
