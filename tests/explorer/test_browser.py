"""The whole path in a real browser: filter, play, correct, conflict, undo, queue, accuracy, SQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from pipeline.explorer.app import create_app
from pipeline.storage.store import open_store
from pipeline.tables.reviews import Interval, history
from tests.explorer.conftest import TOKEN, settings_for
from tests.support.chromium import BINARY, needs_chromium
from tests.support.explored import HOSTILE, write_output
from tests.support.http import Client, serving

pytestmark = needs_chromium
expect.set_options(timeout=30_000)  # ms; another test may have the cores
# Notes which words are lit: a word is lit for half a second, which looking now and then may miss.
NOTE_WORDS = """() => {
    window.lit = new Set();
    const words = [...document.querySelectorAll(".word")];
    new MutationObserver(() => words.forEach((word, at) => {
        if (word.classList.contains("now")) window.lit.add(at);
    })).observe(document.querySelector("#words"), { attributes: true, subtree: true });
}"""
_AUTHORISED = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BINARY, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def explored(tmp_path: Path) -> Iterator[tuple[Client, str]]:
    root = write_output(tmp_path)
    with serving(create_app(settings_for(root)), _AUTHORISED) as client:
        yield client, root


def open_page(browser: Browser, client: Client, **options: Any) -> tuple[Page, list[str]]:
    """A page of the explorer, and the list of everything that goes wrong in it."""
    page = browser.new_page(**options)
    wrong: list[str] = []
    page.on(
        "console", lambda message: wrong.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((client.url, "data:", "blob:"))
            else wrong.append(request.url)
        ),
    )
    page.goto(f"{client.url}/#token={TOKEN}")
    expect(page.locator(".row")).to_have_count(6)
    return page, wrong


def test_the_next_three_clips_are_there_before_they_are_asked_for(
    browser: Browser, explored: tuple[Client, str]
) -> None:
    client, _ = explored
    page, wrong = open_page(browser, client)
    fetched: list[str] = []
    page.on("requestfinished", lambda request: fetched.append(request.url))
    ids = [row.get_attribute("data-id") for row in page.locator(".row").all()]
    page.locator(".row").first.click()
    page.locator("#wave canvas").first.wait_for()
    page.wait_for_timeout(200)
    for _ in range(300):
        clips = [url.split("/")[-2] for url in fetched if url.endswith("/clip.wav")]
        if {*clips} == {*ids[:4]}:
            break
        page.wait_for_timeout(100)
    assert {*clips} == {*ids[:4]}
    assert wrong == []


def test_filter_play_correct_conflict_undo(browser: Browser, explored: tuple[Client, str]) -> None:
    client, root = explored
    page, wrong = open_page(browser, client)
    assert TOKEN not in page.url

    page.locator("#where").fill("confidence > 0.55")
    page.locator("#where").press("Enter")
    expect(page.locator(".row")).to_have_count(4)
    assert "where=" in page.url
    page.locator("#where").fill("no such column")
    page.locator("#where").press("Enter")
    expect(page.locator("#message")).to_contain_text("Error")
    page.locator("#where").fill("")
    page.locator("#where").press("Enter")
    expect(page.locator(".row")).to_have_count(6)
    wrong.clear()  # the refused condition is a 400 in the console

    page.locator(".row").first.click()
    page.locator("#wave canvas").first.wait_for()
    page.evaluate(NOTE_WORDS)
    page.locator("#play").click()
    for _ in range(300):
        if len(lit := page.evaluate("() => [...window.lit].sort()")) >= 2:
            break
        page.wait_for_timeout(100)
    assert lit[:2] == [0, 1]
    page.locator("#play").click()

    text = page.locator("#correct textarea")
    text.fill("two corrected words")
    text.press("Control+Enter")
    expect(page.locator(".mark")).to_have_text("✎ fixed")
    expect(page.locator("#editor h2")).to_have_text("ann-000001")  # the next one
    interval = Interval("ann", "v1", 0.0, 2.5)
    (saved,) = history(open_store(root), interval)
    assert (saved.labels.text, saved.reviewer) == ("two corrected words", "ann")
    assert saved.spent_s > 0

    page.keyboard.press("k")
    expect(page.locator("#editor h2")).to_have_text("ann-000000")
    expect(page.locator("#saved")).to_contain_text("revision 1")
    other = {
        **{"segment_id": "ann-000000", "revision": 1, "verdict": "fixed", "text": "theirs"},
        **{"language": "en", "emotion": "sad", "events": [], "request_id": "another-person"},
    }
    assert client.post("/api/reviews", other).status == 201
    page.keyboard.press("x")
    expect(page.locator("#message")).to_contain_text("Theirs: “theirs” (en, sad)")
    assert [error for error in wrong if "409" not in error] == []
    wrong.clear()
    page.keyboard.press("x")
    expect(page.locator(".mark")).to_have_text("✕ unusable")
    page.keyboard.press("k")
    expect(page.locator("#saved")).to_contain_text("revision 3")
    page.keyboard.press("z")
    expect(page.locator(".mark")).to_have_text("✎ fixed")
    assert [one.labels.text for one in history(open_store(root), interval)] == [
        *("two corrected words", "theirs", "two corrected words", "theirs")
    ]
    assert wrong == []
    page.close()


def test_queue_accuracy_compare_and_sql(browser: Browser, explored: tuple[Client, str]) -> None:
    client, _ = explored
    page, wrong = open_page(browser, client)
    page.get_by_role("tab", name="Review queue").click()
    page.locator("#queue-size").fill("6")
    page.locator("#queue-share").fill("0.5")
    page.get_by_role("button", name="New queue").click()
    expect(page.locator(".chance")).to_have_count(3)
    for number in range(1, 7):
        page.locator("#correct").wait_for()
        page.keyboard.press("a")
        expect(page.locator(".mark.right")).to_have_count(number)
    page.get_by_role("tab", name="Accuracy").click()
    expect(page.locator("#count")).to_contain_text("3 reviews of segments drawn by chance")
    expect(page.locator(".share").first).to_contain_text("100.0 %")
    expect(page.locator(".share").first).to_contain_text("95 % interval: 43.9 % to 100.0 %")

    page.get_by_role("tab", name="Compare").click()
    expect(page.locator(".pair-row")).to_have_count(3)
    page.get_by_role("button", name="The other is right").first.click()
    expect(page.locator(".pair-row .mark")).to_have_text("✓ The other is right")

    page.get_by_role("tab", name="SQL").click()
    page.locator("#sql").fill("SELECT '=1+1' AS formula, text FROM segments ORDER BY segment_id")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("td").first).to_have_text("=1+1")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[1].startswith("'=1+1,two words here")
    assert wrong == []
    page.close()


def test_text_of_the_tables_is_shown_and_never_run(browser: Browser, client: Client) -> None:
    page, wrong = open_page(browser, client)
    page.locator(".row").last.click()
    expect(page.locator(".row .text").last).to_have_text(HOSTILE)
    expect(page.locator("#words .word").first).to_have_text("<img")
    assert page.locator("img").count() == 0
    assert wrong == []
    page.close()


def test_a_view_is_a_link(browser: Browser, client: Client) -> None:
    page, _ = open_page(browser, client)
    page.locator("#where").fill("recording_id = 'bob'")
    page.locator("#where").press("Enter")
    expect(page.locator(".row")).to_have_count(2)
    page.locator(".row").nth(1).click()
    expect(page.locator("#editor h2")).to_have_text("bob-000001")
    address = page.url
    page.goto("about:blank")
    page.goto(address)  # the session's cookie is enough
    expect(page.locator(".row")).to_have_count(2)
    expect(page.locator("#editor h2")).to_have_text("bob-000001")
    page.close()


def test_a_save_waits_while_the_server_is_away(
    browser: Browser, explored: tuple[Client, str]
) -> None:
    client, root = explored
    page, _ = open_page(browser, client)
    page.locator(".row").first.click()
    page.locator("#correct").wait_for()
    page.route("**/api/reviews", lambda route: route.abort())
    page.keyboard.press("a")
    expect(page.locator("#unsent")).to_have_text("1 not saved yet")
    expect(page.locator(".mark")).to_have_count(0)
    page.unroute("**/api/reviews")
    expect(page.locator("#unsent")).to_be_hidden(timeout=15_000)
    assert len(history(open_store(root), Interval("ann", "v1", 0.0, 2.5))) == 1
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, client: Client, scheme: Any, width: int
) -> None:
    options = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    page, wrong = open_page(browser, client, **options)
    page.locator(".row").last.click()
    page.locator("#correct").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(23, 24, 26)" if scheme == "dark" else "rgb(251, 250, 248)")
    assert wrong == []
    page.close()
