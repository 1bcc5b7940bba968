"""What a real GPU returns, held against FunASR and the CPU. Skipped where there is none.

`test_gpu_path.py` checks the same code without a GPU, on torch's fake tensors.
"""

from functools import cache

import numpy as np
import pytest
import torch

from pipeline.config import Precision, SegmentConfig
from pipeline.errors import BatchTooLarge
from pipeline.models.features import log_mel, log_mel_tensor
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.attention import AttentionKind
from pipeline.models.sensevoice.decoding import ClipOutput, rich_text
from pipeline.models.sensevoice.model import SenseVoice
from pipeline.models.vad.load import load_vad
from tests.models.sensevoice.test_model import (
    demo_funasr,
    demo_model,
    generated,
    short_waveforms,
    transcribe,
)
from tests.support.demo import AUDIO, LONG, MODEL, SHARED, SHORT, waveform_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

KINDS = pytest.mark.parametrize(
    ("precision", "attention", "compiled"),
    [
        ("fp32", "padded", False),
        ("fp32", "per_clip", False),
        ("bf16", "padded", False),
        ("bf16", "varlen", False),
        ("bf16", "padded", True),
        ("bf16", "varlen", True),
    ],
)


@cache
def gpu_model(precision: Precision, attention: AttentionKind, compiled: bool) -> SenseVoice:
    files = resolve_model(str(MODEL))
    return SenseVoice(files, "cuda", precision, attention=attention, compiled=compiled)


@pytest.mark.usefixtures("funasr")
@KINDS
def test_rich_text_on_a_gpu_equals_funasr(
    precision: Precision, attention: AttentionKind, compiled: bool
) -> None:
    model = gpu_model(precision, attention, compiled)
    ours = [rich_text(one, model.vocabulary) for one in transcribe(model, short_waveforms(), True)]
    assert ours == [generated(demo_funasr(), waveform, True) for waveform in short_waveforms()]


@KINDS
def test_probabilities_on_a_gpu_are_those_of_the_cpu(
    precision: Precision, attention: AttentionKind, compiled: bool
) -> None:
    theirs = transcribe(demo_model(), short_waveforms(), True)
    ours = transcribe(gpu_model(precision, attention, compiled), short_waveforms(), True)
    tolerance = 1e-3 if precision == "fp32" else 0.1
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("probabilities", "language", "emotion", "event"):
            np.testing.assert_allclose(
                getattr(mine, name), getattr(other, name), atol=tolerance, err_msg=name
            )


@pytest.mark.parametrize("attention", ["padded", "varlen"])
def test_a_clip_on_a_gpu_does_not_depend_on_its_batch(attention: AttentionKind) -> None:
    model = gpu_model("bf16", attention, False)
    clips = [log_mel(waveform) for waveform in short_waveforms()]
    alone: list[ClipOutput] = []
    for clip in clips:
        alone += model.transcribe([clip], ["auto"], [True])
    batched = model.transcribe(clips, ["auto"] * len(clips), [True] * len(clips))
    same = np.concatenate([a.tokens == b.tokens for a, b in zip(alone, batched, strict=True)])
    assert same.mean() >= 0.999


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_batch_that_does_not_fit_is_told_and_the_next_one_works(precision: Precision) -> None:
    files = resolve_model(str(MODEL))
    model = SenseVoice(files, "cuda", precision)
    features = torch.zeros(3000, 80, device="cuda")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    used = torch.cuda.memory_reserved() + (64 << 20)
    torch.cuda.set_per_process_memory_fraction(used / total)
    try:
        with pytest.raises(BatchTooLarge):
            model.transcribe([features] * 64, ["auto"] * 64, [True] * 64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(model.transcribe([features] * 2, ["auto"] * 2, [True] * 2)) == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="FSMN-VAD's weights are not on this machine")
def test_fsmn_vad_on_a_gpu_finds_the_segments_of_the_cpu() -> None:
    folder = str(SHARED / "models" / "fsmn-vad")
    waveforms = [waveform_of(AUDIO / row["audio"]) for row in [*SHORT, LONG]]
    found = []
    for device in ("cpu", "cuda"):
        vad = load_vad(folder, SegmentConfig(), device)
        log_mels = [log_mel_tensor(torch.from_numpy(one.copy()).to(device)) for one in waveforms]
        found.append(vad.find_speech(waveforms, log_mels))
    assert found[0] == found[1]
