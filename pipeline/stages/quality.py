"""How good the audio and the text of a segment are. Pure: samples and labels in, numbers out.

The names are those of schema.QUALITY. NaN (a string: "") is what cannot be measured.
"""

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.arrow import Mask, Numbers, Row
from pipeline.audio.loudness import loudness_lufs
from pipeline.audio.meter import HOPS_PER_S
from pipeline.audio.streams import Floats
from pipeline.schema import FRAME, FRAMES_PER_S, Segment

_AROUND_S = 1.0  # so far from a segment its noise is looked for
_ENOUGH_S = 0.2  # of noise; with less, the quietest frames count as noise
_FLOOR_SHARE = 0.1  # these are the quietest frames of 20 ms
_SPEECH_OVER_FLOOR = 2.0  # power: 3 dB
_LOWEST_DB, _HIGHEST_DB = -10.0, 80.0  # digital silence would give an infinite SNR
_SILENCE = 1 / 32768**2 / 12  # power of rounding to 16 bits
_NO_TEXT = {"chars_per_s": math.nan, "words_per_s": math.nan, "unique_token_ratio": math.nan}


def measure_segments(
    waveform: npt.NDArray[np.int16],
    levels: Floats,
    segments: Sequence[Segment],
    speech: Sequence[Segment],
    start_s: float = 0.0,
) -> list[Row]:
    """Of each segment what schema.QUALITY has, without what needs its text.

    `waveform` and all intervals are of one window, `speech` is what the VAD found. `levels` are the
    window's hops (audio.meter), of which the first is the one that holds `start_s`.
    """
    power, is_speech = _frame_powers(waveform), _frames_of(speech, len(waveform) // FRAME)
    phase_s = start_s - math.floor(start_s * HOPS_PER_S + 1e-6) / HOPS_PER_S
    return [
        {
            **_levels_of(levels, segment.start_s + phase_s, segment.end_s + phase_s),
            **signal_to_noise(power, is_speech, segment),
            "speech_s": sum(_shared_s(segment, one) for one in speech),
            **_NO_TEXT,
        }
        for segment in segments
    ]


def signal_to_noise(power: Numbers, is_speech: Mask, segment: Segment) -> Row:
    """Speech power over noise power, from the mean power of frames of 10 ms (n_frames,).

    Method `vad`: noise is what is not speech, in the segment and within a second around it. Method
    `floor`, if there is less than 0.2 s of that: noise is the quietest tenth of the frames of
    20 ms, and what is 3 dB louder is speech. The floor is a little too low: 30.5 dB where 30 is
    right, and 7 dB where 0 is.
    """
    start, end = _frame_range(segment, len(power))
    inside = power[start:end][is_speech[start:end]]
    if not inside.size:
        return {"snr_db": math.nan, "snr_method": "", "noise_dbfs": math.nan}
    margin = round(_AROUND_S * FRAMES_PER_S)
    around = slice(max(0, start - margin), end + margin)
    quiet = power[around][~is_speech[around]]
    method = "vad" if quiet.size >= _ENOUGH_S * FRAMES_PER_S else "floor"
    if method == "vad":
        noise = float(quiet.mean())
    else:
        noise = _floor(power[start:end])
        loud = inside[inside > _SPEECH_OVER_FLOOR * noise]
        inside = loud if loud.size else inside
    noise = max(noise, _SILENCE)
    ratio = max(float(inside.mean()) - noise, 0.0) / noise
    snr_db = 10 * math.log10(ratio) if ratio > 0 else -math.inf
    return {
        "snr_db": min(max(snr_db, _LOWEST_DB), _HIGHEST_DB),
        "snr_method": method,
        "noise_dbfs": 10 * math.log10(noise),
    }


def measure_text(label: Row, speech_s: float) -> Row:
    """How fast it was said, and how much of it repeats.

    `label` has schema.LABELLED_SEGMENT. Only letters and digits count as characters. Far too
    many or too few a second, or a low ratio of different words, are signs of an invented text.
    """
    n_chars = sum(unicodedata.category(char)[0] in "LN" for char in label["text"])
    words = [word["word"] for word in label["words"]]
    if not n_chars or not speech_s:
        return dict(_NO_TEXT)
    return {
        "chars_per_s": n_chars / speech_s,
        "words_per_s": len(words) / speech_s if words else math.nan,
        "unique_token_ratio": len({*words}) / len(words) if words else math.nan,
    }


def _levels_of(levels: Floats, start_s: float, end_s: float) -> Row:
    first = min(round(start_s * HOPS_PER_S), max(0, len(levels) - 1))
    hops = levels[first : max(first + 1, round(end_s * HOPS_PER_S))].astype(np.float64)
    peak = float(hops[:, 1].max(initial=0.0))
    return {
        "loudness_lufs": loudness_lufs(hops[:, 0], np.ones(len(hops))),
        "sample_peak_dbfs": 20 * math.log10(peak) if peak > 0 else math.nan,
        "clipped_share": float(hops[:, 2].mean()) if len(hops) else math.nan,
    }


def _frame_powers(waveform: npt.NDArray[np.int16]) -> Numbers:
    """(n_samples,) -> (n_frames,) mean power of each 10 ms; full scale 1."""
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float32)
    powers: Numbers = np.einsum("nf,nf->n", frames, frames).astype(np.float64)
    return powers / (FRAME * 32768.0**2)


def _frames_of(speech: Sequence[Segment], n_frames: int) -> Mask:
    is_speech = np.zeros(n_frames, bool)
    for one in speech:
        start, end = _frame_range(one, n_frames)
        is_speech[start:end] = True
    return is_speech


def _frame_range(segment: Segment, n_frames: int) -> tuple[int, int]:
    start = min(round(segment.start_s * FRAMES_PER_S), n_frames)
    return start, min(round(segment.end_s * FRAMES_PER_S), n_frames)


def _floor(power: Numbers) -> float:
    """Mean of the quietest frames of 20 ms."""
    pairs = power[: len(power) // 2 * 2].reshape(-1, 2).mean(axis=1) if len(power) > 1 else power
    n_quiet = max(1, round(_FLOOR_SHARE * len(pairs)))
    return float(np.sort(pairs)[:n_quiet].mean())


def _shared_s(one: Segment, other: Segment) -> float:
    return max(0.0, min(one.end_s, other.end_s) - max(one.start_s, other.start_s))
