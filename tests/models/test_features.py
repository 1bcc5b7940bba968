"""Our features against those of torchaudio and FunASR, with which the models were trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.compliance import kaldi

from pipeline.config import SegmentConfig
from pipeline.errors import ModelError
from pipeline.models.features import (
    CHUNK_FRAMES as CHUNKS,
)
from pipeline.models.features import (
    LOG_FLOOR,
    clip_frames,
    count_frames,
    log_mel,
    log_mel_tensor,
    log_mels,
    read_cmvn,
    stack_frames,
)
from pipeline.models.vad.merging import merge_segments
from pipeline.schema import FRAME, FRAME_LENGTH, SAMPLE_RATE, Segment
from tests.support.demo import SHARED

CHUNK_FRAMES = CHUNKS["cpu"]


def _noise(n_samples: int, level: int = 3_000, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(-level, level + 1, n_samples).astype(np.int16)


def _kaldi(waveform: np.ndarray) -> np.ndarray:
    """As FunASR's WavFrontend calls it, with dither 0."""
    samples = torch.from_numpy(waveform.astype(np.float32) / 32768) * (1 << 15)
    features = kaldi.fbank(
        samples[None],
        num_mel_bins=80,
        frame_length=25,
        frame_shift=10,
        dither=0.0,
        energy_floor=0.0,
        window_type="hamming",
        sample_frequency=16_000,
        snip_edges=True,
    )
    return np.asarray(features.numpy())


@pytest.mark.parametrize(
    "n_samples",
    [400, 401, 559, 560, 16_000, CHUNK_FRAMES * FRAME + 240, 3 * CHUNK_FRAMES * FRAME + 777],
)
def test_log_mel_equals_kaldi_on_any_length(n_samples: int) -> None:
    waveform = _noise(n_samples)
    features = log_mel(waveform)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, _kaldi(waveform), atol=3e-3, rtol=0)


@pytest.mark.parametrize("level", [1, 10, 32_767])
def test_log_mel_equals_kaldi_at_any_level(level: int) -> None:
    waveform = _noise(20_000, level)
    np.testing.assert_allclose(log_mel(waveform), _kaldi(waveform), atol=3e-3, rtol=0)


def test_log_mel_removes_an_offset_as_kaldi_does() -> None:
    tone = 5_000 + 8_000 * np.sin(np.arange(16_000) * 2 * np.pi * 440 / SAMPLE_RATE)
    waveform = tone.astype(np.int16)
    np.testing.assert_allclose(log_mel(waveform), _kaldi(waveform), atol=3e-3, rtol=0)


def test_digital_silence_has_kaldis_floor_value() -> None:
    features = log_mel(np.zeros(16_000, np.int16))
    assert np.all(features == np.float32(np.log(np.float32(LOG_FLOOR))))


@pytest.mark.parametrize("n_samples", [0, 1, 399])
def test_less_than_25_ms_has_no_frame(n_samples: int) -> None:
    assert log_mel(_noise(n_samples)).shape == (0, 80)


def test_log_mel_does_not_change_a_read_only_waveform() -> None:
    waveform = np.frombuffer(_noise(2_000).tobytes(), np.int16)  # as Arrow returns it
    before = waveform.copy()
    log_mel(waveform)
    np.testing.assert_array_equal(waveform, before)


