"""A small output with a call: two speakers, one in each channel of a file, without any model."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pipeline.storage.store import Store, open_store
from pipeline.storage.versions import look_up_version
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, window
from tests.support.sounds import noise, tone

RATE = 16_000
LENGTH_S = 10.0  # as bundle_rows.window has it


def channels() -> tuple[np.ndarray, np.ndarray]:
    """(n_samples, 1) float32 each: the left and the right speaker."""
    return tone(LENGTH_S, 300), noise(LENGTH_S)


def of_channel(path: Path, channel: int, **fields: Any) -> dict[str, Any]:
    """The only window of a channel. Both channels have segments at 0 to 2.5 s and 4 to 6.5 s."""
    row = window("call", index=channel - 1, n_windows=2, **fields)
    for number, segment in enumerate(row["segments"]):
        shift_s = 10.0 * (channel - 1)
        segment |= {"start_s": segment["start_s"] - shift_s, "end_s": segment["end_s"] - shift_s}
        segment |= {"text": f"{channel} says {number}", "words": []}
        for event in segment["events"]:
            event |= {name: event[name] - shift_s for name in ("start_s", "end_s")}
    row |= {"measures": [], "quality": []}
    return row | {"uri": str(path), "channel": channel, "channels": 2, "window_start_s": 0.0}


def publish_call(folder: Path, *, has_version: bool = False) -> Store:
    """`folder/call.wav`, and its labels in `folder/out`; with the file's version, or "v1"."""
    path = folder / "call.wav"
    soundfile.write(path, np.concatenate(channels(), axis=1), RATE)
    store = open_store(str(folder / "out"))
    version = look_up_version(str(path), {})[0] if has_version else "v1"
    rows = [of_channel(path, channel, version=version) for channel in (1, 2)]
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    return store
