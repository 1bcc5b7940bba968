"""What one explorer was started with. Definitions only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.manifest.access import AllowedRoots


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the tables and the audio are, who reviews, and who may ask."""

    root: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seq: int | None = None
    fingerprint: str | None = None
    allowed: AllowedRoots = field(default_factory=lambda: AllowedRoots(()))
    reviewer: str = ""
    read_only: bool = False
    token: str = ""  # "": none is asked for
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "[::1]"})
    cache: Path | None = None
    limit_s: float = 20.0  # of one request to the tables
