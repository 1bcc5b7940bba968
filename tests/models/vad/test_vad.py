"""Our VADs against the libraries that they replace: FunASR's FSMN-VAD and silero_vad.

Importing FunASR takes 11 s, once for the module. The random FSMN-VAD below has FunASR's shapes and
options, and its last layer is scaled until it switches often, so the tests need no download.
"""

import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import soxr
import torch
import yaml

from pipeline.config import SegmentConfig
from pipeline.errors import ModelError
from pipeline.models.features import log_mel, log_mels
from pipeline.models.vad import fsmn as fsmn_vad
from pipeline.models.vad.endpoints import find_intervals
from pipeline.models.vad.fsmn import FsmnVad
from pipeline.models.vad.load import Vad, WholeRecording, load_vad
from pipeline.models.vad.silero import Silero
from pipeline.schema import FRAME, FRAME_LENGTH, SAMPLE_RATE, Segment
from tests.support.demo import SHARED

CPU = torch.device("cpu")
REAL_FSMN = SHARED / "models" / "fsmn-vad"
needs_shared = pytest.mark.skipif(
    not (REAL_FSMN / "model.pt").exists(), reason="needs ../shared/models and ../shared/audio"
)

# config.yaml of iic/speech_fsmn_vad_zh-cn-16k-common-pytorch
FSMN_CONFIG: dict[str, Any] = {
    "model": "FsmnVADStreaming",
    "frontend": "WavFrontendOnline",
    "frontend_conf": {
        "dither": 0.0,
        "frame_length": 25,
        "frame_shift": 10,
        "fs": 16000,
        "lfr_m": 5,
        "lfr_n": 1,
        "n_mels": 80,
        "window": "hamming",
    },
    "encoder": "FSMN",
    "encoder_conf": {
        "input_dim": 400,
        "input_affine_dim": 140,
        "fsmn_layers": 4,
        "linear_dim": 250,
        "proj_dim": 128,
        "lorder": 20,
        "rorder": 0,
        "lstride": 1,
        "rstride": 0,
        "output_affine_dim": 140,
        "output_dim": 248,
    },
    "model_conf": {
        "sample_rate": 16000,
        "detect_mode": 1,
        "snr_mode": 0,
        "max_end_silence_time": 800,
        "max_start_silence_time": 3000,
        "do_start_point_detection": True,
        "do_end_point_detection": True,
        "window_size_ms": 200,
        "sil_to_speech_time_thres": 150,
        "speech_to_sil_time_thres": 150,
        "speech_2_noise_ratio": 1.0,
        "do_extend": 1,
        "lookback_time_start_point": 200,
        "lookahead_time_end_point": 100,
        "max_single_segment_time": 60000,
        "snr_thres": -100.0,
        "noise_frame_num_used_for_snr": 100,
        "decibel_thres": -100.0,
        "speech_noise_thres": 0.6,
        "fe_prior_thres": 0.0001,
        "silence_pdf_num": 1,
        "sil_pdf_ids": [0],
        "speech_noise_thresh_low": -0.1,
        "speech_noise_thresh_high": 0.3,
        "output_frame_probs": False,
        "frame_in_ms": 10,
        "frame_length_ms": 25,
    },
}


