import gzip
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.audio import sources as audio_files
from pipeline.audio.windows import Window, decode
from pipeline.config import AudioConfig
from pipeline.errors import RecordingError
from pipeline.schema import SAMPLE_RATE
from tests.support.sounds import KINDS, encode, float_wav, frequency_of, noise, silence, tone, wav

CONFIG = AudioConfig()
SHORT_WINDOWS = AudioConfig(window_s=10)
# The frequency shows the second.
STAIRS = np.concatenate([tone(1, 300 + 200 * second) for second in range(8)])
SEEKABLE = ("wav", "flac", "mp3", "ogg", "m4a", "webm", "mp4", "amr", "barevbr")


@pytest.fixture
def decoded(tmp_path: Path) -> Any:
    """Decode bytes as a file `name`."""

    def run(data: bytes, name: str = "x", config: AudioConfig = CONFIG, **range_s: Any) -> Any:
        path = tmp_path / name
        path.write_bytes(data)
        return list(decode(str(path), config, {}, **range_s))

    return run


def joined(windows: list[Window]) -> np.ndarray:
    return np.concatenate([window.waveform for window in windows])


# ------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_decodes_to_its_length_and_pitch(kind: str, decoded: Any) -> None:
    (window,) = decoded(encode(tone(3, 440), kind))
    assert len(window.waveform) / SAMPLE_RATE == pytest.approx(3, abs=0.1)
    assert frequency_of(window.waveform) == pytest.approx(440, abs=2)
    assert window.waveform.dtype == np.int16
    assert (window.index, window.start_s, window.is_last) == (0, 0.0, True)
    assert window.codec


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (11_025, 2), (44_100, 2)])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "m4a", "mp4"])
def test_every_rate_comes_out_at_16_khz(
    kind: str, rate_hz: int, channels: int, decoded: Any
) -> None:
    (window,) = decoded(encode(tone(2, 440, rate_hz, channels), kind, rate_hz))
    assert len(window.waveform) / SAMPLE_RATE == pytest.approx(2, abs=0.3)
    assert frequency_of(window.waveform) == pytest.approx(440, abs=2)
    assert (window.sample_rate_hz, window.channels) == (rate_hz, channels)


def test_16_bit_samples_at_16_khz_come_out_unchanged(decoded: Any) -> None:
    samples = np.arange(-32768, 32768, 3, dtype="<i2")
    (window,) = decoded(wav(samples.tobytes()))
    np.testing.assert_array_equal(window.waveform, samples)


def test_channels_are_averaged(decoded: Any) -> None:
    stereo = np.stack([np.full(16_000, 1000), np.full(16_000, 3000)], axis=1).astype("<i2")
    (window,) = decoded(wav(stereo.tobytes(), channels=2))
    assert set(window.waveform.tolist()) == {2000}


@pytest.mark.parametrize("kind", ["m4a", "wav", "flac", "ogg"])
@pytest.mark.parametrize("channels", [6, 8])  # PyAV's own to_ndarray crashes with 8 planes
def test_surround_sound_is_averaged_too(kind: str, channels: int, decoded: Any) -> None:
    (window,) = decoded(encode(tone(2, 440, 48_000, channels), kind, 48_000))
    assert window.channels == channels
    assert frequency_of(window.waveform) == pytest.approx(440, abs=2)


def test_loud_float_samples_are_clipped_not_wrapped(decoded: Any) -> None:
    (window,) = decoded(float_wav(np.array([1.5, -1.5] * 800)))
    assert set(window.waveform.tolist()) == {32767, -32768}


@pytest.mark.parametrize(("kind", "name"), [("mp3", "a.wav"), ("wav", "a.mp3"), ("m4a", "a.txt")])
def test_the_name_of_a_file_does_not_matter(kind: str, name: str, decoded: Any) -> None:
    assert frequency_of(joined(decoded(encode(tone(2, 700), kind), name))) == pytest.approx(700, 1)


