"""The dataset card: its figures, its escaping, and how a browser shows it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pytest

from pipeline.report.card import REPORT, make_report, render, write_report
from pipeline.report.figures import Figures, count_labels, measure_snapshot
from pipeline.report.scripts import define_scripts
from pipeline.report.sections import CardSubject
from pipeline.report.text import clock, duration, foreign, printable, share
from pipeline.storage.store import open_store
from pipeline.tables import Snapshot, connect, open_snapshot
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from pipeline.tables.run_records import RunRecord, load_run, save_run
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.chromium import needs_chromium, rendered, screenshot
from tests.support.demo import ROOT
from tests.support.figures import HOSTILE, LARGE, TURNED
from tests.support.s3_server import S3

RECORD = RunRecord(
    run_id=LARGE.runs[0].run_id,
    fingerprint="f1" * 16,
    vad="silero-vad 6.2.3",
    n_recordings=84_503,
    n_errors=127,
    audio_s=2_300_000.0,
    wall_s=6_070.0,
    stage_s={"decode": 21_000.0, "segment": 18_000.0, "label": 5_900.0},
    settings={"manifest": f"s3://corpus/{HOSTILE}", "label": {"language": "auto"}},
)
SUBJECT = CardSubject(f"s3://corpus/{HOSTILE}/labels", 41, "f1" * 16, [RECORD])
VOID = {"meta", "line", "rect"}


class Outline(HTMLParser):
    """The tags and attributes of a page. Fails if a tag is closed out of order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


# ---------------------------------------------------------------------------- scripts


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("案件受理费减半收取", "han"),
        ("我用 iPhone 手机", "han"),
        ("我们去吃の一家店", "han"),
        ("これは本です", "kana"),
        ("ゼロ三三六", "kana"),
        ("저녁 다 해결합니다", "hangul"),
        ("안녕 hello", "hangul"),
        ("Including legal due diligence", "latin"),
        ("naïve café", "latin"),
        ("дом", "other"),
        ("2072。", "none"),
        ("", "none"),
    ],
)
def test_the_script_of_a_text_is_that_of_most_of_its_words(text: str, script: str) -> None:
    with duckdb.connect() as connection:
        define_scripts(connection)
        assert connection.execute("SELECT script_of(?)", [text]).fetchone() == (script,)


@pytest.mark.parametrize(
    ("language", "text", "fits"),
    [
        ("zh", "안녕하세요", False),
        ("zh", "你好", True),
        ("yue", "你好", True),
        ("ja", "日本語", True),
        ("ja", "これは", True),
        ("ja", "안녕", False),
        ("ko", "안녕", True),
        ("ko", "你好", False),
        ("en", "hello", True),
        ("en", "你好", False),
        ("nospeech", "", True),
        ("nospeech", "hello", False),
        ("en", "2072.", True),
    ],
)
def test_a_script_fits_the_languages_that_are_written_in_it(
    language: str, text: str, fits: bool
) -> None:
    with duckdb.connect() as connection:
        define_scripts(connection)
        answer = connection.execute("SELECT script_fits(?, ?)", [language, text]).fetchone()
        assert answer == (fits,)


# ---------------------------------------------------------------------------- figures


def test_the_figures_agree_with_the_tables(labelled_root: str, labelled: Snapshot) -> None:
    figures = measure_snapshot(connect(labelled_root))
    recordings = labelled.read("recordings").to_pandas()
    totals = figures.totals
    assert (totals.n_recordings, totals.n_errors) == (20, 2)
    assert totals.audio_s == pytest.approx(recordings["duration_s"].sum())
    assert totals.labelled_s + totals.silence_s + totals.failed_s == pytest.approx(totals.audio_s)
    n_segments = labelled.read("transcripts").num_rows
    for shares in (figures.languages, figures.emotions):
        assert sum(each.n for each in shares) == n_segments == totals.n_segments
    for bins in (figures.segment_lengths, figures.recording_lengths):
        assert bins[-1].n > 0
    assert sum(each.n for each in figures.segment_lengths) == n_segments
    assert sum(each.n for each in figures.confidences) == figures.n_with_text
    assert sum(each.n for each in figures.recording_lengths) == 18
    assert [group.type for group in figures.errors] == ["EmptyFile", "Truncated"]
    assert figures.errors[0].examples[0][1] == "the file has no bytes"


