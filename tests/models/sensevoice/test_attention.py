"""Every kind of attention is softmax(q k') v of each clip; a kernel that differs is not used."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from pipeline.models.sensevoice.attention import (
    AttentionKind,
    choose_attention,
    lay_out,
    varlen_works,
)
from tests.support.kernels import exact, varlen_attn

CPU = torch.device("cpu")
N_HEADS, D_HEAD = 4, 32
LENGTHS = [5, 300, 1, 171, 60, 170, 169]  # from 170 on, heads are multiplied one by one


def qkv(lengths: list[int], seed: int = 0) -> tuple[Tensor, ...]:
    """Views of one matrix, as in the encoder."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(lengths), 3 * N_HEADS * D_HEAD, generator=generator).chunk(3, dim=1)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kind", ["per_clip", "padded", "varlen"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 5e-6), (torch.bfloat16, 2e-2)])
def test_every_kind_gives_the_attention_of_each_clip(
    kind: AttentionKind, dtype: torch.dtype, atol: float
) -> None:
    q, k, v = (t.to(dtype) for t in qkv(LENGTHS))
    attended = lay_out(LENGTHS, kind, CPU).attend(q, k, v, N_HEADS)
    expected = exact(q, k, v, LENGTHS, N_HEADS)
    assert attended.dtype == dtype
    assert attended.shape == q.shape
    torch.testing.assert_close(attended.double(), expected, atol=atol, rtol=0)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kind", ["per_clip", "padded", "varlen"])
def test_no_clip_attends_to_another(kind: AttentionKind) -> None:
    layout = lay_out(LENGTHS, kind, CPU)
    q, k, v = qkv(LENGTHS)
    before = layout.attend(q, k, v, N_HEADS).split(LENGTHS)
    for t in (q, k, v):
        t.split(LENGTHS)[1].mul_(1000)
    after = layout.attend(q, k, v, N_HEADS).split(LENGTHS)
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(one, other) == (index != 1)


def test_a_cpu_attends_per_clip() -> None:
    assert choose_attention(CPU, torch.bfloat16, N_HEADS, D_HEAD) == "per_clip"


@pytest.mark.usefixtures("kernel")
def test_a_kernel_that_works_is_used() -> None:
    assert varlen_works(CPU, torch.bfloat16, N_HEADS, D_HEAD)


def test_a_device_without_the_kernel_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """torch has no such kernel for a CPU."""
    with caplog.at_level(logging.WARNING):
        assert not varlen_works(CPU, torch.bfloat16, N_HEADS, D_HEAD)
    assert "varlen_attn fails on this device" in caplog.text


@pytest.mark.parametrize("wrong", ["garbage", "nan", "another clip"])
def test_a_kernel_with_wrong_results_is_not_used(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(q: Tensor, *rest: Any) -> Tensor:
        right = varlen_attn(q, *rest)
        return {"garbage": right + 1, "nan": right * math.nan, "another clip": right.roll(1, 0)}[
            wrong
        ]

    monkeypatch.setattr(varlen, "varlen_attn", broken)
    with caplog.at_level(logging.WARNING):
        assert not varlen_works(CPU, torch.bfloat16, N_HEADS, D_HEAD)
    assert "varlen_attn is off by" in caplog.text


def test_full_precision_on_a_gpu_is_padded() -> None:
    """FlashAttention has half precision only, so fp32 needs no trial."""
    assert choose_attention(torch.device("cuda"), torch.float32, N_HEADS, D_HEAD) == "padded"