def test_silence_is_decoded_like_other_recordings(decoded: Any) -> None:
    assert not joined(decoded(encode(silence(2)))).any()


def test_tags_that_are_not_utf_8_are_ignored(decoded: Any) -> None:
    title = "标题".encode("gbk") + b"\0"
    tag = b"LIST" + struct.pack("<I", 12 + len(title)) + b"INFOINAM"
    data = encode(tone(1), "wav") + tag + struct.pack("<I", len(title)) + title
    assert len(joined(decoded(data))) == SAMPLE_RATE


# ---------------------------------------------------------------------------- windows


@pytest.mark.parametrize("kind", ["wav", "mp3", "ogg", "m4a"])
def test_windows_join_to_the_whole_sample_for_sample(kind: str, decoded: Any) -> None:
    data = encode(noise(47, 22_050), kind, 22_050)
    windows = decoded(data, config=SHORT_WINDOWS)
    whole = joined(decoded(data))
    assert len(windows) > 4
    np.testing.assert_array_equal(joined(windows), whole)
    lengths = [len(window.waveform) for window in windows]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) / SAMPLE_RATE
    assert [window.start_s for window in windows] == starts.tolist()
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
    assert max(lengths) <= 10 * SAMPLE_RATE


def test_a_window_ends_in_the_middle_of_the_quietest_half_second(decoded: Any) -> None:
    samples = np.concatenate([noise(8.5), silence(0.5), noise(4)])
    _, second = decoded(encode(samples), config=SHORT_WINDOWS)
    assert second.start_s == pytest.approx(8.75)


def test_a_recording_as_long_as_a_window_is_one_window(decoded: Any) -> None:
    assert len(decoded(encode(noise(10)), config=SHORT_WINDOWS)) == 1


def test_one_sample_more_makes_two_windows_of_sensible_length(decoded: Any) -> None:
    _, second = decoded(encode(noise(10 + 1 / SAMPLE_RATE)), config=SHORT_WINDOWS)
    assert len(second.waveform) > SAMPLE_RATE / 4


