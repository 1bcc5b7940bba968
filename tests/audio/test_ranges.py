"""Parts of one file in one decoding: the same samples as the whole, each with its own faults."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from pipeline.audio import ranges, windows
from pipeline.audio.channels import Selection
from pipeline.audio.checks import Report, Stretch
from pipeline.audio.ranges import decode_together
from pipeline.audio.sources import Source
from pipeline.audio.windows import decode_source
from pipeline.config import AudioConfig
from pipeline.errors import RecordingError
from tests.support.sounds import encode

RATE = 16_000
SPEECH = np.random.default_rng(3).normal(0, 0.1, 40 * RATE).astype(np.float32)
PARTS = [Stretch(1.3 * k + 0.0371, 1.0) for k in range(25)]


def open_bytes(data: bytes) -> Source:
    return Source(BytesIO(data), len(data))


def whole(data: bytes) -> np.ndarray:
    pieces = [window.waveform for window in decode_source(open_bytes(data), AudioConfig())]
    return np.concatenate(pieces)


def together(data: bytes, parts: list[Stretch], **config: Any) -> dict[int, Any]:
    found = dict(decode_together(open_bytes(data), AudioConfig(**config), parts))
    return {index: window for index, (window,) in found.items()}


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
def test_a_part_has_the_samples_of_the_whole(kind: str, rate_hz: int) -> None:
    """Resampling does not begin at the part: its first 3.5 ms were others."""
    data = encode(SPEECH[: 6 * rate_hz, None], kind, rate_hz)
    samples = whole(data)
    for offset_s in (0.0, 1.0, 2.4321, 3.999):
        stretch = Stretch(offset_s, 1.5)
        (window,) = decode_source(open_bytes(data), AudioConfig(), stretch.offset_s, 1.5)
        start = round(offset_s * RATE)
        expected = samples[start : start + stretch.n_samples].astype(int)
        assert window.waveform.size == expected.size
        # The last bit of a resampled sample depends on the blocks, and of an mp3's on its place.
        is_exact = rate_hz == RATE and kind != "mp3"
        assert np.abs(window.waveform - expected).max() <= (0 if is_exact else 1)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_parts_that_are_decoded_together_are_those_that_are_decoded_alone(kind: str) -> None:
    data = encode(SPEECH[:, None], kind, RATE)
    shuffled = [*PARTS[10:], *PARTS[:10], Stretch(2.0, 20.0), Stretch(2.5, 0.5)]
    found = together(data, shuffled)
    assert set(found) == set(range(len(shuffled)))
    for index, stretch in enumerate(shuffled):
        (alone,) = decode_source(
            open_bytes(data), AudioConfig(), stretch.offset_s, stretch.length_s
        )
        assert found[index].start_s == alone.start_s
        difference = found[index].waveform.astype(int) - alone.waveform
        assert np.abs(difference).max() <= (1 if kind == "mp3" else 0)
        assert found[index].codec == alone.codec


@pytest.mark.parametrize("kind", ["mp3", "ogg", "m4a"])
def test_a_file_is_decoded_once_for_all_of_its_parts(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(SPEECH[:, None], kind, RATE)
    decoded: list[float] = []

    def counting(source: Source, report: Report, selection: Selection) -> Iterator[Any]:
        for piece in windows.samples(source, report, selection):
            decoded.append(len(piece) / RATE)
            yield piece

    monkeypatch.setattr(ranges, "samples", counting)
    found = together(data, PARTS)
    assert len(found) == len(PARTS)
    assert sum(decoded) < 41


@pytest.mark.parametrize("error", [ValueError("a bug"), MemoryError(), SystemExit(1)])
def test_whatever_fails_is_left_to_be_decoded_alone(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(SPEECH[:, None], "mp3", RATE)

    def failing(source: Source, report: Report, selection: Selection) -> Iterator[Any]:
        for number, piece in enumerate(windows.samples(source, report, selection)):
            if number == 3:
                raise error
            yield piece

    monkeypatch.setattr(ranges, "samples", failing)
    found = together(data, PARTS)
    assert 0 < len(found) < len(PARTS)
    monkeypatch.setattr(ranges, "format_of", lambda source: (_ for _ in ()).throw(error))
    assert together(data, PARTS) == {}


def test_long_parts_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining piece by piece copied a part of half an hour 250 times: five times slower."""
    data = encode(SPEECH[:, None], "flac", RATE)
    copied: list[int] = []
    concatenate = np.concatenate

    def counting(pieces: Any) -> Any:
        joined = concatenate(pieces)
        copied.append(joined.size)
        return joined

    def small_pieces(source: Source, report: Report, selection: Selection) -> Iterator[Any]:
        for piece in windows.samples(source, report, selection):
            yield from np.array_split(piece, max(1, len(piece) // 400))

    monkeypatch.setattr(ranges, "samples", small_pieces)
    monkeypatch.setattr(np, "concatenate", counting)
    found = together(data, [Stretch(0, 30), Stretch(5, 30)])
    assert len(found) == 2
    assert sum(copied) < 2 * 60 * RATE  # and the blocks of the decoder


def test_a_file_with_an_index_is_not_read_between_far_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode(np.tile(SPEECH, 5)[:, None], "wav", RATE)
    spans: list[tuple[float, float]] = []

    def noting(source: Source, report: Report, selection: Selection) -> Iterator[Any]:
        spans.append((report.stretch.offset_s, report.stretch.length_s))
        return windows.samples(source, report, selection)

    monkeypatch.setattr(ranges, "samples", noting)
    found = together(data, [Stretch(1, 1), Stretch(3, 1), Stretch(150, 1), Stretch(152, 2)])
    assert spans == [(1.0, 3.0), (150.0, 4.0)]
    assert set(found) == {0, 1, 2, 3}


def test_what_is_not_certain_is_left_to_be_decoded_alone() -> None:
    """Beyond the end, shorter than a frame, longer than a window or than is allowed."""
    data = encode(SPEECH[:, None], "wav", RATE)
    parts = [Stretch(1, 1), Stretch(39.5, 1), Stretch(3, 0.001), Stretch(0, 30), Stretch(5, 1)]
    found = together(data, parts, window_s=25.0)
    assert set(found) == {0, 4}
    assert set(together(data, parts, max_duration_s=0.5)) == set()


def test_parts_over_full_scale_get_their_own_warning() -> None:
    loud = SPEECH.copy()
    loud[20 * RATE : 22 * RATE] *= 20
    data = encode(loud[:, None], "wavfloat", RATE)
    parts = [Stretch(1, 1), Stretch(20.5, 1), Stretch(35, 1)]
    found = together(data, parts)
    assert 1 not in found
    assert {0, 2} <= set(found)
    (alone,) = decode_source(open_bytes(data), AudioConfig(), 20.5, 1)
    assert "over full scale" in alone.warning


def test_a_file_that_breaks_off_gives_what_is_before() -> None:
    data = encode(SPEECH[:, None], "flac", RATE)
    found = together(data[: len(data) // 2], PARTS)
    assert all(PARTS[index].offset_s < 21 for index in found)
    assert all(found[index].waveform.size == RATE for index in found)
    with pytest.raises(RecordingError):
        list(decode_source(open_bytes(data[: len(data) // 2]), AudioConfig(), 30, 1))
