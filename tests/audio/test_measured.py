"""Decoding with the meter: the same samples, and measures of the file as it is."""

import hashlib
from io import BytesIO

import numpy as np
import pytest

from pipeline.audio.checks import Stretch
from pipeline.audio.meter import Measures
from pipeline.audio.ranges import decode_together
from pipeline.audio.sources import Source
from pipeline.audio.windows import Window, decode_source, hops_of
from pipeline.config import AudioConfig
from tests.support.sounds import encode, noise, tone


def open_bytes(data: bytes) -> Source:
    return Source(BytesIO(data), len(data))


def windows_of(
    data: bytes,
    offset_s: float = 0,
    length_s: float = 0,
    window_s: float = 1800,
    measure: bool = True,
) -> list[Window]:
    config = AudioConfig(window_s=window_s)
    return list(decode_source(open_bytes(data), config, offset_s, length_s, measure=measure))


def measures_of(windows: list[Window]) -> Measures:
    assert [window.measures for window in windows[:-1]] == [None] * (len(windows) - 1)
    assert windows[-1].measures is not None
    return windows[-1].measures


def test_measuring_changes_no_sample() -> None:
    data = encode(noise(2, 44_100), "flac", 44_100)
    (plain,), (measured,) = windows_of(data, measure=False), windows_of(data)
    np.testing.assert_array_equal(plain.waveform, measured.waveform)
    assert (plain.measures, len(plain.levels)) == (None, 0)
    assert len(measured.levels) == 20


def test_the_measures_are_of_both_channels_and_the_rate_of_the_file() -> None:
    """Mixed to one channel it would be silence, at 16 kHz it would end at 8 kHz."""
    left = noise(2, 48_000)
    found = measures_of(windows_of(encode(np.hstack([left, -left]), "flac", 48_000)))
    assert found.channel_correlation == pytest.approx(-1, abs=1e-6)
    assert found.bandwidth_hz == 24_000


def test_the_hash_is_of_the_samples_and_not_of_the_file() -> None:
    samples = noise(1)
    wav, aiff = (windows_of(encode(samples, kind)) for kind in ("wav", "aiff"))
    expected = hashlib.sha256(wav[0].waveform.tobytes()).hexdigest()
    assert measures_of(wav).audio_sha256 == measures_of(aiff).audio_sha256 == expected


def test_windows_share_the_measures_and_divide_the_levels() -> None:
    data = encode(tone(25, rate_hz=44_100) + noise(25, 44_100, 0.01), "wav", 44_100)
    (whole,), parts = windows_of(data), windows_of(data, window_s=10)
    assert len(parts) > 2
    assert measures_of(parts) == measures_of([whole])
    for part in parts:
        first, end = hops_of(part.start_s, part.waveform.size / 16_000)
        np.testing.assert_array_equal(part.levels, whole.levels[first:end])


@pytest.mark.parametrize(("kind", "rate_hz"), [("wav", 16_000), ("flac", 44_100), ("mp3", 44_100)])
def test_parts_that_are_decoded_together_measure_as_each_alone(kind: str, rate_hz: int) -> None:
    fade = np.linspace(0, 1, 8 * rate_hz, dtype=np.float32)[:, None]
    data = encode(noise(8, rate_hz) * fade, kind, rate_hz)
    stretches = [Stretch(0.5, 1.25), Stretch(0.75, 2.0), Stretch(5.0, 1.5)]
    found = dict(decode_together(open_bytes(data), AudioConfig(), stretches, measure=True))
    assert sorted(found) == [0, 1, 2]
    for index, stretch in enumerate(stretches):
        (alone,) = windows_of(data, stretch.offset_s, stretch.length_s)
        (together,) = found[index]
        np.testing.assert_allclose(alone.levels, together.levels, atol=1e-5)
        one, other = measures_of([alone]), measures_of([together])
        # A resampler that started elsewhere may round a sample the other way.
        waveform = together.waveform
        assert other.audio_sha256 == hashlib.sha256(waveform.tobytes()).hexdigest()
        assert one.loudness_lufs == pytest.approx(other.loudness_lufs, abs=1e-6)


def test_a_part_is_measured_from_its_start_to_its_end() -> None:
    samples = np.concatenate([tone(1), 0.1 * tone(1.5), tone(1)])
    (part,) = windows_of(encode(samples, "wav"), 1.0, 1.5)
    assert part.levels[:, 1].max() == pytest.approx(0.03, abs=1e-3)
    assert len(part.levels) == 15