_PEAK = """
import re, sys
from pathlib import Path
from pipeline.audio.windows import decode
from pipeline.config import AudioConfig
def peak_mib():  # not ru_maxrss, which includes the parent before exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = peak_mib()
seconds = sum(len(w.waveform) for w in decode(sys.argv[1], AudioConfig(window_s=60), {})) / 16000
print(seconds, peak_mib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["flac", "mp3"])  # one through soundfile, one through FFmpeg
def test_memory_does_not_grow_with_the_length_of_a_recording(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "long"
    minute = encode(np.concatenate([noise(1), silence(59)]), kind)
    path.write_bytes(encode(silence(2400), kind) if kind == "flac" else minute * 40)
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    seconds, grown_mib = map(float, run.stdout.split())
    assert seconds == pytest.approx(2400, rel=0.01)
    assert grown_mib < 50  # the whole is 73 MiB as int16, and twice that as float32


# ----------------------------------------------------------------------------- ranges


@pytest.mark.parametrize("kind", SEEKABLE)
@pytest.mark.parametrize("second", [1, 5])
def test_a_range_contains_the_samples_at_its_time(kind: str, second: int, decoded: Any) -> None:
    (window,) = decoded(encode(STAIRS, kind), offset_s=second + 0.25, length_s=0.5)
    assert len(window.waveform) == SAMPLE_RATE / 2
    assert window.start_s == second + 0.25
    assert frequency_of(window.waveform) == pytest.approx(300 + 200 * second, abs=5)
    assert not window.warning


@pytest.mark.parametrize("kind", ["wav", "flac", "aiff"])
def test_a_range_of_a_lossless_file_is_exact(kind: str, decoded: Any) -> None:
    data = encode(noise(5), kind)
    whole = joined(decoded(data))
    part = joined(decoded(data, offset_s=2.5, length_s=1.25))
    np.testing.assert_array_equal(part, whole[40_000:60_000])


@pytest.mark.parametrize("kind", SEEKABLE)
def test_a_range_without_length_goes_to_the_end(kind: str, decoded: Any) -> None:
    waveform = joined(decoded(encode(STAIRS, kind), offset_s=7))
    assert len(waveform) / SAMPLE_RATE == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("kind", SEEKABLE)
def test_a_range_over_the_end_is_clipped_with_a_warning(kind: str, decoded: Any) -> None:
    (window,) = decoded(encode(STAIRS, kind), offset_s=7, length_s=4)
    assert len(window.waveform) / SAMPLE_RATE == pytest.approx(1, abs=0.15)
    assert "after the file" in window.warning


@pytest.mark.parametrize("kind", SEEKABLE)
def test_an_offset_beyond_the_end_is_a_bad_range(kind: str, decoded: Any) -> None:
    with pytest.raises(RecordingError, match="beyond the end") as caught:
        decoded(encode(STAIRS, kind), offset_s=9)
    assert caught.value.kind == "BadRange"


@pytest.mark.parametrize(
    "range_s",
    [{"offset_s": -1}, {"offset_s": math.nan}, {"length_s": -2}, {"length_s": math.inf}],
)
def test_an_impossible_range_is_refused(range_s: dict[str, float], decoded: Any) -> None:
    with pytest.raises(RecordingError) as caught:
        decoded(encode(tone(1)), **range_s)
    assert caught.value.kind == "BadRange"


# ------------------------------------------------------------------- incomplete files


def test_a_wav_header_that_claims_too_much_is_a_warning(decoded: Any) -> None:
    data = bytearray(encode(tone(2)))
    data[40:44] = struct.pack("<I", 0xFFFFFF00)
    (window,) = decoded(bytes(data))
    assert len(window.waveform) == 2 * SAMPLE_RATE
    assert "WAV header is wrong" in window.warning


@pytest.mark.parametrize("kind", ["mp3", "flac", "webm"])
def test_half_a_file_is_truncated(kind: str, decoded: Any) -> None:
    data = encode(noise(20), kind)
    with pytest.raises(RecordingError, match="of 20") as caught:
        decoded(data[: len(data) // 2])
    assert caught.value.kind == "Truncated"


def test_half_a_file_is_labelled_if_that_share_is_allowed(decoded: Any) -> None:
    data = encode(noise(20), "flac")
    (window,) = decoded(data[: len(data) // 2], config=AudioConfig(min_decoded_share=0.3))
    assert 5 < len(window.waveform) / SAMPLE_RATE < 15
    assert "of 20.00 s that the file declares" in window.warning


@pytest.mark.parametrize("kind", ["mp3", "ogg", "opus"])
def test_several_streams_in_one_file_are_all_decoded(kind: str, decoded: Any) -> None:
    assert len(joined(decoded(encode(tone(3), kind) * 2))) > 5.9 * SAMPLE_RATE


@pytest.mark.parametrize("kind", ["flac", "barevbr", "ogg"])
def test_damage_in_the_middle_is_a_warning_not_an_error(kind: str, decoded: Any) -> None:
    data = bytearray(encode(noise(30), kind))
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    windows = decoded(bytes(data), config=SHORT_WINDOWS)
    assert sum(len(window.waveform) for window in windows) / SAMPLE_RATE > 28
    assert windows[-1].warning


def test_samples_from_before_a_decoder_failed_are_not_repeated(decoded: Any) -> None:
    whole = encode(STAIRS, "flac")
    damaged = bytearray(whole)
    at = int(len(whole) * 0.8)
    damaged[at : at + 30] = bytes(30)
    waveform = joined(decoded(bytes(damaged)))
    np.testing.assert_array_equal(waveform[: 4 * SAMPLE_RATE], joined(decoded(whole))[:64_000])


# ------------------------------------------------------------------------ bad recordings

_HTML = b"<!DOCTYPE html><html><title>404</title></html>"
_XML = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>'
_PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,é\n{}\n#EXT-X-ENDLIST\n"
_RANDOM = np.random.default_rng(2).bytes(50_000)
_BAD: dict[str, tuple[bytes, str, str]] = {  # name: (bytes, error type, part of the message)
    "nothing": (b"", "EmptyFile", "no bytes"),
    "one byte": (b"\0", "NotAudio", ""),
    "html": (_HTML, "NotAudio", "looks like HTML"),
    "xml": (_XML, "NotAudio", "XML error document"),
    "json": (b'{"error": 404}', "NotAudio", "JSON"),
    "text": (b"Not Found", "NotAudio", "text"),
    "gzip": (gzip.compress(encode(tone(1))), "NotAudio", "gzip"),
    "random": (_RANDOM, "NotAudio", "unknown bytes"),
    "playlist": (_PLAYLIST.format("/etc/passwd").encode(), "NotAudio", ""),
    "half a header": (encode(tone(1))[:20], "Undecodable", "RIFF"),
    "no samples": (wav(b""), "NoSamples", ""),
    "10 ms": (encode(tone(0.01)), "TooShort", "10.0 ms"),
    "nan": (float_wav(np.array([0.1] * 800 + [np.nan] * 800)), "NonFinite", "0.050 s"),
    "infinity": (float_wav(np.array([np.inf] * 1600)), "NonFinite", "0.000 s"),
    "huge floats": (float_wav(np.array([3e29, -3e29] * 800)), "OutOfRange", "3e+29"),
    "1 Hz": (wav(bytes(2000), rate_hz=1), "BadRate", "1 Hz"),
    "no rate": (wav(bytes(2000), rate_hz=0), "Undecodable", ""),
    "100 channels": (wav(bytes(200_000), channels=100), "TooManyChannels", "100"),
    "no channels": (wav(bytes(2000), channels=0), "Undecodable", ""),
    "no bits": (wav(bytes(2000), bits=0), "Undecodable", ""),
    "id3 alone": (b"ID3\4\0\0\x7f\x7f\x7f\x7f" + encode(tone(1), "mp3"), "Undecodable", "MP3"),
}


@pytest.mark.parametrize("what", _BAD)
def test_a_bad_file_says_what_it_is(what: str, decoded: Any) -> None:
    data, kind, message = _BAD[what]
    with pytest.raises(RecordingError) as caught:
        decoded(data, "a.wav")
    assert caught.value.kind == kind
    assert message in str(caught.value)
    assert " at 0x" not in str(caught.value)


def test_a_playlist_opens_no_other_file(decoded: Any, tmp_path: Path) -> None:
    (tmp_path / "other.wav").write_bytes(encode(tone(1)))
    with pytest.raises(RecordingError):
        decoded(_PLAYLIST.format(tmp_path / "other.wav").encode(), "list.m3u8")


def test_a_video_without_sound_is_refused(decoded: Any) -> None:
    from fractions import Fraction
    from io import BytesIO

    import av

    out = BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame(32, 32, "yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1, 5)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(RecordingError) as caught:
        decoded(out.getvalue())
    assert caught.value.kind == "NoAudioStream"


@pytest.mark.parametrize(
    ("limits", "kind"),
    [({"max_bytes": 1000}, "TooLarge"), ({"max_duration_s": 1}, "TooLong")],
)
@pytest.mark.parametrize("format_", ["wav", "aac"])  # aac does not declare its length
def test_limits_are_enforced(limits: dict[str, int], kind: str, format_: str, decoded: Any) -> None:
    with pytest.raises(RecordingError) as caught:
        decoded(encode(tone(2), format_), config=AudioConfig.model_validate(limits))
    assert caught.value.kind == kind


def _kind_of(uri: str, **options: Any) -> str:
    with pytest.raises(RecordingError) as caught:
        list(decode(uri, CONFIG, options))
    return caught.value.kind


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    assert _kind_of(str(tmp_path)) == "NotAFile"
    assert _kind_of(str(tmp_path / "pipe.wav")) == "NotAFile"
    assert _kind_of("/dev/zero") == "NotAFile"
    assert _kind_of(str(tmp_path / "loop.wav")) == "FileMissing"


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    assert _kind_of(str(tmp_path / "none.wav")) == "FileMissing"


def test_an_unknown_scheme_is_a_bad_uri() -> None:
    assert _kind_of("gopher://host/a.wav") == "BadUri"


# ------------------------------------------------------------------------------ remote


class _FailingFile:
    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, n: int = -1) -> bytes:
        if self._file.tell() > 0.7 * self._file.size:
            raise TimeoutError("read timed out")
        return bytes(self._file.read(n))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_FailingFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class _Failing(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Objects whose reads time out near their end, or that only give an error."""

    protocol = "failing"
    store: dict[str, Any] = {}  # noqa: RUF012  # as in its base class

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("failing://").lstrip("/")

    def open(self, path: str, *arguments: Any, **options: Any) -> Any:
        return _FailingFile(super().open(path, *arguments, **options))

    def info(self, path: str, **options: Any) -> Any:
        failures = {"denied": PermissionError("403"), "down": OSError(121, "Remote I/O error")}
        for word, failure in failures.items():
            if word in path:
                raise failure
        return super().info(path, **options)


