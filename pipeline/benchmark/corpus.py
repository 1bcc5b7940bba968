"""The audio that contenders label: a given manifest, or a corpus made of the demo's clips."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from pipeline.audio.windows import decode
from pipeline.config import AudioConfig
from pipeline.manifest.read import read_manifest
from pipeline.schema import SAMPLE_RATE

DEMO = Path(__file__).parents[2] / "configs" / "demo"


def list_files(manifest: str) -> tuple[str, ...]:
    """URIs of a manifest's recordings, or of the audio in a directory. Raises ManifestError."""
    return tuple(uri for uri in read_manifest(manifest, {}).table["uri"].to_pylist() if uri)


def synthesise_demo(directory: Path, seconds: float) -> Path:
    """A corpus of the demo's short clips in a new directory; returns its manifest."""
    directory.mkdir()
    return synthesise(directory, demo_clips(), seconds)


def demo_waveforms() -> list[np.ndarray]:
    """int16 (n_samples,) at 16 kHz of each short clip of the demo with speech."""
    return [waveform(path) for path in demo_clips()]


def demo_clips() -> list[Path]:
    """The short clips of the demo with speech."""
    lines = (DEMO / "audio" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [DEMO / "audio" / row["audio"] for row in rows if "ref_text" in row]


def synthesise(directory: Path, clips: Sequence[Path], seconds: float, seed: int = 0) -> Path:
    """MP3 files of 60 s, from clips of speech with pauses of 0.3 to 2 s; returns their manifest."""
    rng = np.random.default_rng(seed)
    spoken = [waveform(path) for path in clips]
    lines = []
    for index in range(max(1, round(seconds / 60))):
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < 60 * SAMPLE_RATE:
            parts.append(spoken[int(rng.integers(len(spoken)))])
            parts.append(np.zeros(int(rng.uniform(0.3, 2.0) * SAMPLE_RATE), np.int16))
        name = f"{index:05d}.mp3"
        soundfile.write(directory / name, np.concatenate(parts), SAMPLE_RATE, format="MP3")
        lines.append(json.dumps({"audio": name, "recording_id": name}))
    manifest = directory / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def waveform(path: Path) -> np.ndarray:
    """int16 (n_samples,) at 16 kHz of a whole file. Raises RecordingError."""
    return np.concatenate([window.waveform for window in decode(str(path), AudioConfig(), {})])
