"""Files of a page, from the package: a fixed list, read once. Nothing is looked up by path."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
WAVESURFER = "wavesurfer-8.0.1.esm.js"


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file as it is sent."""

    content: bytes
    media_type: str
    etag: str


def load_pages(package: str, names: tuple[str, ...]) -> Mapping[str, StaticFile]:
    """The named files of a package, and the vendored player, by the last part of their URL."""
    found = {name: _read(package, name) for name in names}
    return found | {"wavesurfer.js": _read("pipeline.web.vendor", WAVESURFER)}


def _read(package: str, name: str) -> StaticFile:
    content = files(package).joinpath(name).read_bytes()
    kind = _KINDS[name[name.rindex(".") :]]
    return StaticFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
