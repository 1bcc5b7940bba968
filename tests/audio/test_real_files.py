"""Files as recorders, phones and transmitters leave them: what is there is labelled, in its time.

Names in brackets are those of the list of real files that broke the first version.
"""

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import av
import numpy as np
import pytest
import soundfile

from pipeline.audio.sources import Source
from pipeline.audio.windows import Window, decode_source
from pipeline.config import AudioConfig
from pipeline.errors import RecordingError
from pipeline.schema import SAMPLE_RATE
from tests.support.containers import PAIRS, TIMED, mux
from tests.support.sounds import encode, noise, silence, tone, wav

PULSES = (0.5, 3.5, 6.5)  # where the test sound has something to find, s
TOTAL_S = 8.0
# What a codec adds in front: it has no way to say how long its priming is.
PRIMING_S = {"adts": 0.064, "ts": 0.064, "flv": 0.047, "amr": 0.01, "3gp": 0.01, "wma": 0.04}


class Decoded(NamedTuple):
    samples: np.ndarray  # float64 (n_samples,), full scale 1
    last: Window

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def decode(data: bytes, offset_s: float = 0.0, length_s: float = 0.0) -> Decoded:
    source = Source(BytesIO(data), len(data))
    windows = list(decode_source(source, AudioConfig(), offset_s, length_s))
    return Decoded(np.concatenate([w.waveform for w in windows]) / 32768, windows[-1])


def refusal_of(data: bytes) -> str:
    with pytest.raises(RecordingError) as refused:
        decode(data)
    return refused.value.kind


def pulses(starts_s: Sequence[float] = PULSES, total_s: float = TOTAL_S) -> np.ndarray:
    """Bursts of 0.1 s in silence."""
    samples = np.zeros(round(total_s * SAMPLE_RATE), np.float32)
    burst = tone(0.1, 1000.0)[:, 0]
    for start_s in starts_s:
        first = round(start_s * SAMPLE_RATE)
        samples[first : first + len(burst)] = burst
    return samples


