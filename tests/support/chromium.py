"""Screenshots and the final document of an HTML page, by headless Chromium."""

import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BINARY = next(filter(None, map(shutil.which, _NAMES)), "")
needs_chromium = pytest.mark.usefixtures("chromium")

_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--force-device-scale-factor=1"),
)
# blink::mojom::PreferredColorScheme
_SCHEMES = {"dark": "0", "light": "1"}


def screenshot(page: Path, scheme: Literal["dark", "light"], width: int, height: int) -> Path:
    """A PNG of `page`, written beside it. Width and height are in pixels."""
    png = page.with_name(f"{page.stem}-{scheme}-{width}.png")
    _run(
        page,
        f"--blink-settings=preferredColorScheme={_SCHEMES[scheme]}",
        f"--window-size={width},{height}",
        f"--screenshot={png}",
    )
    return png


def rendered(page: Path) -> str:
    """The document after the browser has parsed it and run its scripts."""
    return _run(page, "--dump-dom")


def _run(page: Path, *arguments: str) -> str:
    profile = page.with_name(f"{page.stem}-profile")
    done = subprocess.run(
        [BINARY, *_QUIET, f"--user-data-dir={profile}", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout
