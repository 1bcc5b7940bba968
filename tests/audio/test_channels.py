"""Channels that are labelled each on its own: each is what a file of this channel would be."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audio.channels import MIXED, Selection, originals_of
from pipeline.audio.checks import Stretch
from pipeline.audio.downmix import Downmix
from pipeline.audio.ranges import decode_together
from pipeline.audio.sources import Source
from pipeline.audio.windows import Window, decode, decode_source
from pipeline.config import AudioConfig
from pipeline.errors import RecordingError
from tests.support.sounds import encode, noise, silence, tone

RATE = 16_000


def side_by_side(*channels: np.ndarray) -> np.ndarray:
    return np.concatenate(channels, axis=1)


def windows_of(data: bytes, channel: int = 0, **config: Any) -> list[Window]:
    source = Source(BytesIO(data), len(data))
    return list(decode_source(source, AudioConfig(**config), channel=channel))


def by_channel(windows: list[Window]) -> dict[int, np.ndarray]:
    found: dict[int, list[np.ndarray]] = {}
    for window in windows:
        found.setdefault(window.channel, []).append(window.waveform)
    return {channel: np.concatenate(pieces) for channel, pieces in found.items()}


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("kind", ["wav", "flac", "mkv"])
def test_each_channel_has_the_samples_of_a_file_of_its_own(kind: str, rate_hz: int) -> None:
    left, right = tone(3.0, 300, rate_hz), noise(3.0, rate_hz)
    split = windows_of(encode(side_by_side(left, right), kind, rate_hz), channels="split")
    assert [window.channel for window in split] == [1, 2]
    for window, alone in zip(split, (left, right), strict=True):
        (expected,) = windows_of(encode(alone, kind, rate_hz))
        assert np.array_equal(window.waveform, expected.waveform)
        assert (window.start_s, window.channels, window.is_only) == (0.0, 2, True)
    assert [(window.index, window.is_last) for window in split] == [(0, False), (1, True)]


def test_one_channel_can_be_asked_for_by_its_number_by_rule_or_by_the_manifest() -> None:
    quiet, loud = noise(2.0, level=0.01), noise(2.0, level=0.2, seed=1)
    data = encode(side_by_side(quiet, loud))
    each = by_channel(windows_of(data, channels="split"))
    for channel, config in ((1, "first"), (2, "loudest")):
        assert by_channel(windows_of(data, channels=config)).keys() == {channel}
        (window,) = windows_of(data, channels=config)
        assert np.array_equal(window.waveform, each[channel])
    for config in ("mix", "split", "first", "loudest"):
        (window,) = windows_of(data, channel=2, channels=config)
        assert window.channel == 2
        assert np.array_equal(window.waveform, each[2])


@pytest.mark.parametrize("mode", ["mix", "split", "first", "loudest"])
def test_a_mono_file_is_one_stream_of_all_channels(mode: str) -> None:
    (window,) = windows_of(encode(noise(1.0)), channels=mode)
    assert (window.channel, window.warning) == (MIXED, "")


def test_the_loudest_channel_of_the_first_window_is_kept() -> None:
    """A choice per window would jump between two speakers."""
    first = side_by_side(noise(20.0, level=0.01), noise(20.0, level=0.1, seed=1))
    swapped = np.concatenate([first, first[:, ::-1]])
    windows = windows_of(encode(swapped), channels="loudest", window_s=20.0)
    assert len(windows) > 2
    assert {window.channel for window in windows} == {2}
    assert sum(len(window.waveform) for window in windows) == len(swapped)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "m4a", "opus"])
def test_two_equal_channels_are_labelled_once(kind: str) -> None:
    """Also where a codec has made them not quite equal (AAC even makes up noise per channel)."""
    rate_hz = 48_000 if kind == "opus" else RATE
    same = np.repeat(tone(3.0, 300, rate_hz) + tone(3.0, 1234, rate_hz), 2, axis=1)
    (window,) = windows_of(encode(same, kind, rate_hz), channels="split")
    assert window.channel == MIXED
    assert window.is_last
    assert window.warning == "channel 2 has the signal of channel 1"
    (mixed,) = windows_of(encode(same, kind, rate_hz))
    assert np.abs(window.waveform.astype(int) - mixed.waveform).max() <= 1


def test_a_quiet_word_in_one_channel_makes_two_streams_of_it() -> None:
    """The test compares seconds: over an hour, a quiet second would be lost in the sum."""
    left = noise(40.0, level=0.3)
    right = left.copy()
    right[20 * RATE : 20 * RATE + RATE // 2] += 0.01 * tone(0.5)
    split = windows_of(encode(side_by_side(left, right)), channels="split")
    assert [window.channel for window in split] == [1, 2]


def test_of_four_channels_those_that_repeat_another_are_left_out() -> None:
    one, other = noise(1.0), tone(1.0)
    split = windows_of(encode(side_by_side(one, other, one, silence(1.0))), channels="split")
    assert [window.channel for window in split] == [1, 2, 4]
    assert split[0].warning == "channel 3 has the signal of channel 1"
    kept = np.stack([window.waveform for window in split], axis=1)
    assert originals_of(kept) == [1, 2, 3]


def test_windows_of_several_channels_share_the_memory_of_one() -> None:
    data = encode(side_by_side(noise(70.0), noise(70.0, seed=1)))
    windows = windows_of(data, channels="split", window_s=40.0)
    assert max(len(window.waveform) for window in windows) <= 20 * RATE
    assert [window.index for window in windows] == list(range(len(windows)))
    assert [window.channel for window in windows] == [1, 2] * (len(windows) // 2)
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
    assert not any(window.is_only for window in windows)
    assert {len(waveform) for waveform in by_channel(windows).values()} == {70 * RATE}
    pairs = zip(windows[::2], windows[1::2], strict=True)
    assert all(left.start_s == right.start_s for left, right in pairs)


@pytest.mark.parametrize("mode", ["split", "loudest", "first"])
def test_parts_that_are_decoded_together_are_those_that_are_decoded_alone(mode: str) -> None:
    data = encode(side_by_side(tone(30.0, 300), noise(30.0)), "flac")
    config = AudioConfig(channels=mode, window_s=20.0)
    stretches = [Stretch(1.0, 2.0), Stretch(2.5, 3.0), Stretch(4.0, 15.0)]
    source = Source(BytesIO(data), len(data))
    together = dict(decode_together(source, config, stretches))
    # In two channels 15 s are two windows: that part is left to be decoded alone.
    assert set(together) == ({0, 1} if mode != "first" else {0, 1, 2})
    for index, windows in together.items():
        stretch = stretches[index]
        alone = list(decode_source(source, config, stretch.offset_s, stretch.length_s))
        assert [window.channel for window in windows] == [window.channel for window in alone]
        for ours, theirs in zip(windows, alone, strict=True):
            assert np.array_equal(ours.waveform, theirs.waveform)
            assert (ours.index, ours.is_last) == (theirs.index, theirs.is_last)


def test_a_channel_that_the_file_does_not_have_is_an_error() -> None:
    data = encode(side_by_side(noise(1.0), tone(1.0)))
    with pytest.raises(RecordingError, match="channel 3 of a file with 2 channels") as error:
        windows_of(data, channel=3)
    assert error.value.kind == "BadChannel"


def test_channels_that_come_in_the_middle_are_told_where_they_are_kept_apart() -> None:
    selection, mix = Selection("split"), Downmix()
    two, six = np.zeros((10, 2), np.float32), np.zeros((10, 6), np.float32)
    selection.keep(two, 0.0, (), mix)
    assert selection.keep(two[:, :1], 1.0, (), mix).shape == (10, 2)  # the mono part is in both
    with pytest.raises(RecordingError, match=r"2 channels become 6 at 2\.50 s.*mix") as error:
        selection.keep(six, 2.5, (), mix)
    assert error.value.kind == "BadChannel"


def test_a_file_that_ends_early_accounts_for_the_seconds_of_both_channels(tmp_path: Path) -> None:
    data = encode(side_by_side(noise(60.0), noise(60.0, seed=1)))
    path = tmp_path / "cut.wav"
    path.write_bytes(data[: len(data) // 2])
    config = AudioConfig(channels="split", window_s=40.0)
    windows: list[Window] = []
    with pytest.raises(RecordingError, match="decoded of") as error:
        windows.extend(decode(str(path), config, {}))
    n_samples = sum(len(window.waveform) for window in windows)
    assert n_samples
    lost_s = error.value.found["duration_s"]
    assert n_samples / RATE + lost_s == pytest.approx(60.0, abs=0.1)
