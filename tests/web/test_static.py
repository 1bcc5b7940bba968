"""Vendored files are those that were looked at; pages load nothing from elsewhere."""

import re
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.web.static import WAVESURFER, load_pages

PIPELINE = Path(__file__).parents[2] / "pipeline"
VENDOR = PIPELINE / "web" / "vendor"


def test_a_vendored_file_is_the_one_of_its_release() -> None:
    digest = sha256((VENDOR / WAVESURFER).read_bytes()).hexdigest()
    assert digest == "079f3b142f37737f975b03ea8fd18652a316dc2120a2629aeca0844a0c08f2b1"
    assert digest in (VENDOR / "README.md").read_text(encoding="utf-8")
    assert "BSD" in (VENDOR / "wavesurfer-8.0.1.LICENSE").read_text(encoding="utf-8")


PAGES = sorted(
    path for path in PIPELINE.rglob("pages/*") if path.suffix in {".html", ".js", ".css"}
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parts[-3]}-{path.name}")
def test_a_page_loads_nothing_from_elsewhere_and_writes_no_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}/", text)
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert name not in text
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"\son[a-z]+=", text)


def test_a_page_is_sent_with_its_type() -> None:
    files = load_pages("pipeline.explorer.pages", ("index.html", "app.js", "style.css"))
    assert files["index.html"].media_type.startswith("text/html")
    assert files["wavesurfer.js"].media_type.startswith("text/javascript")
    assert len({file.etag for file in files.values()}) == 4
