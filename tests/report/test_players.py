"""Players on a card: clips up to a number of bytes, and the policy that lets them play."""

import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.report.card import make_report, render
from pipeline.report.players import MAX_CLIP_S, Players, cut_players
from pipeline.report.sections import CardSubject
from pipeline.report.segment_lists import SegmentRow
from pipeline.schema import SAMPLE_RATE
from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.chromium import needs_chromium, rendered
from tests.support.figures import LARGE, segment_row

SUBJECT = CardSubject("s3://corpus/labels", 41, "f1" * 16)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """90 s: silence, with a tone of 800 Hz from 5 s to 7 s and from 70 s to 72 s."""
    samples = np.zeros(90 * SAMPLE_RATE, np.float32)
    tone = 0.5 * np.sin(2 * np.pi * 800 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    for start_s in (5, 70):
        samples[start_s * SAMPLE_RATE :][: tone.size] = tone
    path = tmp_path / "tone.wav"
    soundfile.write(path, samples, SAMPLE_RATE)
    return path


def at(path: Path, start_s: float, end_s: float, name: str = "a-000000") -> SegmentRow:
    return replace(segment_row(name, "en", "x"), uri=str(path), start_s=start_s, end_s=end_s)


def samples_of(clip: str) -> np.ndarray:
    samples, rate = soundfile.read(BytesIO(b64decode(clip)))
    assert rate == SAMPLE_RATE
    return np.asarray(samples)


@pytest.mark.parametrize("start_s", [5.0, 70.0])
def test_a_clip_is_the_segment(recording: Path, start_s: float) -> None:
    players = cut_players([at(recording, start_s, start_s + 2)], 1_000_000, {})
    samples = samples_of(players.clips["a-000000"])
    assert samples.size == pytest.approx(2 * SAMPLE_RATE, abs=3000)
    assert np.sqrt(np.square(samples[4000:28000]).mean()) == pytest.approx(0.354, abs=0.03)


def test_a_long_segment_is_cut_short(recording: Path) -> None:
    players = cut_players([at(recording, 0.0, 85.0)], 1_000_000, {})
    assert samples_of(players.clips["a-000000"]).size < (MAX_CLIP_S + 1) * SAMPLE_RATE


def test_clips_take_no_more_than_the_bytes_given(recording: Path) -> None:
    rows = [at(recording, i, i + 2.0, f"a-{i:06d}") for i in range(10)]
    players = cut_players(rows, 20_000, {})
    assert 0 < len(players.clips) < 10
    assert sum(map(len, players.clips.values())) <= 20_000
    assert players.n_left_out == 10 - len(players.clips)


def test_a_file_that_cannot_be_read_has_no_clip(recording: Path, tmp_path: Path) -> None:
    rows = [at(tmp_path / "missing.wav", 0, 1, "b-000000"), at(recording, 5, 7)]
    players = cut_players(rows, 1_000_000, {})
    assert ([*players.clips], players.n_unreadable) == (["a-000000"], 1)


def test_a_page_with_clips_lets_only_them_play() -> None:
    first = LARGE.sample.rows[1].segment_id
    page = render(LARGE, SUBJECT, Players({first: "QUJD"}))
    assert "default-src 'none'; style-src 'unsafe-inline'; media-src data:\"" in page
    assert re.findall("<audio [^>]*>", page) == [
        f'<audio controls preload="metadata" aria-label="{first}" '
        'src="data:audio/mpeg;base64,QUJD">'
    ]
    assert "<script>" not in page


def test_a_page_without_clips_lets_nothing_play() -> None:
    page = render(LARGE, SUBJECT)
    assert "media-src" not in page and "<audio" not in page


def test_the_card_has_no_sound_unless_it_is_asked_for(tmp_path: Path, recording: Path) -> None:
    root = str(tmp_path / "labels")
    store = open_store(root)
    write_bundle(store, RUN, bundle(window("a") | {"uri": str(recording)}))
    publish(store, RUN)
    assert "<audio" not in make_report(root)
    assert make_report(root, max_audio_bytes=200_000).count("<audio") == 2


@needs_chromium
def test_a_browser_can_play_a_clip(recording: Path, tmp_path: Path) -> None:
    """The browser gives the player of a clip that it can decode its length."""
    clip = cut_players([at(recording, 5, 7)], 1_000_000, {}).clips["a-000000"]
    page = tmp_path / "page.html"
    page.write_text(
        f'<audio src="data:audio/mpeg;base64,{clip}" onloadedmetadata='
        "\"document.body.append(Math.round(this.duration) + ' seconds')\"></audio>"
    )
    assert "2 seconds" in rendered(page)
