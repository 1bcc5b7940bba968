"""Bundle rows for tests: all columns, with invented labels whose text names their origin."""

import math
from typing import Any

import pyarrow as pa

from pipeline.schema import BUNDLE, EMOTIONS, LANGUAGES
from pipeline.tables.run_records import RunInfo

# What decoding adds for a file of one audio stream, without gaps.
NO_GAPS = {"gap_s": 0.0, "start_offset_s": 0.0, "audio_streams": 1, "audio_stream": 0}

MEASURED = {
    **{"loudness_lufs": -23.0, "loudness_range_lu": math.nan, "sample_peak_dbfs": -3.0},
    **{"clipped_share": 0.0, "dc_offset": 0.0, "channel_correlation": math.nan},
    **{"channel_difference_db": math.nan, "bandwidth_hz": 8000.0, "bandwidth_drop_db": 3.0},
    "audio_sha256": "5a" * 32,
}
QUALITY = {
    **{"loudness_lufs": -22.0, "sample_peak_dbfs": -3.0, "clipped_share": 0.0, "snr_db": 30.0},
    **{"snr_method": "vad", "noise_dbfs": -60.0, "speech_s": 2.0, "chars_per_s": 12.0},
    **{"words_per_s": 2.5, "unique_token_ratio": 1.0},
}

RUN = RunInfo("run-a", "f1" * 16, "demo", "m0" * 32, "silero")
OTHER_RUN = RunInfo("run-b", "f1" * 16, "demo", "m0" * 32, "silero")
OTHER_MODEL = RunInfo("run-c", "e2" * 16, "demo-2", "m1" * 32, "silero")

WINDOW_S = 10.0


def window(
    recording_id: str,
    *,
    version: str = "v1",
    attempt_id: str = "a1",
    index: int = 0,
    n_windows: int = 1,
    n_segments: int = 2,
    supersedes: str = "",
    attempts: int = 1,
    error: str = "",
    warning: str = "",
) -> dict[str, Any]:
    """One row of a bundle: 10 s of audio, labelled unless there is an error.

    The text of a segment is "recording version attempt window.segment".
    """
    start_s = index * WINDOW_S
    labelled_s = 0.0 if error else WINDOW_S / 2
    return {
        "recording_id": recording_id,
        "uri": f"/audio/{recording_id}.wav",
        "offset_s": 0.0,
        "length_s": 0.0,
        "channel": 0,
        "language": "",
        "version": version,
        "bytes": 1000,
        "start": 0,
        "work_key": f"{recording_id}-{version}",
        "supersedes": supersedes,
        "attempts": attempts,
        "extra": [("corpus", "made up")],
        "error_stage": "decode" if error else "",
        "error_type": error,
        "error_message": f"{error} in window {index}" if error else "",
        "attempt_id": attempt_id,
        "window_index": index,
        "n_windows": n_windows if index == n_windows - 1 else 0,
        "window_start_s": start_s,
        "duration_s": WINDOW_S,
        "sample_rate_hz": 16_000,
        "channels": 1,
        "codec": "pcm_s16le",
        "warning": warning,
        **NO_GAPS,
        "measures": [MEASURED] if index == n_windows - 1 else [],
        "labelled_s": labelled_s,
        "silence_s": 0.0 if error else WINDOW_S - labelled_s,
        "failed_s": WINDOW_S if error else 0.0,
        "segments": [
            _segment(start_s + 4.0 * i, f"{recording_id} {version} {attempt_id} {index}.{i}")
            for i in range(n_segments)
        ],
        "quality": [QUALITY] * n_segments,
    }


def bundle(*windows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(windows), schema=BUNDLE)


def whole(recording_id: str, n_windows: int, **fields: Any) -> list[dict[str, Any]]:
    """All windows of a long recording."""
    return [window(recording_id, index=i, n_windows=n_windows, **fields) for i in range(n_windows)]


def _segment(start_s: float, text: str) -> dict[str, Any]:
    end_s = start_s + 2.5
    return {
        "start_s": start_s,
        "end_s": end_s,
        "text": text,
        "rich_text": f"<|en|><|HAPPY|><|Speech|>{text}",
        "confidence": 0.9,
        **{"confidence_frames": 0.8, "confidence_min": 0.7},
        "n_tokens": 4,
        "words": [
            {"word": text, "start_s": start_s, "end_s": end_s, "confidence": 0.9, "peak_s": None}
        ],
        "itn": True,
        "language": "en",
        "language_probability": 0.8,
        "language_runner_up": "zh",
        "language_runner_up_probability": 0.1,
        "language_probabilities": dict.fromkeys(LANGUAGES, 0.1),
        "language_entropy": 0.5,
        "emotion": "unknown",
        "emotion_probability": 0.7,
        "emotion_runner_up": "happy",
        "emotion_runner_up_probability": 0.2,
        "emotion_probabilities": dict.fromkeys(EMOTIONS, 0.1),
        "emotion_entropy": 0.6,
        "emotion_forced": "happy",
        "events": [
            {
                "event": "speech",
                "probability": 0.9,
                "start_s": start_s,
                "end_s": end_s,
                "source": "tag",
            },
            {
                "event": "laughter",
                "probability": 0.4,
                "start_s": start_s + 1.0,
                "end_s": start_s + 1.5,
                "source": "inline",
            },
        ],
    }
