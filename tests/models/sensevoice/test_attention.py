"""Every way of attention is softmax(q k') v of each clip, and a way that is not is not taken."""

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from pipeline.models.sensevoice.attention import AttentionKind, choose_way, lay_out, varlen_works
from tests.support.kernels import exact, varlen_attn

CPU = torch.device("cpu")
N_HEADS, D_HEAD = 4, 32
LENGTHS = [5, 300, 1, 171, 60, 170, 169]  # on either side of what is multiplied head by head


def qkv(lengths: list[int], seed: int = 0) -> tuple[Tensor, ...]:
    """Views of one matrix, as the encoder has them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(lengths), 3 * N_HEADS * D_HEAD, generator=generator).chunk(3, dim=1)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("way", ["clips", "grid", "varlen"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 5e-6), (torch.bfloat16, 2e-2)])
def test_every_way_gives_the_attention_of_each_clip(
    way: AttentionKind, dtype: torch.dtype, atol: float
) -> None:
    q, k, v = (t.to(dtype) for t in qkv(LENGTHS))
    heard = lay_out(LENGTHS, way, CPU).attend(q, k, v, N_HEADS)
    assert heard.dtype == dtype
    assert heard.shape == q.shape
    torch.testing.assert_close(heard.double(), exact(q, k, v, LENGTHS, N_HEADS), atol=atol, rtol=0)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("way", ["clips", "grid", "varlen"])
def test_no_clip_hears_another(way: AttentionKind) -> None:
    layout = lay_out(LENGTHS, way, CPU)
    q, k, v = qkv(LENGTHS)
    before = layout.attend(q, k, v, N_HEADS).split(LENGTHS)
    for t in (q, k, v):
        t.split(LENGTHS)[1].mul_(1000)
    after = layout.attend(q, k, v, N_HEADS).split(LENGTHS)
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(one, other) == (index != 1)


def test_a_cpu_attends_clip_by_clip() -> None:
    assert choose_way(CPU, torch.bfloat16, N_HEADS, D_HEAD) == "clips"


@pytest.mark.usefixtures("kernel")
def test_a_kernel_that_works_is_taken() -> None:
    assert varlen_works(CPU, torch.bfloat16, N_HEADS, D_HEAD)


def test_without_a_kernel_there_is_the_grid(caplog: pytest.LogCaptureFixture) -> None:
    """Torch's own, on a CPU, has none."""
    with caplog.at_level(logging.WARNING):
        assert not varlen_works(CPU, torch.bfloat16, N_HEADS, D_HEAD)
    assert "varlen_attn fails here" in caplog.text


@pytest.mark.parametrize("wrong", ["garbage", "nan", "another clip"])
def test_a_kernel_that_gives_something_else_is_not_taken(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(q: Tensor, *rest: Any) -> Tensor:
        heard = varlen_attn(q, *rest)
        return {"garbage": heard + 1, "nan": heard * math.nan, "another clip": heard.roll(1, 0)}[
            wrong
        ]

    monkeypatch.setattr(varlen, "varlen_attn", broken)
    with caplog.at_level(logging.WARNING):
        assert not varlen_works(CPU, torch.bfloat16, N_HEADS, D_HEAD)
    assert "varlen_attn is off by" in caplog.text


def test_full_precision_has_no_such_kernel() -> None:
    """FlashAttention knows half precision only; a GPU at fp32 needs no trial."""
    assert choose_way(torch.device("cuda"), torch.float32, N_HEADS, D_HEAD) == "grid"
