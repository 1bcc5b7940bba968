"""An output with audio for the explorer: two models, three recordings, words that can be played."""

import math
import struct
import wave
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.schema import SAMPLE_RATE
from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from pipeline.tables.reviews import Interval, Labels, Review, Shown
from pipeline.tables.run_records import RunRecord, save_run
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, window

NAMES = ("ann", "bob", "ctrl/#? ü")  # the last has every character that an address can break on
HOSTILE = "<img src=x onerror=alert(1)> =1+1 'quoted'"


SAID = Labels("two words here", "en", "neutral", ("speech",))


def review(recording: str, at: int, text: str, **changes: Any) -> Review:
    """A correction of segment `at` of a recording."""
    start_s = 4.0 * at
    one = Review(
        interval=Interval(recording, "v1", start_s, start_s + 2.5),
        revision=1,
        verdict="fixed",
        labels=replace(SAID, text=text),
        shown=Shown(f"{recording}-{at:06d}", RUN.fingerprint, 1, SAID),
        reviewer="ann",
        saved_at=datetime(2026, 11, 26, tzinfo=UTC),
        request_id=f"{recording}{at}",
    )
    return replace(one, **changes)


def write_output(folder: Path) -> str:
    """Label three recordings of 10 s with two models; returns the root of the tables."""
    root = folder / "labels"
    store = open_store(str(root))
    audio = folder / "audio"
    audio.mkdir()
    for run in (RUN, OTHER_MODEL):
        rows = [
            _labelled(name, number, audio, run is OTHER_MODEL) for number, name in enumerate(NAMES)
        ]
        write_bundle(store, run, bundle(*rows))
        publish(store, run)
        save_run(store, _record(run.run_id, run.fingerprint, audio))
    return str(root)


def _labelled(name: str, number: int, audio: Path, is_other: bool) -> dict[str, Any]:
    path = audio / f"{number}.wav"
    if not path.exists():
        _write_tone(path, 10.0, 200.0 + 100 * number)
    row = window(name) | {"uri": str(path), "version": "v1"}
    for at, segment in enumerate(row["segments"]):
        text = (
            HOSTILE if (number, at) == (2, 1) else f"{('two', 'three', 'four')[number]} words here"
        )
        if is_other and at == 1:
            text = f"{text} differently"
        start_s = segment["start_s"]
        segment |= {"text": text, "confidence": 0.5 + 0.1 * number + 0.05 * at}
        segment["words"] = [
            {
                "word": word,
                "start_s": start_s + 0.4 * k,
                "end_s": start_s + 0.4 * k + 0.35,
                "confidence": 0.9 - 0.5 * (k == 1),
            }
            for k, word in enumerate(text.split(" "))
        ]
    return row


def _record(run_id: str, fingerprint: str, audio: Path) -> RunRecord:
    settings = {"manifest": str(audio), "allowed_roots": []}
    return RunRecord(run_id, fingerprint, "none", 3, 0, 30.0, 1.0, {}, settings)


def _write_tone(path: Path, seconds: float, hz: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        samples = (
            int(8000 * math.sin(2 * math.pi * hz * n / SAMPLE_RATE) * (n // 2000 % 2))
            for n in range(int(seconds * SAMPLE_RATE))
        )
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
