"""Options in the config.yaml of an FSMN-VAD, at other values than the published model has."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline.config import SegmentConfig
from pipeline.models.features import log_mels
from pipeline.models.vad.fsmn import FsmnVad
from pipeline.schema import SAMPLE_RATE
from tests.models.vad.test_vad import write_random_fsmn


@pytest.fixture(scope="module")
def random_fsmn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fsmn-vad")
    write_random_fsmn(directory)
    return directory


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    """40 s of noise whose level changes every 0.1 to 2 s, some of it digital silence."""
    generator = np.random.default_rng(11)
    parts = [
        generator.normal(scale=generator.choice([0.0, 5.0, 300.0, 3_000.0]), size=n_samples)
        for n_samples in generator.integers(1_600, 32_000, 60)
    ]
    return np.concatenate(parts)[: 40 * SAMPLE_RATE].astype(np.int16)


def our_intervals(directory: Path, waveform: np.ndarray) -> list[list[int]]:
    vad = FsmnVad(directory, SegmentConfig(end_silence_s=0.8))
    (found,) = vad.find_speech([waveform], log_mels([waveform], torch.device("cpu")))
    return [[round(one.start_s * 1000), round(one.end_s * 1000)] for one in found]


def intervals_of_funasr(directory: Path, waveform: np.ndarray) -> list[list[int]]:
    from funasr import AutoModel

    model = AutoModel(
        **{"model": str(directory), "device": "cpu", "ncpu": 1, "max_end_silence_time": 800},
        **{"disable_update": True, "disable_pbar": True},
    )
    samples = waveform.astype(np.float32) / 32768
    return list(model.generate(input=samples)[0]["value"])


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize(
    "options",
    [
        {"sil_pdf_ids": [0, 5], "silence_pdf_num": 2},
        {"speech_2_noise_ratio": 1.5},
        {"speech_2_noise_ratio": 0.5},
        {"sil_pdf_ids": [0, 5, 17], "silence_pdf_num": 3, "speech_2_noise_ratio": 1.5},
        {"speech_noise_thres": 0.2},
        {"window_size_ms": 100, "sil_to_speech_time_thres": 60, "speech_to_sil_time_thres": 40},
    ],
)
def test_an_option_of_the_model_means_the_same_as_in_funasr(
    random_fsmn: Path, tmp_path: Path, waveform: np.ndarray, options: dict[str, Any]
) -> None:
    settings = yaml.safe_load((random_fsmn / "config.yaml").read_text())
    settings["model_conf"] |= options
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    for name in ("am.mvn", "model.pt"):
        (tmp_path / name).symlink_to(random_fsmn / name)
    ours = our_intervals(tmp_path, waveform)
    assert len(ours) > 3
    assert ours != our_intervals(random_fsmn, waveform)  # else the option would prove nothing
    assert ours == intervals_of_funasr(tmp_path, waveform)
