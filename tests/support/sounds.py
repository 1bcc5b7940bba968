"""Test audio: tones, noise and silence, in every container that the pipeline reads.

Samples are float32 (n_samples, channels), full scale 1.
"""

import struct
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Samples = npt.NDArray[np.float32]

_SOUNDFILE = {  # kind: (format, subtype)
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wavfloat": ("WAV", "FLOAT"),
    "ulaw": ("WAV", "ULAW"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
_FFMPEG = {  # kind: (container, codec)
    "m4a": ("ipod", "aac"),
    "aac": ("adts", "aac"),
    "webm": ("webm", "libopus"),
    "mkv": ("matroska", "pcm_s16le"),
    "wma": ("asf", "wmav2"),
    "mp4": ("mp4", "aac"),  # with a video stream, which comes first
    "amr": ("amr", "libopencore_amrnb"),
    "barevbr": ("mp3", "libmp3lame"),  # variable bit rate, and no header that tells the length
}
KINDS = (*_SOUNDFILE, *_FFMPEG)
_RATES = {"webm": 48_000, "amr": 8_000}  # what the codec insists on


def tone(
    duration_s: float, frequency_hz: float = 440.0, rate_hz: int = 16_000, channels: int = 1
) -> Samples:
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    wave = 0.3 * np.sin(2 * np.pi * frequency_hz * times_s)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def noise(duration_s: float, rate_hz: int = 16_000, level: float = 0.1, seed: int = 0) -> Samples:
    n_samples = round(duration_s * rate_hz)
    values = np.random.default_rng(seed).standard_normal((n_samples, 1), np.float32)
    return values * np.float32(level)


def silence(duration_s: float, rate_hz: int = 16_000) -> Samples:
    return np.zeros((round(duration_s * rate_hz), 1), np.float32)


def encode(samples: Samples, kind: str = "wav", rate_hz: int = 16_000) -> bytes:
    """A whole file in memory, of one of KINDS."""
    if kind in _SOUNDFILE:
        return _encode_soundfile(samples, kind, rate_hz)
    return _encode_ffmpeg(samples, kind, rate_hz)


def wav(
    samples: bytes, fmt: int = 1, channels: int = 1, rate_hz: int = 16_000, bits: int = 16
) -> bytes:
    """A WAV file of raw samples whose header says whatever it is told to."""
    align = channels * bits // 8
    head = struct.pack("<HHIIHH", fmt, channels, rate_hz, rate_hz * align, align, bits)
    whole, size = (struct.pack("<I", n) for n in (36 + len(samples), len(samples)))
    return b"RIFF" + whole + b"WAVEfmt \x10\0\0\0" + head + b"data" + size + samples


def float_wav(samples: npt.NDArray[Any]) -> bytes:
    return wav(samples.astype("<f4").tobytes(), fmt=3, bits=32)


def frequency_of(waveform: npt.NDArray[Any], rate_hz: int = 16_000) -> float:
    """The strongest frequency of (n_samples,), Hz."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(spectrum.argmax() * rate_hz / len(waveform))


def _encode_soundfile(samples: Samples, kind: str, rate_hz: int) -> bytes:
    container, codec = _SOUNDFILE[kind]
    out = BytesIO()
    with soundfile.SoundFile(
        out, "w", rate_hz, samples.shape[1], format=container, subtype=codec
    ) as file:
        # libvorbis keeps the samples of a write on the stack: a minute at once is a segfault.
        for start in range(0, len(samples), 16_384):
            file.write(samples[start : start + 16_384])
    return out.getvalue()


def _encode_ffmpeg(samples: Samples, kind: str, rate_hz: int) -> bytes:
    container_name, codec = _FFMPEG[kind]
    if kind in _RATES:
        samples = soxr.resample(samples, rate_hz, _RATES[kind])
        rate_hz = _RATES[kind]
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[samples.shape[1]]
    bare = {"write_xing": "0"} if kind == "barevbr" else {}
    out = BytesIO()
    with av.open(out, "w", format=container_name, options=bare) as container:
        video = add_video(container) if kind == "mp4" else None
        stream: Any = container.add_stream(codec, rate=rate_hz, layout=layout)
        if kind == "barevbr":
            stream.codec_context.options = {"q": "4"}
        elif kind == "wma":
            stream.bit_rate = 64_000
        if video:
            write_video(container, video, len(samples) / rate_hz)
        _write_audio(container, stream, samples, rate_hz, layout)
    return out.getvalue()


def _write_audio(container: Any, stream: Any, samples: Samples, rate_hz: int, layout: str) -> None:
    # Packed: of 8 planes, PyAV's from_ndarray looks for a ninth.
    packed = np.ascontiguousarray(samples).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    frame.sample_rate = rate_hz
    if not stream.codec_context.is_open:  # writing video has opened it
        stream.codec_context.open()
    resampler = av.AudioResampler(
        stream.format, layout, rate_hz, frame_size=stream.codec_context.frame_size or 1024
    )
    for piece in (*resampler.resample(frame), *resampler.resample(None), None):
        container.mux(stream.encode(piece))


def add_video(container: Any) -> Any:
    video = container.add_stream("mpeg4", rate=5)
    video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
    return video


def write_video(container: Any, video: Any, duration_s: float) -> None:
    for index in range(round(duration_s * 5)):
        frame = av.VideoFrame(32, 32, "yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, 5)
        container.mux(video.encode(frame))
    container.mux(video.encode(None))
