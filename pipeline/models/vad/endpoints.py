"""Speech frames to intervals, as FunASR's FSMN-VAD does. Knows frames; no audio, no network."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class EndpointRules(NamedTuple):
    """When a run of frames becomes an interval; all in frames of 10 ms."""

    window: int  # a sliding count of speech frames decides
    to_speech: int  # at least so many of the window: speech
    to_silence: int  # at most so many: silence
    lookback: int  # an interval begins so long before it is noticed
    end_silence: int  # so many silent windows end it ...
    take_back: int  # ... and so many of them are given back to silence
    max_length: float


def find_intervals(is_speech: npt.NDArray[np.bool_], rules: EndpointRules) -> list[tuple[int, int]]:
    """FunASR's FSMN-VAD state machine: (start, end) in frames, in order.

    From `FsmnVADStreaming.DetectOneFrame` (FunASR 1.4.16), mode "multiple utterances" with
    do_extend. There it walks buffers frame by frame; here only what moves a boundary is left:
    an interval starts at `lookback` before its notice, but not before the end of the last one,
    and all but the silence to take back belongs to it.
    """
    return [(int(start), int(end)) for start, end in _compiled_scan()(is_speech, rules)]


@cache
def _compiled_scan() -> Any:
    """Plain Python does 20,000x real time, half a core beside a GPU at 10,000x; this, millions.

    Takes a second, once for a process.
    """
    import numba  # 50 MB: only where FSMN-VAD runs

    return numba.njit(_scan)


def _scan(is_speech: npt.NDArray[np.bool_], rules: EndpointRules) -> list[tuple[int, int]]:
    intervals = []
    recent = np.zeros(rules.window, np.int64)
    n_speech = n_silent = done = 0
    start, frame, voiced = -1, -1, False
    for frame, speech in enumerate(is_speech):
        slot = frame % rules.window
        n_speech += int(speech) - recent[slot]
        recent[slot] = int(speech)
        was_voiced = voiced
        voiced = n_speech > rules.to_silence if voiced else n_speech >= rules.to_speech
        n_silent = 0 if voiced or was_voiced else n_silent + 1
        if start < 0:
            if voiced:
                start = max(done, frame - rules.lookback)
            continue
        if n_silent >= rules.end_silence:
            done = frame + 1 - rules.take_back
        elif frame + 1 - start > rules.max_length:
            done = frame + 1
        else:
            continue
        intervals.append((start, done))
        start, n_speech, n_silent, voiced = -1, 0, 0, False
        recent[:] = 0
    if start >= 0:
        intervals.append((start, frame + 1))
    return intervals
