"""Which attention and which precision a device gets, and an FSMN memory that is shifted."""

from typing import Any

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models.sensevoice import attention
from pipeline.models.sensevoice.attention import choose_attention
from pipeline.models.sensevoice.encoder import Encoder

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "dtype", "kernel_works", "kind"),
    [
        (GPU, torch.bfloat16, True, "varlen"),
        (GPU, torch.bfloat16, False, "padded"),
        (GPU, torch.float32, True, "padded"),  # FlashAttention knows half precision only
        (CPU, torch.bfloat16, True, "per_clip"),
        (CPU, torch.float32, True, "per_clip"),
    ],
)
def test_the_attention_follows_from_device_precision_and_a_trial(
    device: torch.device,
    dtype: torch.dtype,
    kernel_works: bool,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, ...]] = []

    def varlen_works(*arguments: Any) -> bool:
        asked.append(arguments)
        return kernel_works

    monkeypatch.setattr(attention, "varlen_works", varlen_works)
    assert choose_attention(device, dtype, 4, 128) == kind
    assert asked in ([], [(device, dtype, 4, 128)])


def test_int8_is_refused_on_a_gpu() -> None:
    with pytest.raises(ModelError, match="int8"):
        Encoder({}, {}, GPU, "int8")


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize("shift", [0, 2])
def test_a_shifted_memory_equals_that_of_funasr(shift: int) -> None:
    """`sanm_shfit` is 0 in both published models; another value moves the memory's taps."""
    from funasr.models.sense_voice.model import SenseVoiceEncoderSmall

    conf = {
        **{"output_size": 32, "attention_heads": 2, "linear_units": 64, "num_blocks": 3},
        **{"tp_blocks": 2, "kernel_size": 11, "sanm_shfit": shift},
    }
    torch.manual_seed(0)
    reference = SenseVoiceEncoderSmall(input_size=48, **conf).eval()
    weights = {f"encoder.{name}": value for name, value in reference.state_dict().items()}
    head = {"ctc.ctc_lo.weight": torch.eye(32), "ctc.ctc_lo.bias": torch.zeros(32)}
    ours = Encoder({**weights, **head}, conf, CPU)
    clips = [torch.randn(n_frames, 48) for n_frames in (30, 7, 1)]
    with torch.inference_mode():
        scaled = [reference.embed(clip[None] * 32**0.5)[0] for clip in clips]
        theirs = [reference(clip[None].clone(), torch.tensor([len(clip)]))[0][0] for clip in clips]
        encoded = ours.encode(torch.cat(scaled), [len(clip) for clip in clips])
    torch.testing.assert_close(encoded, torch.cat(theirs), atol=2e-5, rtol=0)
