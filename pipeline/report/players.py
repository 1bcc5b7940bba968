"""Sound for the segments of a card, up to a number of bytes. Knows audio; writes no HTML.

A clip is MP3, because every browser plays it; a second of speech takes about 4 kB of the page.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.audio.channels import Waveform
from pipeline.audio.checks import WITHOUT_LIMITS
from pipeline.audio.mp3 import encode_mp3
from pipeline.audio.windows import decode
from pipeline.errors import RecordingError
from pipeline.report.segment_lists import SegmentRow
from pipeline.schema import SAMPLE_RATE

MAX_CLIP_S = 20.0  # of a segment
_KEPT = 16  # starts of files in memory: 16 times 80 s are 41 MB
_NEAR_S = 60.0  # decoding so much from the start is exact; after a seek, some decoders are not


@dataclass(frozen=True, slots=True)
class Players:
    """Clips as base64 of MP3, by segment_id."""

    clips: Mapping[str, str] = field(default_factory=dict)
    n_unreadable: int = 0  # segments whose file cannot be read now
    n_left_out: int = 0  # segments for which no bytes were left


def cut_players(rows: Iterable[SegmentRow], max_bytes: int, options: Mapping[str, Any]) -> Players:
    """The clips of `rows` in their order, until the next does not fit into `max_bytes` of text."""
    clips: dict[str, str] = {}
    unreadable: set[str] = set()
    waiting = list({row.segment_id: row for row in rows}.values())
    left, cutter = max_bytes, _Cutter(options)
    for i, row in enumerate(waiting):
        try:
            clip = b64encode(encode_mp3(cutter.cut(row))).decode()
        except RecordingError:
            unreadable.add(row.segment_id)
            continue
        if len(clip) > left:
            return Players(clips, len(unreadable), len(waiting) - i)
        clips[row.segment_id] = clip
        left -= len(clip)
    return Players(clips, len(unreadable))


class _Cutter:
    """Cuts clips. Keeps the start of the last few files, because lists name a recording again."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._starts: dict[tuple[str, int], Waveform] = {}

    def cut(self, row: SegmentRow) -> Waveform:
        """The first MAX_CLIP_S of a segment, (n_samples,). Raises RecordingError."""
        n_samples = round(min(row.end_s - row.start_s, MAX_CLIP_S) * SAMPLE_RATE)
        if row.start_s > _NEAR_S:
            return self._decoded(row.uri, row.channel, row.start_s, MAX_CLIP_S)[:n_samples]
        first = round(row.start_s * SAMPLE_RATE)
        return self._start(row.uri, row.channel)[first : first + n_samples]

    def _start(self, uri: str, channel: int) -> Waveform:
        key = (uri, channel)
        if key not in self._starts:
            if len(self._starts) == _KEPT:
                del self._starts[next(iter(self._starts))]
            self._starts[key] = self._decoded(uri, channel, 0.0, _NEAR_S + MAX_CLIP_S)
        return self._starts[key]

    def _decoded(self, uri: str, channel: int, offset_s: float, length_s: float) -> Waveform:
        windows = decode(uri, WITHOUT_LIMITS, self._options, offset_s, length_s, channel)
        return np.concatenate([window.waveform for window in windows])
