"""Files as recorders, phones and transmitters leave them, made with PyAV: gaps, offsets, damage.

Samples are float32 (n_samples,), mono, full scale 1.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import numpy as np
import soxr

from tests.support.sounds import add_video, write_video

# kind: (container, codec, rate that the codec insists on or 0). The commonest pairs.
PAIRS = {
    "wav": ("wav", "pcm_s16le", 0),
    "wav24": ("wav", "pcm_s24le", 0),
    "flac": ("flac", "flac", 0),
    "mp3": ("mp3", "libmp3lame", 0),
    "m4a": ("ipod", "aac", 0),
    "mp4": ("mp4", "aac", 0),
    "alac": ("ipod", "alac", 0),
    "adts": ("adts", "aac", 0),
    "opus": ("ogg", "libopus", 48_000),
    "oggflac": ("ogg", "flac", 0),
    "webm": ("webm", "libopus", 48_000),
    "mka": ("matroska", "aac", 0),
    "tta": ("matroska", "tta", 0),
    "ts": ("mpegts", "aac", 0),
    "flv": ("flv", "aac", 44_100),
    "wma": ("asf", "wmav2", 0),
    "amr": ("amr", "libopencore_amrnb", 8_000),
    "3gp": ("3gp", "libopencore_amrnb", 8_000),
    "wv": ("wv", "wavpack", 0),
    "ac3": ("ac3", "ac3", 48_000),
    "aiff": ("aiff", "pcm_s16be", 0),
    "caf": ("caf", "pcm_s16le", 0),
}
TIMED = ("m4a", "mp4", "alac", "opus", "webm", "mka", "ts", "flv", "wma", "3gp")


def mux(
    samples: np.ndarray,
    kind: str,
    *,
    rate_hz: int = 16_000,
    gap_at_s: float = 0.0,
    gap_s: float = 0.0,
    late_s: float = 0.0,
    options: dict[str, str] | None = None,
    keep: Callable[[int], bool] = lambda index: True,
) -> bytes:
    """A file of one of PAIRS.

    From `gap_at_s` on, the timestamps are `gap_s` later. With `late_s` the file has a picture, and
    the sound starts so much later. `keep` chooses packets by their number.
    """
    name, codec, wanted_hz = PAIRS[kind]
    if wanted_hz and wanted_hz != rate_hz:
        samples, rate_hz = soxr.resample(samples, rate_hz, wanted_hz), wanted_hz
    out = BytesIO()
    with av.open(out, "w", format=name, options=options or {}) as container:
        video = add_video(container) if late_s else None
        stream: Any = container.add_stream(codec, rate=rate_hz, layout="mono")
        if codec == "wmav2":
            stream.bit_rate = 64_000
        if video is not None:
            write_video(container, video, late_s + len(samples) / rate_hz)
        if not stream.codec_context.is_open:  # writing video has opened it
            stream.codec_context.open()
        frames = _frames(stream, samples.astype(np.float32), rate_hz)
        index = 0
        for start, frame in frames:
            shift_s = late_s + (gap_s if start / rate_hz >= gap_at_s else 0.0)
            frame.pts = start + round(shift_s * rate_hz)
            for packet in stream.encode(frame):
                if keep(index):
                    container.mux(packet)
                index += 1
        for packet in stream.encode(None):
            if packet.pts is not None:  # the last one of some encoders has no time
                container.mux(packet)
    return out.getvalue()


def _frames(stream: Any, samples: np.ndarray, rate_hz: int) -> Iterator[tuple[int, Any]]:
    """(first sample, frame) in the encoder's sample format and size."""
    size = stream.codec_context.frame_size or 1024
    convert = av.AudioResampler(stream.format, "mono", rate_hz)
    for start in range(0, len(samples), size):
        piece = samples[start : start + size].reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), "flt", "mono")
        frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
        for converted in convert.resample(frame):
            converted.time_base = Fraction(1, rate_hz)
            yield start, converted
