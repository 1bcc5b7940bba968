"""What the meter measures, against values that follow from the definitions."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.meter import Measures, Meter, Meters
from tests.support.demo import AUDIO
from tests.support.sounds import Samples, noise

Wave = npt.NDArray[np.float64]  # (n_frames,) or (n_frames, n_channels)


def sine(level_db: float, duration_s: float, rate_hz: int = 48_000, phase: float = 0) -> Wave:
    """997 Hz; 0 dB: a peak of 1."""
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    wave: Wave = 10 ** (level_db / 20) * np.sin(2 * np.pi * 997 * times_s + phase)
    return wave


def both(left: Wave, right: Wave | None = None) -> Wave:
    return np.stack([left, left if right is None else right], axis=1)


def sines(*parts: tuple[float, float]) -> Wave:
    """Stereo, of (level_db, duration_s)."""
    return both(np.concatenate([sine(*part) for part in parts]))


def measured(wave: Wave | Samples, rate_hz: int = 48_000) -> Measures:
    meter = Meter()
    meter.add(wave.reshape(len(wave), -1).astype(np.float32), rate_hz)
    meter.finish()
    return meter.measures()


@pytest.mark.parametrize(
    ("wave", "expected"),
    [
        (sine(0, 5), -3.01),
        (sine(-20, 5), -23.01),
        (both(sine(-23, 5)), -23.00),
        (both(sine(-23, 5), 0 * sine(-23, 5)), -26.01),
        (both(sine(-23, 5), -sine(-23, 5)), -23.00),
        (sine(-20, 0.3), -23.01),  # shorter than a block: the plain mean
    ],
)
def test_the_loudness_of_a_sine(wave: Wave, expected: float) -> None:
    assert measured(wave).loudness_lufs == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("rate_hz", "expected"), [(44_100, -23.008), (16_000, -22.97), (8_000, -22.996)]
)
def test_the_loudness_at_other_rates(rate_hz: int, expected: float) -> None:
    found = measured(sine(-20, 5, rate_hz), rate_hz).loudness_lufs
    assert found == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(-36, 10), (-23, 60), (-36, 10)], -23.01),
        ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23.01),
        ([(-26, 20), (-20, 20.1), (-26, 20)], -22.98),
    ],
)
def test_cases_3_to_5_of_ebu_tech_3341(parts: list[tuple[float, float]], expected: float) -> None:
    assert measured(sines(*parts)).loudness_lufs == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize(
    ("levels_db", "expected"),
    [((-20, -30), 10), ((-20, -15), 5), ((-40, -20), 20), ((-50, -35, -20, -35, -50), 15)],
)
def test_cases_1_to_4_of_ebu_tech_3342(levels_db: tuple[float, ...], expected: float) -> None:
    found = measured(sines(*((level_db, 20) for level_db in levels_db))).loudness_range_lu
    assert found == pytest.approx(expected, abs=0.05)


def test_digital_silence_has_no_loudness_and_no_bandwidth() -> None:
    found = measured(np.zeros((48_000, 2)))
    assert (found.clipped_share, found.dc_offset) == (0, 0)
    others = {
        *(found.loudness_lufs, found.loudness_range_lu, found.sample_peak_dbfs),
        *(found.channel_correlation, found.channel_difference_db),
        *(found.bandwidth_hz, found.bandwidth_drop_db),
    }
    assert all(math.isnan(value) for value in others)


def test_no_samples_at_all() -> None:
    meter = Meter()
    meter.finish()
    assert math.isnan(meter.measures().loudness_lufs)
    assert meter.levels().shape == (0, 3)


@pytest.mark.parametrize(
    ("wave", "rate_hz", "expected"),
    [
        (np.clip(3 * sine(0, 10, 16_000), -1, 1), 16_000, 2 / math.pi * math.acos(1 / 3)),
        (np.clip(1.1 * sine(0, 1), -1, 1), 48_000, 2 / math.pi * math.acos(1 / 1.1)),
        (sine(0, 10, 16_000), 16_000, 0),  # its peaks are shorter than three samples
        (both(np.ones(16_000), np.zeros(16_000)), 16_000, 0.5),
    ],
)
def test_the_share_of_clipped_samples(wave: Wave, rate_hz: int, expected: float) -> None:
    assert measured(wave, rate_hz).clipped_share == pytest.approx(expected, abs=0.001)


def test_the_peak_and_the_offset_of_the_worst_channel() -> None:
    found = measured(both(sine(-20, 5) - 0.1, sine(-20, 5)))
    assert found.dc_offset == pytest.approx(-0.1, abs=1 / 32768)
    assert found.sample_peak_dbfs == pytest.approx(20 * math.log10(0.2), abs=0.01)


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        (sine(-20, 2), 1.0),
        (-sine(-20, 2), -1.0),
        (sine(-30, 2) + 0.1, 1.0),
        (sine(-20, 2, phase=math.pi / 2), 0.0),
    ],
)
def test_the_correlation_of_two_channels(right: Wave, expected: float) -> None:
    found = measured(both(sine(-20, 2), right))
    assert found.channel_correlation == pytest.approx(expected, abs=0.001)


def test_one_sided_stereo_has_a_difference_and_no_correlation() -> None:
    found = measured(both(sine(-20, 2), 0 * sine(-20, 2)))
    assert math.isnan(found.channel_correlation)
    assert found.channel_difference_db == pytest.approx(120 - 23.01, abs=0.01)
    quieter = measured(both(sine(-20, 2), sine(-35, 2)))
    assert quieter.channel_difference_db == pytest.approx(15, abs=0.001)


@pytest.mark.parametrize("name", ["en_neutral.wav", "en_happy.mp3", "zh_neutral_44k_stereo.wav"])
def test_speech_that_was_once_at_8_khz(name: str) -> None:
    samples, rate_hz = soundfile.read(AUDIO / name, dtype="float32", always_2d=True)
    narrow = soxr.resample(soxr.resample(samples[:, 0], rate_hz, 8_000), 8_000, 16_000)
    found = measured(narrow, 16_000)
    assert found.bandwidth_hz == pytest.approx(3_900, abs=100)
    assert found.bandwidth_drop_db > 40


def test_a_file_of_44_khz_that_was_once_at_16() -> None:
    path = AUDIO / "zh_neutral_44k_stereo.wav"
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    found = measured(samples, rate_hz)
    assert found.bandwidth_hz == pytest.approx(8_000, abs=100)
    assert found.bandwidth_drop_db > 40


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_white_noise_has_no_edge(rate_hz: int) -> None:
    found = measured(noise(20, rate_hz), rate_hz)
    assert found.bandwidth_hz == rate_hz / 2
    assert found.bandwidth_drop_db < 15


def stream(rate_hz: int, n_frames: int, n_channels: int) -> Samples:
    wave = np.random.default_rng(n_frames).standard_normal((n_frames, n_channels))
    return np.clip(0.7 * wave, -1, 1).astype(np.float32)  # clips, too


@settings(max_examples=60, deadline=None)
@given(
    rate_hz=st.sampled_from([8_000, 11_025, 16_000, 44_100]),
    n_channels=st.integers(1, 3),
    n_frames=st.integers(0, 20_000),
    cuts=st.lists(st.integers(0, 20_000), max_size=12),
)
def test_every_division_into_blocks_gives_the_same(
    rate_hz: int, n_channels: int, n_frames: int, cuts: list[int]
) -> None:
    samples = stream(rate_hz, n_frames, n_channels)
    whole, blocks = Meter(), Meter()
    whole.add(samples, rate_hz)
    places = sorted({0, n_frames, *(min(cut, n_frames) for cut in cuts)})
    for start, end in pairwise(places):
        blocks.add(samples[start:end], rate_hz)
    for meter in (whole, blocks):
        meter.finish()
    np.testing.assert_array_equal(whole.levels(), blocks.levels())
    one, other = whole.measures(), blocks.measures()
    for name in Measures.__slots__:
        if name == "audio_sha256":
            continue
        # The order in which spectra are added may change the last digits.
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)


def test_levels_are_of_hops_of_100_ms() -> None:
    meter = Meter()
    meter.add(both(np.repeat([0.25, 1.0, 0.5], [1_102, 1_103, 500])).astype(np.float32), 11_025)
    assert meter.levels()[:, 1:].tolist() == [[0.25, 0.0], [1.0, 1.0]]
    meter.finish()
    assert meter.levels(2).shape == (1, 3)
    assert meter.levels()[2, 1] == 0.5


def test_a_change_of_the_rate_keeps_the_grid_of_hops() -> None:
    """As in HE-AAC and chained Ogg: 0.25 s, then 0.25 s at another rate and with two channels."""
    meter = Meter()
    meter.add(0.25 * np.ones((4_000, 1), np.float32), 16_000)
    meter.add(0.5 * np.ones((12_000, 2), np.float32), 48_000)
    meter.finish()
    assert meter.duration_s == 0.5
    assert meter.levels()[:, 1].tolist() == [0.25, 0.25, 0.5, 0.5, 0.5]
    assert meter.measures().dc_offset == 0.25  # of the first of the longest stretches


def test_a_change_of_the_rate_keeps_the_loudness() -> None:
    meter = Meter()
    meter.add(sine(-20, 5, 16_000)[:, None].astype(np.float32), 16_000)
    meter.add(sine(-20, 5, 48_000)[:, None].astype(np.float32), 48_000)
    meter.finish()
    assert meter.measures().loudness_lufs == pytest.approx(-22.99, abs=0.02)


def test_meters_take_their_stretch_only_and_nothing_twice() -> None:
    samples = stream(16_000, 32_000, 1)
    wanted = [(Meter(), 0.25, 1.5), (Meter(), 0.0, math.inf), (Meter(), 1.0, 1.25)]
    meters = Meters(wanted)
    for start in (0, 5_000, 10_000):  # a decoder that fails ...
        meters.add(samples[start : start + 5_000], start / 16_000, 16_000)
    for start in range(0, 32_000, 7_000):  # ... and one that starts again
        meters.add(samples[start : start + 7_000], start / 16_000, 16_000)
    for meter, start_s, end_s in wanted:
        alone = Meter()
        alone.add(samples[round(start_s * 16_000) : round(min(end_s, 2) * 16_000)], 16_000)
        for one in (alone, meter):
            one.finish()
        np.testing.assert_array_equal(meter.levels(), alone.levels())


def test_a_long_silence_is_not_slower_than_sound() -> None:
    """The filters' values would become so small that a processor handles them one by one."""
    import time

    def seconds(samples: Samples) -> float:
        meter = Meter()
        meter.add(noise(1, level=0.5), 16_000)
        start = time.process_time()
        meter.add(samples, 16_000)
        return time.process_time() - start

    loud = min(seconds(noise(120)) for _ in range(3))
    assert min(seconds(np.zeros((120 * 16_000, 1), np.float32)) for _ in range(3)) < 3 * loud