def starts_of(samples: np.ndarray) -> list[float]:
    """When each burst begins, to 5 ms."""
    hop = SAMPLE_RATE // 200
    peaks = np.abs(samples[: len(samples) // hop * hop]).reshape(-1, hop).max(axis=1)
    loud = np.flatnonzero(peaks > 0.1)
    first = np.append(True, np.diff(loud) > 60)
    return [float(start) / 200 for start in loud[first]]


# ------------------------------------------------------------------ one account of seconds


@pytest.mark.parametrize("kind", PAIRS)
def test_a_complete_file_has_its_length_and_no_warning(kind: str) -> None:
    done = decode(mux(pulses(), kind))
    assert done.duration_s == pytest.approx(TOTAL_S, abs=PRIMING_S.get(kind, 0.0) + 0.02)
    priming_s = PRIMING_S.get(kind, 0.0)
    assert starts_of(done.samples) == pytest.approx(PULSES, abs=priming_s + 0.015)
    assert done.last.warning == ""
    assert (done.last.gap_s, done.last.start_offset_s) == (0.0, 0.0)


@pytest.mark.parametrize("gap_s", [0.3, 10.0])
@pytest.mark.parametrize("kind", TIMED)
def test_a_gap_is_silence_of_its_length(kind: str, gap_s: float) -> None:
    """[A5, F2]"""
    whole = decode(mux(pulses(), kind))
    done = decode(mux(pulses(), kind, gap_at_s=2.0, gap_s=gap_s))
    first, *others = starts_of(whole.samples)
    assert done.duration_s == pytest.approx(whole.duration_s + gap_s, abs=0.02)
    expected = [first, *(start_s + gap_s for start_s in others)]
    assert starts_of(done.samples) == pytest.approx(expected, abs=0.02)
    assert done.last.gap_s == pytest.approx(gap_s, abs=0.02)
    assert "of gaps were filled with silence" in done.last.warning


@pytest.mark.parametrize("kind", ["mp4", "mka", "ts", "3gp"])
def test_sound_that_starts_after_the_picture_says_how_much_later(kind: str) -> None:
    """[A5, F2] Times count from the first sample of the sound."""
    done = decode(mux(pulses(), kind, late_s=4.0))
    assert done.last.start_offset_s == pytest.approx(4.0, abs=0.07)
    assert starts_of(done.samples) == pytest.approx(PULSES, abs=0.07)
    assert done.last.warning == ""


def test_what_all_streams_start_with_is_no_offset() -> None:
    """[A5] An Ogg whose granule positions start at 5 s, and every MPEG-TS."""
    for kind in ("opus", "ts"):
        done = decode(mux(pulses(), kind, options={"output_ts_offset": "5"}))
        assert starts_of(done.samples) == pytest.approx(PULSES, abs=0.07)
        assert (done.last.start_offset_s, done.last.warning) == (0.0, "")


@pytest.mark.parametrize("kind", ["mp4", "mka", "webm"])
def test_a_range_behind_a_gap_is_the_sound_at_its_time(kind: str) -> None:
    data = mux(pulses(), kind, gap_at_s=2.0, gap_s=3.0)
    done = decode(data, offset_s=6.0, length_s=2.0)
    assert done.duration_s == pytest.approx(2.0, abs=0.02)
    assert starts_of(done.samples) == pytest.approx([0.5], abs=0.03)


def test_a_lost_packet_in_the_middle_moves_nothing_behind_it() -> None:
    """[F2] Packets 20 to 30 of an AAC stream are gone."""
    done = decode(mux(pulses(), "mp4", keep=lambda index: not 20 <= index < 30))
    assert starts_of(done.samples) == pytest.approx(PULSES, abs=0.02)


@pytest.mark.parametrize("n_bad", [1, 2, 40])
def test_bad_packets_count_by_their_seconds(n_bad: int) -> None:
    """[A6] Their time is silence; more than a tenth of it is too much."""
    data = bytearray(mux(noise(TOTAL_S)[:, 0], "adts"))
    for at, size in _adts_packets(data)[30 : 30 + n_bad]:
        data[at + 7 : at + size] = bytes([0xFF]) * (size - 7)
    if n_bad == 40:
        assert refusal_of(bytes(data)) == "Undecodable"
        return
    done = decode(bytes(data))
    assert done.duration_s == pytest.approx(TOTAL_S + 0.064, abs=0.01)
    assert f"{n_bad} packets ({n_bad * 0.064:.2f} s" in done.last.warning


def _adts_packets(data: bytes | bytearray) -> list[tuple[int, int]]:
    """(start, size) of each frame of an ADTS stream."""
    places, at = [], 0
    while at < len(data):
        size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        places.append((at, size))
        at += size
    return places


# ------------------------------------------------------------------ telephones (AMR)

_AMR_SIZES = (12, 13, 15, 17, 19, 20, 26, 31, 5)  # of a payload, by frame type


def _amr_frames(data: bytes) -> list[bytes]:
    frames, at = [], 6
    while at < len(data):
        size = 1 + _AMR_SIZES[data[at] >> 3 & 15]
        frames.append(data[at : at + size])
        at += size
    return frames


@pytest.mark.parametrize("frame", [b"\x44" + bytes(5), b"\x7c"], ids=["SID", "NO_DATA"])
@pytest.mark.parametrize("n_frames", [1, 50])
def test_what_a_phone_does_not_transmit_is_silence(frame: bytes, n_frames: int) -> None:
    """[A1] Discontinuous transmission: 20 ms for each frame, and no damage."""
    whole = mux(pulses(), "amr")
    frames = _amr_frames(whole)
    data = whole[:6] + b"".join(frames[:100] + [frame] * n_frames + frames[100:])
    before, done = decode(whole), decode(data)
    assert done.duration_s == pytest.approx(before.duration_s + 0.02 * n_frames, abs=0.001)
    first, *others = starts_of(before.samples)
    expected = [first, *(start_s + 0.02 * n_frames for start_s in others)]
    assert starts_of(done.samples) == pytest.approx(expected, abs=0.01)
    assert done.last.warning == ""


# ------------------------------------------------------------------ ends and errors


def test_tags_behind_the_audio_end_nothing() -> None:
    """[A2] What was decoded before the demuxer's error stays."""
    data = mux(noise(TOTAL_S)[:, 0], "wv") + b"wvpk0123456789...."
    assert decode(data).duration_s == pytest.approx(TOTAL_S, abs=0.02)


@pytest.mark.parametrize(("share", "kept"), [(0.97, True), (0.5, False)])
@pytest.mark.parametrize("kind", ["wv", "tta", "opus", "mp3", "flac", "wav", "webm"])
def test_a_cut_file_is_judged_by_its_share(kind: str, share: float, kept: bool) -> None:
    """[A2, A8] TTA, WavPack and Ogg lose a frame or page of about a second with their end."""
    data = mux(noise(30.0)[:, 0], kind)
    cut = data[: round(len(data) * share)]
    if not kept and kind != "opus":
        assert refusal_of(cut) == "Truncated"
        return
    done = decode(cut)
    slack_s = 1.5 if kind in ("wv", "tta", "opus") else 0.5
    assert done.duration_s == pytest.approx(30.0 * share, abs=slack_s)
    assert done.last.warning != ""  # all that an Ogg without its last page can say


def test_two_files_in_one_are_both_decoded() -> None:
    """[A8, F5]"""
    flac = encode(tone(2.0), "flac")
    assert decode(flac + flac).duration_s == pytest.approx(4.0, abs=0.01)
    both = decode(encode(tone(2.0)) + encode(tone(1.0)))
    assert both.duration_s == pytest.approx(3.0, abs=0.001)
    assert "2 WAV files in one" in both.last.warning
    assert decode(encode(tone(2.0)) + encode(tone(1.0)), offset_s=2.5).duration_s == 0.5


def test_a_second_ogg_with_other_channels_keeps_the_first() -> None:
    """[A2] FFmpeg cannot go on into a chained stream of another layout."""
    mono, stereo = encode(tone(20.0), "opus"), encode(tone(1.0, channels=2), "opus")
    done = decode(mono + stereo)
    assert done.duration_s >= 20.0 - 0.05
    assert done.last.warning != "" or done.duration_s > 20.9


# ------------------------------------------------------------------ headers


def big_endian_wav(subtype: str) -> bytes:
    out = BytesIO()
    soundfile.write(out, pulses(), SAMPLE_RATE, format="WAV", subtype=subtype, endian="BIG")
    return out.getvalue()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_a_big_endian_wav_is_read_as_it_is(subtype: str) -> None:
    """[A3] As little-endian numbers it would be noise."""
    data = big_endian_wav(subtype)
    assert data[:4] == b"RIFX"
    done = decode(data)
    assert np.abs(done.samples - pulses()).max() < 1e-4


def with_sizes(data: bytes, riff: int | None = None, samples: int | None = None) -> bytes:
    changed = bytearray(data)
    if riff is not None:
        changed[4:8] = struct.pack("<I", riff)
    if samples is not None:
        changed[40:44] = struct.pack("<I", samples)
    return bytes(changed)


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
def test_a_wav_whose_header_was_never_finished_is_read_to_its_end(riff: int) -> None:
    """[A4] A recorder that lost power."""
    done = decode(with_sizes(encode(tone(3.0)), riff, 0))
    assert len(done.samples) == 3 * SAMPLE_RATE
    assert "size in the WAV header is wrong" in done.last.warning


def test_a_finished_wav_without_samples_stays_without() -> None:
    """[A4] Size 0, and another chunk behind it."""
    data = encode(tone(1.0))[:44]
    behind = b"LIST" + struct.pack("<I", 400) + bytes(400)
    whole = with_sizes(data + behind, riff=36 + len(behind), samples=0)
    assert refusal_of(whole) == "NoSamples"


def test_a_stale_size_in_a_wav_cuts_nothing() -> None:
    """[F5]"""
    done = decode(with_sizes(encode(tone(3.0)), samples=1000))
    assert len(done.samples) == 3 * SAMPLE_RATE
    assert "size in the WAV header is wrong" in done.last.warning


def test_chunks_behind_the_samples_are_no_samples() -> None:
    data = encode(tone(1.0)) + b"LIST" + struct.pack("<I", 1000) + b"INFO" + bytes(996)
    done = decode(data)
    assert (len(done.samples), done.last.warning) == (SAMPLE_RATE, "")


def test_a_stale_length_in_a_flac_cuts_nothing() -> None:
    """[F5] STREAMINFO says 2 s of 10."""
    data = bytearray(encode(noise(10.0), "flac"))
    low = (data[21] & 0xF0) << 32 | 2 * SAMPLE_RATE
    data[21:26] = low.to_bytes(5, "big")
    assert decode(bytes(data)).duration_s == pytest.approx(10.0, abs=0.01)


def test_a_flac_from_a_pipe_has_no_warning() -> None:
    """[A6] It does not know its length."""
    data = bytearray(encode(noise(3.0), "flac"))
    data[21:26] = ((data[21] & 0xF0) << 32).to_bytes(5, "big")
    done = decode(bytes(data))
    assert done.duration_s == pytest.approx(3.0, abs=0.01)
    assert done.last.warning == ""


def test_a_tag_before_a_wav_is_skipped() -> None:
    """[A8]"""
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, 0, 100]) + bytes(100)
    done = decode(tag + encode(tone(1.0)))
    assert (len(done.samples), done.last.codec) == (SAMPLE_RATE, "wav/pcm_16")