def test_the_counts_of_the_closing_summary_agree_with_the_tables(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    failed = window("bad", error="NotAudio", n_segments=0)
    write_bundle(store, RUN, bundle(window("a", n_segments=3), failed))
    publish(store, RUN)
    counts = count_labels(open_snapshot(str(tmp_path)))
    assert counts.totals == measure_snapshot(connect(str(tmp_path))).totals
    assert (counts.totals.n_recordings, counts.totals.n_segments) == (2, 3)
    assert sum(counts.languages.values()) == sum(counts.emotions.values()) == 3
    assert counts.errors == {"NotAudio": 1}


def test_a_text_in_a_script_that_does_not_fit_is_counted_and_shown(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    rows = window("a", n_segments=2)
    for segment, text in zip(rows["segments"], ("안녕하세요", "你好"), strict=True):
        segment.update(language="zh", text=text)
    write_bundle(store, RUN, bundle(rows))
    publish(store, RUN)
    figures = measure_snapshot(connect(str(tmp_path)))
    assert [(each.script, each.n, each.fits) for each in figures.scripts] == [
        ("han", 1, True),
        ("hangul", 1, False),
    ]
    misfits = figures.reviews[0]
    assert misfits.doubt == "script"
    assert [(each.segment_id, each.text) for each in misfits.rows] == [("a-000000", "안녕하세요")]


def test_a_snapshot_without_segments_has_a_card(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write_bundle(store, RUN, bundle(window("bad", error="NotAudio", n_segments=0)))
    publish(store, RUN)
    page = make_report(str(tmp_path))
    assert "no labelled segments" in page
    assert "NotAudio" in page


def test_only_nothing_is_zero_percent_and_only_everything_is_a_hundred() -> None:
    assert [share(part, 10_000) for part in (0, 1, 50, 1234, 9999, 10_000)] == [
        *("0 %", "< 0.1 %", "0.5 %", "12 %", "> 99.9 %", "100 %"),
    ]
    assert share(0, 0) == "0 %"


def test_a_duration_is_in_the_largest_unit_that_fits() -> None:
    values = (0.04, 75, 3_600, 37_540_000)
    assert [duration(seconds) for seconds in values] == ["0.0 s", "1.2 min", "1.0 h", "10,428 h"]


def test_a_place_in_a_recording_is_shown_as_on_a_player() -> None:
    assert [clock(seconds) for seconds in (0.04, 59.96, 75.5, 4312.4)] == [
        *("0:00.0", "1:00.0", "1:15.5", "1:11:52.4"),
    ]


# --------------------------------------------------------------------------- escaping


def with_hostile_texts(value: Any) -> Any:
    """The same value with every string in it replaced by HTML and a direction mark."""
    if isinstance(value, str):
        return HOSTILE + TURNED
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{each.name: with_hostile_texts(getattr(value, each.name)) for each in fields(value)},
        )
    if isinstance(value, Mapping):
        return {with_hostile_texts(key): with_hostile_texts(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_hostile_texts(each) for each in value)
    return value


@pytest.mark.parametrize(
    ("figures", "subject"),
    [(LARGE, SUBJECT), (with_hostile_texts(LARGE), with_hostile_texts(SUBJECT))],
    ids=["some texts", "every text"],
)
def test_no_text_of_the_corpus_becomes_markup(figures: Figures, subject: CardSubject) -> None:
    page = render(figures, subject)
    outline = Outline(page)
    assert outline.open == []
    assert not outline.tags & {"script", "img", "link", "iframe", "object", "form", "audio"}
    assert not {name for name in outline.attributes if name.startswith("on")}
    assert "src" not in outline.attributes
    assert {link[0] for link in re.findall('href="([^"]*)', page)} == {"#"}  # of this page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page


def test_a_text_of_the_corpus_is_escaped_shortened_and_isolated() -> None:
    assert foreign("a < b") == "<bdi>a &lt; b</bdi>"
    assert foreign(TURNED) == "<bdi>invoice gnp.wav</bdi>"
    assert foreign("x" * 100, limit=10) == "<bdi>xxxxx … xxxxx</bdi>"


def test_a_printable_text_has_line_ends_but_no_control_characters() -> None:
    assert printable("one\ttwo\nthree\x00\u2066") == "one two\nthree  "


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = render(LARGE, replace(SUBJECT, root="labels"))
    assert "default-src 'none'" in page
    assert "url(" not in page and "@import" not in page
    assert len(page) < 100_000


def test_the_template_is_found_in_a_copy_of_the_project(tmp_path: Path) -> None:
    for folder in ("pipeline", "jobs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    store = open_store(str(tmp_path / "labels"))
    write_bundle(store, RUN, bundle(window("a")))
    publish(store, RUN)
    command = [sys.executable, "-m", "jobs.report", "labels", "-o", "card.html"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert "dataset card" in (tmp_path / "card.html").read_text(encoding="utf-8")


def colours_of(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_bars_have_enough_contrast(scheme: str) -> None:
    """WCAG 2.2: 4.5 to 1 for text, 3 to 1 for graphics."""
    light, dark = render(LARGE, SUBJECT).split("prefers-color-scheme: dark")
    colours = colours_of(light if scheme == "light" else dark)
    for ground in ("ground", "card"):
        assert contrast(colours["ink"], colours[ground]) > 7
        assert contrast(colours["soft"], colours[ground]) > 4.5
    for tone in ("bar", "warn", "bad"):
        assert contrast(colours[tone], colours["card"]) > 3
    for tone in ("warn", "bad"):
        assert contrast(colours[tone], colours[f"{tone}-ground"]) > 4.5


# --------------------------------------------------------------------------- on disk


def test_the_report_is_written_beside_the_tables_on_s3(s3: S3) -> None:
    root, options = f"{s3.new_bucket()}/labels", s3.storage_options
    store = open_store(root, options)
    write_bundle(store, RUN, bundle(window("a")))
    publish(store, RUN)
    record = replace(RECORD, run_id=RUN.run_id)
    assert write_report(root, options, record) == f"{root}/{REPORT}"
    assert count_labels(open_snapshot(root, options)).totals.n_recordings == 1
    page = store.get(REPORT).decode()
    assert "378.9x" in page and "decode" in page and "silero-vad" in page


def test_a_run_record_is_read_back_unchanged(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    save_run(store, RECORD)
    assert load_run(store, RECORD.run_id) == RECORD
    assert load_run(store, "other") is None
    store.put("_runs/broken.json", b'{"colour": 1}')
    assert load_run(store, "broken") is None


def test_the_report_job_writes_a_file_or_gives_the_reason(
    labelled_root: str, tmp_path: Path
) -> None:
    def run_job(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "jobs.report", *arguments]
        env = os.environ | {"NO_COLOR": "1"}
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )

    done = run_job(labelled_root, "-o", str(tmp_path / "x" / "card.html"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x" / "card.html").read_text().startswith("<!DOCTYPE html>")
    refused = run_job(str(tmp_path / "nothing"))
    assert refused.returncode == 2
    assert "run the label job" in refused.stderr


# -------------------------------------------------------------------- in a real browser


def pixels_of(png: Path) -> np.ndarray:
    """(height, width, 3)"""
    import av

    with av.open(str(png)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24")


@needs_chromium
def test_a_browser_shows_the_card_in_light_and_dark(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(LARGE, SUBJECT), encoding="utf-8")
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    light, dark = (pixels_of(screenshot(page, scheme, 1240, 3600)) for scheme in schemes)
    assert light[2, 2].tolist() == [0xF6, 0xF6, 0xF3]
    assert dark[2, 2].tolist() == [0x13, 0x16, 0x1A]
    for pixels, bar in ((light, (0x2D, 0x6C, 0xB0)), (dark, (0x6F, 0xA9, 0xE6))):
        assert (np.abs(pixels.astype(int) - bar).max(axis=2) < 4).sum() > 20_000


@needs_chromium
def test_a_narrow_window_needs_no_horizontal_scrolling(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(LARGE, SUBJECT), encoding="utf-8")
    # 500 pixels is Chromium's narrowest window. Content that is wider would cover the right edge.
    pixels = pixels_of(screenshot(page, "light", 500, 6000))
    assert (pixels[:, -8:] == [0xF6, 0xF6, 0xF3]).all()


@needs_chromium
def test_a_browser_runs_no_script_from_the_corpus(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(LARGE, SUBJECT), encoding="utf-8")
    document = rendered(page)
    assert "<script" not in document and "<img" not in document
    assert "<title>labels: dataset card</title>" in document


@pytest.mark.parametrize(
    ("settings", "engine"),
    [
        ({}, "torch, fp32"),
        ({"label": {"precision": "auto"}, "ray": {"num_gpus": 1.0}}, "torch, bf16"),
        ({"label": {"precision": "int8", "backend": "onnxruntime"}}, "onnxruntime, int8"),
    ],
)
def test_the_card_says_which_engine_and_precision_labelled(
    settings: dict[str, Any], engine: str
) -> None:
    """Also of runs whose record is older than a setting."""
    subject = replace(SUBJECT, runs=[replace(RECORD, settings=settings)])
    assert subject.engine == engine
    assert engine in render(LARGE, subject)
    assert replace(SUBJECT, runs=()).engine == ""