def test_float_tensors_on_the_int16_scale_give_the_same_features() -> None:
    waveform = torch.from_numpy(_noise(8_000))
    torch.testing.assert_close(log_mel_tensor(waveform), log_mel_tensor(waveform.float()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_features() -> None:
    waveform = torch.from_numpy(_noise(1_000_000))
    on_gpu = log_mel_tensor(waveform.cuda()).cpu()
    torch.testing.assert_close(on_gpu, log_mel_tensor(waveform), atol=3e-3, rtol=0)


@given(
    start=st.integers(0, 190),
    n_frames=st.integers(3, 100),
    end_s=st.one_of(st.none(), st.floats(0.05, 3.0)),
)
@settings(max_examples=40, deadline=None)
def test_the_frames_of_a_clip_are_frames_of_its_recording(
    start: int, n_frames: int, end_s: float | None
) -> None:
    waveform = _noise(32_037)
    raw = Segment(start / 100, end_s if end_s and end_s > start / 100 else (start + n_frames) / 100)
    merged = merge_segments(
        [raw],
        SegmentConfig.model_construct(min_segment_s=0.025),
        duration_s=len(waveform) / SAMPLE_RATE,
    )
    for segment in merged:
        clip = waveform[round(segment.start_s * SAMPLE_RATE) : round(segment.end_s * SAMPLE_RATE)]
        features = log_mel(waveform)
        cut = features[clip_frames(segment, len(features))]
        expected = _kaldi(clip) if len(clip) >= FRAME_LENGTH else np.empty((0, 80))
        assert cut.shape == expected.shape
        np.testing.assert_allclose(cut, expected, atol=3e-3, rtol=0)


def test_clip_frames_stay_inside_the_recording() -> None:
    assert clip_frames(Segment(0.9, 2.0), n_frames_total=98) == slice(90, 98)
    assert clip_frames(Segment(5.0, 6.0), n_frames_total=98) == slice(98, 98)


def test_a_clip_without_a_whole_frame_has_none() -> None:
    assert clip_frames(Segment(0.1, 0.12), n_frames_total=98) == slice(10, 10)


def test_count_frames_follows_snip_edges() -> None:
    assert [count_frames(n) for n in (0, 399, 400, 559, 560, 16_000)] == [0, 0, 1, 1, 2, 98]


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize(("stack", "step"), [(7, 6), (5, 1)])
def test_stacked_frames_equal_funasrs_exactly(stack: int, step: int) -> None:
    from funasr.frontends.wav_frontend import apply_lfr

    for n_frames in [*range(1, 60), 997]:
        features = torch.randn(n_frames, 80, generator=torch.Generator().manual_seed(n_frames))
        expected = apply_lfr(features, stack, step)
        assert torch.equal(stack_frames(features, [n_frames], stack, step), expected), n_frames


def test_stacking_many_clips_equals_stacking_each_alone() -> None:
    clips = [torch.randn(n_frames, 80) for n_frames in (1, 6, 7, 0, 100)]
    alone = [stack_frames(clip, [len(clip)]) for clip in clips]
    packed = stack_frames(torch.cat(clips), [len(clip) for clip in clips])
    assert torch.equal(packed, torch.cat(alone))


def test_stacking_no_clip_gives_no_frame() -> None:
    assert stack_frames(torch.empty(0, 80), []).shape == (0, 560)


def test_features_of_many_recordings_equal_those_of_each_alone() -> None:
    waveforms = [_noise(n_samples) for n_samples in (5_000, 399, 16_000, 0, 401, 160_123)]
    together = log_mels(waveforms, torch.device("cpu"))
    assert [len(one) for one in together] == [count_frames(len(one)) for one in waveforms]
    for features, waveform in zip(together, waveforms, strict=True):
        np.testing.assert_allclose(features, log_mel(waveform), atol=1e-4)


MVN = """<Nnet>
<Splice> 3 3
[ 0 ]
<AddShift> 3 3
<LearnRateCoef> 0 [ -8.3 1e-2 2 ]
<Rescale> 3 3
<LearnRateCoef> 0 [ 0.1 0.2 0.3 ]
</Nnet>
"""


def test_cmvn_reads_shift_and_scale(tmp_path: Path) -> None:
    path = tmp_path / "am.mvn"
    path.write_text(MVN)
    shift, scale = read_cmvn(path)
    torch.testing.assert_close(shift, torch.tensor([-8.3, 0.01, 2.0]))
    torch.testing.assert_close(scale, torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("broken", ["", MVN.replace("<Rescale>", ""), MVN.replace(" 0.3 ]", " ]")])
def test_a_broken_cmvn_file_is_named(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "am.mvn"
    path.write_text(broken)
    with pytest.raises(ModelError, match=r"am\.mvn"):
        read_cmvn(path)


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize("model", ["fsmn-vad", "sensevoice-small"])
def test_cmvn_equals_funasrs_reading(model: str) -> None:
    from funasr.frontends.wav_frontend import load_cmvn

    path = SHARED / "models" / model / "am.mvn"
    if not path.exists():
        pytest.skip("needs ../shared/models")
    assert torch.equal(torch.stack(read_cmvn(path)), load_cmvn(str(path)))
