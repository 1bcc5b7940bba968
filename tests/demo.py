"""The corpus and the model that the project ships, and where the workplace's larger ones lie."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audio import decode
from pipeline.config import AudioConfig

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "configs" / "demo"
MODEL = DEMO / "model"
AUDIO = DEMO / "audio"
SHARED = ROOT.parent / "shared"

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared (full-size model, real speech) is not on this machine"
)

REFERENCES: list[dict[str, Any]] = [
    json.loads(line) for line in (AUDIO / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
]
SHORT = [row for row in REFERENCES if "ref_text" in row]
LONG = next(row for row in REFERENCES if "ref_segments" in row)

# How the references spell the labels of our tables.
_ABSTAIN = {"emo_unknown": "unknown", "event_unk": "unknown"}


def label_of(reference: str) -> str:
    name = reference.lower()
    return _ABSTAIN.get(name, name)


def waveform_of(path: Path) -> np.ndarray:
    """A whole file as int16 at 16 kHz, decoded as the pipeline does it."""
    windows = decode(str(path), AudioConfig(), {})
    return np.concatenate([window.waveform for window in windows])