@pytest.mark.parametrize("kind", ["mp3", "flac", "wv", "opus"])
def test_a_trailing_tag_is_no_warning(kind: str) -> None:
    """[A6]"""
    data = mux(pulses(), kind) + b"TAG" + bytes(125)
    assert decode(data).last.warning == ""


def test_the_rate_of_every_frame_is_checked() -> None:
    """[A10] A FLAC of 16 kHz with one frame of 20 Hz would be an hour of audio."""
    good, bad = encode(tone(1.0), "flac"), bytearray(encode(tone(0.1), "flac"))
    # Rate code 14: tens of hertz in 16 bits behind the frame number.
    first = bad.find(b"\xff\xf8")
    header = bytes(bad[first : first + 2]) + bytes([bad[first + 2] & 0xF0 | 14])
    header += bytes(bad[first + 3 : first + 5])
    block = bad[first + 2] >> 4
    extra = {6: 1, 7: 2}.get(block, 0)
    header += bytes(bad[first + 5 : first + 5 + extra]) + struct.pack(">H", 2)
    from pipeline.audio.headers import _crc8

    frame = header + bytes([_crc8(header)]) + bytes(bad[first + 6 + extra :])
    data = good + frame
    try:
        done = decode(data)
    except RecordingError as refused:
        assert refused.kind in ("BadRate", "Undecodable")
    else:
        assert done.duration_s < 2.0


