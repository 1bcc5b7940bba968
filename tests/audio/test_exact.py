"""Exact counts and values where other tests allow tolerances: samples, limits, cuts, ranges."""

from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from pipeline.audio.windows import Window, decode
from pipeline.config import AudioConfig
from pipeline.errors import RecordingError
from pipeline.schema import SAMPLE_RATE
from tests.support.sounds import encode, float_wav, frequency_of, noise, silence, tone


@pytest.fixture
def decoded(tmp_path: Path) -> Any:
    """The windows of a file of these bytes."""

    def run(data: bytes, window_s: float = 1800.0, **range_s: Any) -> list[Window]:
        (tmp_path / "x").write_bytes(data)
        config = AudioConfig(window_s=window_s)
        return list(decode(str(tmp_path / "x"), config, {}, **range_s))

    return run


def error_of(decoded: Any, data: bytes) -> str:
    with pytest.raises(RecordingError) as caught:
        decoded(data)
    return caught.value.kind


# ------------------------------------------------------------------------ resampling


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_two_seconds_at_any_rate_are_32000_samples(rate_hz: int, decoded: Any) -> None:
    (window,) = decoded(encode(tone(2.0, 440, rate_hz), "wav", rate_hz))
    assert len(window.waveform) == 32_000
    # as loud to the end as it was: nothing is left in the resampler
    peaks = np.abs(window.waveform.reshape(40, -1).astype(int)).max(axis=1) / 32768
    np.testing.assert_allclose(peaks[1:-1], 0.3, atol=0.003)
    assert peaks[-1] > 0.28


@pytest.mark.parametrize(("rate_hz", "other_hz"), [(16_000, 32_000), (44_100, 24_000)])
def test_a_rate_may_change_inside_a_file(rate_hz: int, other_hz: int, decoded: Any) -> None:
    """Two mp3 files, one after the other: each second keeps its pitch."""
    parts = [encode(tone(1.0, 440, rate), "barevbr", rate) for rate in (rate_hz, other_hz)]
    (window,) = decoded(b"".join(parts))
    assert len(window.waveform) / SAMPLE_RATE == pytest.approx(2.0, abs=0.25)
    for second in (window.waveform[3_200:14_400], window.waveform[-14_400:-3_200]):
        assert frequency_of(second) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_32", "FLOAT", "DOUBLE"])
def test_ffmpeg_samples_of_every_type_keep_their_level(subtype: str, decoded: Any) -> None:
    """In a W64 file, which soundfile writes and FFmpeg reads here."""
    samples = np.array([0.0, 0.5, -0.5, 0.25, -1.0] * 200)
    out = BytesIO()
    soundfile.write(out, samples, SAMPLE_RATE, format="W64", subtype=subtype)
    (window,) = decoded(out.getvalue())
    assert window.codec.startswith("w64/pcm_")
    decoded_samples = window.waveform[:5] / 32768
    np.testing.assert_allclose(
        decoded_samples, samples[:5], atol=1 / 128 if subtype == "PCM_U8" else 1e-4
    )
    assert len(window.waveform) == 1_000


# ---------------------------------------------------------------------------- limits


@pytest.mark.parametrize(("peak", "kind"), [(16.0, ""), (-16.0, ""), (17.0, "OutOfRange")])
def test_floats_may_reach_24_decibels_over_full_scale(peak: float, kind: str, decoded: Any) -> None:
    samples = np.zeros(SAMPLE_RATE)
    samples[8_000] = peak
    if kind:
        assert error_of(decoded, float_wav(samples)) == kind
    else:
        (window,) = decoded(float_wav(samples))
        assert window.waveform[8_000] == (32767 if peak > 0 else -32768)


def test_an_out_of_range_sample_is_reported_with_its_time(decoded: Any) -> None:
    samples = np.zeros(SAMPLE_RATE)
    samples[4_000] = -20.0
    with pytest.raises(RecordingError, match=r"20 .*0\.250 s"):
        decoded(float_wav(samples))


