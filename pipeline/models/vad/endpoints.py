"""Speech flags per frame to intervals, as in FunASR's FSMN-VAD. Knows no audio and no network."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class EndpointRules(NamedTuple):
    """When an interval of speech begins and ends; all in frames of 10 ms.

    Each frame has a state, speech or silence, by the number of speech frames in a sliding window
    that ends there.
    """

    window: int
    to_speech: int  # silence becomes speech with at least this many speech frames
    to_silence: int  # speech becomes silence with at most this many
    lookback: int  # an interval starts this long before the frame that became speech
    end_silence: int  # this many silent frames end an interval ...
    take_back: int  # ... and this many of them do not belong to it
    max_length: float  # a longer interval is ended


def find_intervals(is_speech: npt.NDArray[np.bool_], rules: EndpointRules) -> list[tuple[int, int]]:
    """FunASR's FSMN-VAD state machine: (start, end) in frames, in order.

    From `FsmnVADStreaming.DetectOneFrame` (FunASR 1.4.16), mode "multiple utterances" with
    do_extend. FunASR moves audio through buffers; here is only what affects a boundary. An interval
    starts `lookback` before its first speech state, but not before the end of the previous one.
    """
    return [(int(start), int(end)) for start, end in _compiled_scan()(is_speech, rules)]


@cache
def _compiled_scan() -> Any:
    """`_scan`, compiled once per process, which takes a second.

    Plain Python reaches 20,000x real time, so a GPU that labels 10,000x needs half a core for it;
    compiled it reaches millions.
    """
    import numba  # 50 MB; only processes that run FSMN-VAD need it

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