# ------------------------------------------------------------------ streams and channels


def two_streams(default: int) -> bytes:
    """A Matroska file with a tone of 440 Hz and one of 1,000 Hz."""
    out = BytesIO()
    with av.open(out, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in "ab"]
        for index, stream in enumerate(streams):
            if index == default:
                stream.disposition = av.stream.Disposition.default
        for stream, hertz in zip(streams, (440.0, 1000.0), strict=True):
            samples = np.ascontiguousarray((tone(2.0, hertz)[:, 0] * 32767).astype(np.int16))
            frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize(("default", "hertz"), [(0, 440), (1, 1000)])
def test_the_stream_marked_default_is_decoded_and_said(default: int, hertz: int) -> None:
    """[A8, F4]"""
    done = decode(two_streams(default))
    spectrum = np.abs(np.fft.rfft(done.samples))
    assert spectrum.argmax() * SAMPLE_RATE / len(done.samples) == pytest.approx(hertz, abs=2)
    assert (done.last.n_audio_streams, done.last.audio_stream) == (2, default)


@pytest.mark.parametrize("kind", ["wav", "flac", "mkv"])
def test_channels_that_cancel_each_other_are_not_silence(kind: str) -> None:
    """[A9, F10] A cable with inverted polarity."""
    mono = tone(3.0)
    done = decode(encode(np.concatenate([mono, -0.9 * mono], axis=1), kind))
    assert np.abs(done.samples).max() == pytest.approx(0.3, abs=0.01)
    assert "channels cancel each other out" in done.last.warning


def test_ordinary_stereo_is_averaged_without_a_warning() -> None:
    left, right = noise(2.0, seed=1), noise(2.0, seed=2)
    done = decode(encode(np.concatenate([left, right], axis=1), "wavfloat"))
    assert np.abs(done.samples - (left + right)[:, 0] / 2).max() < 1e-4
    assert done.last.warning == ""


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_of_surround_sound_the_centre_counts_most_and_the_bass_not(kind: str) -> None:
    """[A9] Weights of ITU-R BS.775 for 5.1, scaled to a sum of 1."""
    total = 1.0 + 2 * np.sqrt(0.5) + 2 * 0.5
    for channel, weight in enumerate((np.sqrt(0.5), np.sqrt(0.5), 1.0, 0.0, 0.5, 0.5)):
        samples = np.zeros((SAMPLE_RATE, 6), np.float32)
        samples[:, 2] = 0.2 * tone(1.0, 1000.0)[:, 0]  # speech in the centre
        samples[:, channel] += tone(1.0, 440.0)[:, 0]
        done = decode(encode(samples, kind)).samples
        of_tone = 2 * np.abs(np.fft.rfft(done))[440] / len(done)
        assert of_tone == pytest.approx(0.3 * weight / total, abs=0.001)


def test_a_file_over_full_scale_is_warned_of() -> None:
    """[F10]"""
    done = decode(encode(tone(1.0) * 10, "wavfloat"))
    assert "over full scale" in done.last.warning
    assert decode(encode(tone(1.0), "wavfloat")).last.warning == ""


def test_a_format_of_every_signature_is_tried() -> None:
    """[A7] These come out; none of them is refused as no audio."""
    for kind in ("caf", "aiff", "wv"):
        assert decode(mux(pulses(), kind)).duration_s == pytest.approx(TOTAL_S, abs=0.02)
    for name in ("AU", "W64", "VOC", "PVF", "IRCAM", "SVX", "PAF", "AVR"):
        out = BytesIO()
        soundfile.write(out, pulses(), SAMPLE_RATE, format=name, subtype="PCM_16")
        assert decode(out.getvalue()).duration_s == pytest.approx(TOTAL_S, abs=0.02), name


def test_silence_is_silence() -> None:
    assert not decode(encode(silence(1.0), "flac")).samples.any()
    assert refusal_of(wav(b"")) == "NoSamples"
