"""Files that share a resampler have the samples that they have alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.audio.channels import Waveform
from pipeline.audio.resamplers import give_back, take
from pipeline.audio.windows import Window, decode
from pipeline.config import AudioConfig
from tests.support.sounds import encode, noise

RATES_HZ = (8_000, 16_000, 22_050, 44_100, 48_000, 37_123)  # the last is no usual one


def windows(path: Path, window_s: float = 1800.0) -> Iterator[Window]:
    return decode(str(path), AudioConfig(window_s=window_s), {})


def waveform(path: Path) -> Waveform:
    return np.concatenate([window.waveform for window in windows(path)])


@pytest.fixture(params=RATES_HZ)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Two files of one rate."""
    paths = (tmp_path / "a.wav", tmp_path / "b.wav")
    for path, seconds in zip(paths, (25.0, 0.25), strict=True):
        path.write_bytes(encode(noise(seconds, request.param), "wav", request.param))
    return paths


def fresh(path: Path, monkeypatch: pytest.MonkeyPatch) -> Waveform:
    """As a process that has decoded nothing yet."""
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.audio.resamplers._idle", {})
        return waveform(path)


def test_the_file_before_leaves_nothing_behind(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [fresh(path, monkeypatch) for path in pair]
    for _ in range(2):
        for path, alone in zip(pair, expected, strict=True):
            np.testing.assert_array_equal(waveform(path), alone)


def test_files_that_are_open_together_do_not_share_one(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = pair
    expected = fresh(long, monkeypatch), fresh(short, monkeypatch)
    opened = windows(long, window_s=10.0)
    first = next(opened).waveform
    np.testing.assert_array_equal(waveform(short), expected[1])
    rest = [window.waveform for window in opened]
    np.testing.assert_array_equal(np.concatenate([first, *rest]), expected[0])


def test_threads_that_decode_at_the_same_time_do_not_share_one(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, short = pair
    expected = fresh(short, monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(waveform, [short] * 40):
            np.testing.assert_array_equal(found, expected)


def test_a_file_that_was_left_half_read_gives_nothing_back(pair: tuple[Path, Path]) -> None:
    long, _ = pair
    opened = windows(long, window_s=10.0)
    next(opened)
    del opened
    whole = waveform(long)
    np.testing.assert_array_equal(waveform(long), whole)


def test_a_resampler_is_used_again_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.audio.resamplers._idle", {8_000: []})
    many = [take(8_000) for _ in range(9)]
    for one in many:
        give_back(8_000, 1, one)
    assert {id(take(8_000)) for _ in range(9)} & {id(one) for one in many}
    give_back(37_123, 1, take(37_123))