@pytest.fixture
def all_files_are_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every object is read like a large one: through a file object, in several requests."""
    fsspec.register_implementation("failing", _Failing, clobber=True)
    monkeypatch.setattr(audio_files, "_FETCH_WHOLE", 0)
    yield
    MemoryFileSystem.store.clear()
    _Failing.store.clear()


@pytest.mark.parametrize("kind", ["wav", "m4a"])
def test_objects_are_read_through_fsspec(kind: str, all_files_are_large: None) -> None:
    fsspec.filesystem("memory").pipe("/dir/a.bin", encode(tone(2, 500), kind))
    waveform = joined(list(decode("memory://dir/a.bin", CONFIG, {})))
    assert frequency_of(waveform) == pytest.approx(500, abs=2)


@pytest.mark.parametrize("kind", ["wav", "webm"])  # soundfile's callbacks and FFmpeg's
def test_a_store_that_fails_midway_is_not_a_broken_file(
    kind: str, all_files_are_large: None
) -> None:
    rate_hz = 48_000
    fsspec.filesystem("failing").pipe("/a", encode(noise(60, rate_hz), kind, rate_hz))
    assert _kind_of("failing://a") == "StoreUnavailable"


def test_a_store_that_refuses_or_is_down_has_its_error_type(all_files_are_large: None) -> None:
    assert _kind_of("failing://denied") == "AccessDenied"
    assert _kind_of("failing://down") == "StoreUnavailable"


def test_windows_before_a_fault_are_yielded(all_files_are_large: None) -> None:
    fsspec.filesystem("failing").pipe("/a", encode(noise(120), "wav"))
    windows: list[Window] = []
    with pytest.raises(RecordingError, match="timed out"):
        for window in decode("failing://a", SHORT_WINDOWS, {}):
            windows.append(window)  # noqa: PERF402  # `extend` would keep none of them when it raises
    assert len(windows) > 3
    assert not any(window.is_last for window in windows)


# ------------------------------------------------------------------------------- fuzz


_SEEDS = [encode(noise(0.5), kind) for kind in ("wav", "flac", "mp3", "ogg", "m4a", "webm", "amr")]


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.sampled_from(_SEEDS),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6),
    keep=st.floats(0.01, 1),
)
def test_damaged_bytes_give_windows_or_a_recording_error(
    seed: bytes, edits: list[tuple[float, bytes]], keep: float, decoded: Any
) -> None:
    data = bytearray(seed[: max(1, int(len(seed) * keep))])
    for place, patch in edits:
        start = int(place**2 * (len(data) - 1))  # mostly headers
        data[start : start + len(patch)] = patch
    try:
        windows = decoded(bytes(data))
    except RecordingError:
        return
    assert joined(windows).dtype == np.int16