def broken_aac(n_broken: int, n_packets: int = 100) -> bytes:
    """ADTS packets of a tone, some with their audio overwritten; their headers stay."""
    data = bytearray(encode(tone(n_packets * 1024 / SAMPLE_RATE), "aac"))
    at, starts = 0, []
    while at < len(data):
        assert data[at] == 0xFF and data[at + 1] >> 4 == 0xF
        size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        starts.append((at, size))
        at += size
    random = np.random.default_rng(0)
    for at, size in starts[5 : 5 + n_broken]:
        data[at + 7 : at + size] = random.bytes(size - 7)
    return bytes(data)


def test_many_broken_packets_are_an_error_and_few_are_a_warning(decoded: Any) -> None:
    """ADTS declares no length, so only the packets show damage; a tenth of them may be broken."""
    assert error_of(decoded, broken_aac(60)) == "Undecodable"
    assert error_of(decoded, broken_aac(12)) == "Undecodable"
    (window,) = decoded(broken_aac(5))
    assert "5 packets" in window.warning
    (whole,) = decoded(broken_aac(0))
    assert whole.warning == ""


def matroska(with_video: bool) -> bytes:
    """Four seconds, the first half of their bytes."""
    out = BytesIO()
    with av.open(out, "w", format="matroska") as container:
        if with_video:
            video: Any = container.add_stream("mpeg4", rate=5)
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio: Any = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for start in range(0, 4 * SAMPLE_RATE, 1_600):
            samples = (noise(4.0)[start : start + 1_600] * 8_000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            container.mux(audio.encode(frame))
    data = out.getvalue()
    return data[: len(data) // 2]


def test_the_length_of_matroska_is_that_of_its_only_stream(decoded: Any) -> None:
    assert error_of(decoded, matroska(with_video=False)) == "Truncated"


def test_the_length_of_matroska_with_video_says_nothing_of_its_audio(decoded: Any) -> None:
    (window,) = decoded(matroska(with_video=True))
    assert len(window.waveform) / SAMPLE_RATE == pytest.approx(2.0, abs=0.2)


# --------------------------------------------------------------------- cuts and ranges


def test_of_equal_pauses_a_window_ends_in_the_last(decoded: Any) -> None:
    """All of it is silent: the cut is in the middle of the last half second."""
    first, second = decoded(encode(silence(12.0)), window_s=10.0)
    assert (len(first.waveform), len(second.waveform)) == (156_000, 36_000)
    assert (first.start_s, second.start_s) == (0.0, 9.75)


def test_a_pause_before_the_last_quarter_of_a_window_is_not_used(decoded: Any) -> None:
    samples = noise(12.0)
    samples[5 * SAMPLE_RATE : 6 * SAMPLE_RATE] = 0
    samples[8 * SAMPLE_RATE : 9 * SAMPLE_RATE] *= 0.5
    first, _ = decoded(encode(samples), window_s=10.0)
    assert 8.0 < len(first.waveform) / SAMPLE_RATE < 9.0


@pytest.mark.parametrize(("kind", "settled"), [("m4a", 0), ("webm", 160)])
def test_a_range_of_a_lossy_file_equals_that_part_of_the_whole(
    kind: str, settled: int, decoded: Any
) -> None:
    """A decoder that starts in the middle needs some packets before its output is right.

    webm is at 48 kHz: the resampler has no samples from before the range for its first ones.
    """
    data = encode(noise(8.0), kind)
    (whole,), (part,) = decoded(data), decoded(data, offset_s=5.0, length_s=2.0)
    expected = whole.waveform[5 * SAMPLE_RATE : 7 * SAMPLE_RATE]
    assert len(part.waveform) == 2 * SAMPLE_RATE
    difference = np.abs(part.waveform.astype(int) - expected)
    assert difference[settled:].max() <= 2
