"""The page at `/` in a real browser: upload, words that run with the sound, microphone, errors."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from pipeline.config import RunConfig
from tests.serving.test_app import serving
from tests.support.chromium import BINARY, needs_chromium
from tests.support.demo import AUDIO, LONG, demo_config

pytestmark = needs_chromium
expect.set_options(timeout=30_000)  # ms; another test may have the cores
TOKEN = "a-token-of-this-test"
_DONE = re.compile(r"Nothing was found to label\.|\d+ segments?")
SHOTS = os.environ.get("SENSEVOICE_TEST_SCREENSHOTS", "")  # a directory to look at


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    flags = [
        *("--no-sandbox", "--autoplay-policy=no-user-gesture-required"),
        *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    ]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BINARY, args=flags)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return demo_config(tmp_path_factory.mktemp("page") / "out")


@pytest.fixture(scope="module")
def url(config: RunConfig) -> Iterator[str]:
    with serving(config) as (found, _):
        yield found


def open_page(browser: Browser, url: str, **options: Any) -> tuple[Page, list[str]]:
    """The page, and everything that goes wrong in it; a request to another place is wrong."""
    page = browser.new_page(**options)
    wrong: list[str] = []
    page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith((url, "data:", "blob:")) else wrong.append(asked.url)
        ),
    )
    page.goto(url)
    return page, wrong


def label(page: Page, name: str) -> None:
    page.locator("#file").set_input_files(AUDIO / name)
    page.locator("#go").click()


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def test_a_file_is_labelled_segment_by_segment_and_its_words_run(
    browser: Browser, url: str
) -> None:
    page, wrong = open_page(browser, url, viewport={"width": 1280, "height": 900})
    shoot(page, "empty")
    label(page, LONG["audio"])
    expect(page.locator("#state")).to_have_text("18 segments", timeout=60_000)
    first = page.locator("#segments li").first
    expect(first.locator(".word").first).to_have_text("02745.")
    expect(first.locator(".chips")).to_contain_text("English")
    first.locator(".word").first.click()
    expect(page.locator(".word.now")).to_have_count(1, timeout=10_000)
    with page.expect_download() as downloading:
        page.locator("#as-json").click()
    segments = json.loads(Path(downloading.value.path()).read_text(encoding="utf-8"))
    assert len(segments) == 18
    shoot(page, "labelled")
    page.close()
    assert wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    scheme: str, browser: Browser, url: str
) -> None:
    size = {"width": 390, "height": 844}
    page, wrong = open_page(browser, url, viewport=size, color_scheme=scheme)
    label(page, "zh_angry.flac")
    expect(page.locator("#state")).to_have_text("1 segment", timeout=60_000)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    shoot(page, f"phone-{scheme}")
    page.close()
    assert wrong == []


def test_the_microphone_is_recorded_and_labelled(browser: Browser, url: str) -> None:
    """Chromium's fake device beeps; a browser sends WebM with Opus, without a duration."""
    page, wrong = open_page(browser, url)
    page.locator("#record").click()
    expect(page.locator("#record")).to_have_text("■ Stop and label")
    page.wait_for_timeout(1500)
    page.locator("#record").click()
    # A beep may be a sound or nothing; either way the recording was decoded and labelled.
    expect(page.locator("#state")).to_have_text(_DONE, timeout=60_000)
    expect(page.locator("#message")).to_be_hidden()
    page.close()
    assert wrong == []


def test_what_is_no_audio_is_told_on_the_page(browser: Browser, url: str, tmp_path: Path) -> None:
    page, _ = open_page(browser, url)
    (tmp_path / "<img src=x onerror=alert(1)>.wav").write_bytes(b"<html>no audio</html>")
    page.locator("#file").set_input_files(tmp_path / "<img src=x onerror=alert(1)>.wav")
    page.locator("#go").click()
    expect(page.locator("#message")).to_contain_text("looks like HTML")
    expect(page.locator("#result")).to_be_hidden()
    assert page.locator("img").count() == 0
    page.close()


def test_a_service_with_a_token_asks_for_it(browser: Browser, config: RunConfig) -> None:
    with serving(config, frozenset({TOKEN})) as (url, _):
        page, _ = open_page(browser, url)
        label(page, "en_happy.mp3")
        expect(page.locator("#token-field")).to_be_visible()
        page.locator("#token").fill(TOKEN)
        page.locator("#go").click()
        expect(page.locator("#state")).to_have_text("1 segment", timeout=60_000)
        page.close()


def test_a_segment_without_words_is_shown_by_its_sounds(
    browser: Browser, config: RunConfig
) -> None:
    segment = config.segment.model_copy(update={"whole_below_s": 30})  # the VAD hides applause
    with serving(config.model_copy(update={"segment": segment})) as (url, _):
        page, wrong = open_page(browser, url)
        label(page, "event_applause.opus")
        expect(page.locator("#state")).to_have_text("1 segment", timeout=60_000)
        expect(page.locator("#segments li")).to_contain_text("no words")
        expect(page.locator("#segments li")).to_contain_text("applause")
        with page.expect_download() as downloading:
            page.locator("#as-json").click()
        (one,) = json.loads(Path(downloading.value.path()).read_text(encoding="utf-8"))
        assert one["confidence"] is None
        page.close()
    assert wrong == []