def _bursts(duration_s: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness jumps every 0.1 to 2 s, some of it digital silence."""
    generator = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < duration_s * SAMPLE_RATE:
        n_samples = int(generator.uniform(0.1, 2.0) * SAMPLE_RATE)
        level = generator.choice([0.0, 5.0, 300.0, 3_000.0])
        parts.append(generator.normal(scale=level, size=n_samples).astype(np.int16))
    return np.concatenate(parts)[: round(duration_s * SAMPLE_RATE)]


def write_random_fsmn(directory: Path) -> None:
    """A network with random weights whose silence probability follows the loudness of `_bursts`."""
    from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming

    torch.manual_seed(0)
    model = FsmnVADStreaming(
        encoder="FSMN", encoder_conf=FSMN_CONFIG["encoder_conf"], **FSMN_CONFIG["model_conf"]
    )
    (directory / "config.yaml").write_text(yaml.safe_dump(FSMN_CONFIG))
    dim = FSMN_CONFIG["encoder_conf"]["input_dim"]
    shift, scale = " ".join(["-6.5"] * dim), " ".join(["0.2"] * dim)
    (directory / "am.mvn").write_text(
        f"<Nnet>\n<Splice> {dim} {dim}\n[ 0 ]\n"
        f"<AddShift> {dim} {dim}\n<LearnRateCoef> 0 [ {shift} ]\n"
        f"<Rescale> {dim} {dim}\n<LearnRateCoef> 0 [ {scale} ]\n</Nnet>\n"
    )
    _spread_outputs(model.encoder, log_mel(_bursts(30.0)))
    torch.save(model.state_dict(), directory / "model.pt")


@torch.no_grad()
def _spread_outputs(encoder: Any, features: np.ndarray) -> None:
    """Scale the silence logit to spread by 2 around the point where silence is the threshold."""
    normalised = (torch.from_numpy(np.tile(features, 5)) - 6.5) * 0.2
    encoder.use_softmax = False
    logits = encoder(normalised[None], cache={})[0]
    encoder.use_softmax = True
    last = encoder.out_linear2.linear
    silence = logits[:, 0]
    gain = 2.0 / silence.std()
    rest = logits[:, 1:].logsumexp(dim=1).mean()
    last.weight[0] *= gain
    # silence is 0.2, FunASR's limit for speech, where its logit is ln(0.2 / 0.8) above the rest
    last.bias[0] = gain * (last.bias[0] - silence.mean()) + rest - 1.386


@pytest.fixture(scope="module")
def random_fsmn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fsmn-vad")
    write_random_fsmn(directory)
    return directory


def _funasr(directory: Path, end_silence_ms: int = 800, max_segment_ms: int = 60_000) -> Any:
    from funasr import AutoModel

    return AutoModel(
        model=str(directory),
        max_end_silence_time=end_silence_ms,  # else a schedule that depends on chunk_size
        max_single_segment_time=max_segment_ms,
        device="cpu",
        ncpu=1,
        disable_update=True,
        disable_pbar=True,
    )


def _funasr_intervals(model: Any, waveform: np.ndarray, **options: Any) -> list[list[int]]:
    samples = waveform.astype(np.float32) / 32768
    return cast(list[list[int]], model.generate(input=samples, **options)[0]["value"])


def _our_intervals(vad: Vad, waveform: np.ndarray) -> list[list[int]]:
    (found,) = vad.find_speech([waveform], log_mels([waveform], CPU))
    return [[round(s.start_s * 1000), round(s.end_s * 1000)] for s in found]


def _with_max_length(directory: Path, target: Path, max_segment_ms: int) -> Path:
    """The same model with another `max_single_segment_time` in its config.yaml."""
    settings = yaml.safe_load((directory / "config.yaml").read_text())
    settings["model_conf"]["max_single_segment_time"] = max_segment_ms
    (target / "config.yaml").write_text(yaml.safe_dump(settings))
    for name in ("am.mvn", "model.pt"):
        (target / name).write_bytes((directory / name).read_bytes())
    return target


@pytest.mark.usefixtures("funasr")
def test_fsmn_finds_the_intervals_of_funasr(random_fsmn: Path) -> None:
    waveform = _bursts(150.0, seed=1)
    found = _our_intervals(FsmnVad(random_fsmn, SegmentConfig()), waveform)
    assert len(found) > 10  # it switches often
    assert found == _funasr_intervals(_funasr(random_fsmn), waveform)


@pytest.mark.usefixtures("funasr")
def test_the_chunk_size_of_funasr_does_not_matter(random_fsmn: Path) -> None:
    waveform = _bursts(70.0, seed=2)
    found = _our_intervals(FsmnVad(random_fsmn, SegmentConfig()), waveform)
    assert found == _funasr_intervals(_funasr(random_fsmn), waveform, chunk_size=16_000)


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize("end_silence_ms", [50, 150, 155, 260, 333, 2_000])
def test_fsmn_follows_any_end_silence(random_fsmn: Path, end_silence_ms: int) -> None:
    waveform = _bursts(40.0, seed=3)
    vad = FsmnVad(random_fsmn, SegmentConfig(end_silence_s=end_silence_ms / 1000))
    assert _our_intervals(vad, waveform) == _funasr_intervals(
        _funasr(random_fsmn, end_silence_ms), waveform
    )


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize("max_segment_ms", [1_000, 5_000])
def test_fsmn_cuts_at_the_longest_segment(
    random_fsmn: Path, tmp_path: Path, max_segment_ms: int
) -> None:
    waveform = _bursts(40.0, seed=4)
    directory = _with_max_length(random_fsmn, tmp_path, max_segment_ms)
    found = _our_intervals(FsmnVad(directory, SegmentConfig(end_silence_s=1.0)), waveform)
    assert max(end - start for start, end in found) > max_segment_ms
    assert found == _funasr_intervals(_funasr(random_fsmn, 1_000, max_segment_ms), waveform)


@pytest.mark.usefixtures("funasr")
def test_fsmn_finds_the_intervals_of_funasr_at_any_length(random_fsmn: Path) -> None:
    vad, reference = FsmnVad(random_fsmn, SegmentConfig()), _funasr(random_fsmn)
    loud = np.random.default_rng(5).normal(scale=3_000, size=61 * SAMPLE_RATE).astype(np.int16)
    frames = [FRAME_LENGTH + n * FRAME for n in (0, 1, 2, 3, 14, 15, 20, 40)]
    minute = 60 * SAMPLE_RATE  # FunASR's chunk: the next one is empty or less than a frame
    for n_samples in (*frames, minute, minute + 1, minute + 240, minute + 400):
        assert _our_intervals(vad, loud[:n_samples]) == _funasr_intervals(
            reference, loud[:n_samples]
        )


@pytest.mark.usefixtures("funasr")
def test_fsmn_equals_funasr_in_silence_and_in_noise(random_fsmn: Path) -> None:
    vad, reference = FsmnVad(random_fsmn, SegmentConfig()), _funasr(random_fsmn)
    for level in (0, 1, 300, 30_000):
        noise = np.random.default_rng(6).integers(-level, level + 1, 5 * SAMPLE_RATE)
        waveform = noise.astype(np.int16)
        assert _our_intervals(vad, waveform) == _funasr_intervals(reference, waveform)


@pytest.mark.usefixtures("funasr")
def test_the_silence_probability_equals_that_of_funasr(random_fsmn: Path) -> None:
    features = log_mel(_bursts(35.0, seed=7))
    vad = FsmnVad(random_fsmn, SegmentConfig())
    (ours,) = vad.silence_probabilities([torch.from_numpy(features)])
    from funasr.frontends.wav_frontend import apply_cmvn, apply_lfr

    reference = _funasr(random_fsmn)
    stacked = apply_lfr(torch.from_numpy(features), 5, 1)
    stacked = apply_cmvn(stacked, reference.kwargs["frontend"].cmvn)
    with torch.no_grad():
        theirs = reference.model.encoder(stacked[None], cache={})[0, :, 0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize("step", [7, 1_000, 1 << 18])
def test_many_recordings_give_the_intervals_of_each_alone(
    random_fsmn: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network gets one sequence, in chunks of any size, as on a GPU."""
    vad = FsmnVad(random_fsmn, SegmentConfig())
    lengths_s = (3.0, 0.01, 12.0, 0.5, 0.0, 31.0)
    waveforms = [_bursts(31.0, seed=i)[: int(s * 16_000)] for i, s in enumerate(lengths_s)]
    alone = [vad.silence_probabilities(log_mels([one], CPU))[0] for one in waveforms]
    monkeypatch.setitem(fsmn_vad.CHUNK_FRAMES, "cpu", step)
    together = vad.silence_probabilities(log_mels(waveforms, CPU))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert vad.find_speech(waveforms, log_mels(waveforms, CPU)) == [
        vad.find_speech([one], log_mels([one], CPU))[0] for one in waveforms
    ]


@pytest.mark.usefixtures("funasr")
def test_no_recording_gives_no_intervals(random_fsmn: Path) -> None:
    assert FsmnVad(random_fsmn, SegmentConfig()).find_speech([], []) == []


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize("n_samples", [0, 1, 399])
def test_less_than_a_frame_is_silence(random_fsmn: Path, n_samples: int) -> None:
    # FunASR's AutoModel divides by its duration of zero frames here
    waveform = np.full(n_samples, 9_000, np.int16)
    assert _our_intervals(FsmnVad(random_fsmn, SegmentConfig()), waveform) == []


class _FunasrMachine:
    """FunASR's state machine without its network, with given silence probabilities."""

    def __init__(self, rules: dict[str, int]) -> None:
        from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming

        options = {**FSMN_CONFIG["model_conf"], **rules}
        self.model = FsmnVADStreaming(
            encoder="FSMN", encoder_conf=FSMN_CONFIG["encoder_conf"], **options
        )

    def run(self, is_speech: list[bool]) -> list[list[int]]:
        scores = torch.tensor([0.01 if speech else 0.99 for speech in is_speech])[None, :, None]
        del self.model._modules["encoder"]
        self.model.encoder = lambda feats, cache: scores
        waveform = torch.ones(1, (len(is_speech) - 1) * FRAME + FRAME_LENGTH)
        found = self.model.forward(
            torch.empty(1, len(is_speech), 1),
            waveform,
            cache=self.model.init_cache({}),
            is_final=True,
            is_streaming_input=False,
        )
        return cast(list[list[int]], found[0] if found else [])


@pytest.mark.parametrize("seed", range(6))
def test_the_state_machine_equals_that_of_funasr_for_any_rules(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        runs = [int(chance.expovariate(1 / 25)) + 1 for _ in range(chance.randint(1, 60))]
        steady = [i % 2 == 1 for i, n_frames in enumerate(runs) for _ in range(n_frames)]
        flicker = [speech != (chance.random() < 0.1) for speech in steady]
        rules = {
            "max_end_silence_time": chance.choice([100, 170, 300, 800, 805]),
            "max_single_segment_time": chance.choice([500, 2_000, 60_000]),
            "sil_to_speech_time_thres": chance.choice([50, 100, 150]),
            "speech_to_sil_time_thres": chance.choice([50, 150]),
            "lookback_time_start_point": chance.choice([0, 200]),
            "lookahead_time_end_point": chance.choice([0, 100]),
        }
        theirs = _FunasrMachine(rules).run(flicker)
        ours = find_intervals(np.array(flicker), _rules_of(rules))
        assert [[start * 10, end * 10] for start, end in ours] == theirs, rules


def _rules_of(rules: dict[str, int]) -> Any:
    from pipeline.models.vad.fsmn import _endpoint_rules

    return _endpoint_rules({"window_size_ms": 200, **rules}, rules["max_end_silence_time"])


@pytest.mark.usefixtures("funasr")
def test_another_variant_of_fsmn_is_refused(random_fsmn: Path, tmp_path: Path) -> None:
    directory = _with_max_length(random_fsmn, tmp_path, 60_000)
    path = directory / "config.yaml"
    path.write_text(path.read_text().replace("do_extend: 1", "do_extend: 0"))
    with pytest.raises(ModelError, match=r"config\.yaml.*model_conf\.do_extend: 0"):
        FsmnVad(directory, SegmentConfig())


def test_a_directory_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: SenseVoiceSmall\n")
    with pytest.raises(ModelError, match=r"not the config\.yaml of an FSMN-VAD"):
        load_vad(str(tmp_path), SegmentConfig())


@pytest.mark.usefixtures("funasr")
def test_a_missing_model_file_is_named(random_fsmn: Path, tmp_path: Path) -> None:
    directory = _with_max_length(random_fsmn, tmp_path, 60_000)
    (directory / "model.pt").unlink()
    with pytest.raises(ModelError, match=r"model\.pt"):
        load_vad(str(directory), SegmentConfig())


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load_vad(str(tmp_path / "nowhere"), SegmentConfig())


def test_no_vad_gives_the_whole_recording() -> None:
    vad = load_vad("none", SegmentConfig())
    waveform = np.zeros(24_001, np.int16)
    assert vad.find_speech([waveform], []) == [[Segment(0.0, 24_001 / SAMPLE_RATE)]]


def test_no_vad_gives_no_interval_for_no_sample() -> None:
    assert WholeRecording().find_speech([np.zeros(0, np.int16)], []) == [[]]


@pytest.fixture(scope="module")
def silero() -> Silero:
    return Silero(SegmentConfig(threshold=0.5, end_silence_s=0.3, pad_s=0.1))


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("n_samples", [0, 1, 511, 512, 513, 512 * 512, 512 * 512 + 1, 600_000])
def test_silero_in_blocks_equals_its_package(silero: Silero, n_samples: int) -> None:
    import silero_vad

    waveform = _bursts(40.0, seed=9)[:n_samples]
    ours = silero.speech_probabilities(waveform)
    n_frames = -(-n_samples // 512)
    assert len(ours) == n_frames
    # The package refuses less than 512 samples; get_speech_timestamps pads with zeros, as here.
    samples = torch.zeros(n_frames * 512)
    samples[:n_samples] = torch.from_numpy(waveform / np.float32(32768))
    model = silero_vad.load_silero_vad()
    with torch.no_grad():
        theirs = [float(model(frame, SAMPLE_RATE)) for frame in samples.split(512) if len(frame)]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_silero_finds_no_speech_in_silence(silero: Silero) -> None:
    assert _our_intervals(silero, np.zeros(5 * SAMPLE_RATE, np.int16)) == []


def _read(path: Path) -> np.ndarray:
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(axis=1), rate_hz, SAMPLE_RATE)
    return np.asarray(np.clip(np.round(mono * 32768), -32768, 32767), dtype=np.int16)


@pytest.fixture(scope="module")
def recordings() -> dict[str, np.ndarray]:
    audio = SHARED / "audio"
    paths = sorted([*(audio / "speech").iterdir(), *(audio / "events").iterdir()])
    return {path.name: _read(path) for path in paths}


@pytest.mark.usefixtures("funasr")
@needs_shared
def test_the_released_fsmn_equals_funasr(recordings: dict[str, np.ndarray]) -> None:
    vad, reference = FsmnVad(REAL_FSMN, SegmentConfig()), _funasr(REAL_FSMN)
    for name, waveform in recordings.items():
        assert _our_intervals(vad, waveform) == _funasr_intervals(reference, waveform), name


@pytest.mark.usefixtures("funasr")
@needs_shared
@pytest.mark.parametrize(("end_silence_ms", "max_segment_ms"), [(800, 60_000), (6_000, 5_000)])
def test_the_released_fsmn_equals_funasr_on_minutes_of_speech(
    recordings: dict[str, np.ndarray], tmp_path: Path, end_silence_ms: int, max_segment_ms: int
) -> None:
    waveform = np.concatenate([*recordings.values(), *recordings.values()])
    directory = _with_max_length(REAL_FSMN, tmp_path, max_segment_ms)
    vad = FsmnVad(directory, SegmentConfig(end_silence_s=end_silence_ms / 1000))
    reference = _funasr(REAL_FSMN, end_silence_ms, max_segment_ms)
    assert _our_intervals(vad, waveform) == _funasr_intervals(reference, waveform)


@pytest.mark.usefixtures("patience")
@needs_shared
def test_silero_finds_the_intervals_of_its_package(
    silero: Silero, recordings: dict[str, np.ndarray]
) -> None:
    import silero_vad

    waveform = np.concatenate([*recordings.values()])
    theirs = silero_vad.get_speech_timestamps(
        torch.from_numpy(waveform / np.float32(32768)),
        silero_vad.load_silero_vad(),
        threshold=0.5,
        min_silence_duration_ms=300,
        speech_pad_ms=100,
    )
    (ours,) = silero.find_speech([waveform], [])
    assert len(theirs) > 3
    assert [(s.start_s * SAMPLE_RATE, s.end_s * SAMPLE_RATE) for s in ours] == [
        (s["start"], s["end"]) for s in theirs
    ]
