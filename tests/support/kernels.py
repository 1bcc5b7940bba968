"""Attention as the formula says: the reference for ours, and a stand-in for a GPU's kernel."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def exact(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], n_heads: int) -> Tensor:
    """(n_frames, d) of clips one after the other, in float64."""
    attended = []
    for clip in zip(*(t.double().split(list(lengths)) for t in (q, k, v)), strict=True):
        q, k, v = (t.unflatten(-1, (n_heads, -1)).transpose(0, 1) for t in clip)
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        attended.append((weights @ v).transpose(0, 1).flatten(1))
    return torch.cat(attended)


def varlen_attn(
    q: Tensor, k: Tensor, v: Tensor, bounds_q: Tensor, bounds_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """torch.nn.attention.varlen.varlen_attn for machines without its kernel."""
    assert bounds_q.dtype == bounds_k.dtype == torch.int32
    lengths = bounds_q.diff().tolist()
    assert max(lengths) == max_q == max_k
    attended = exact(q.flatten(1), k.flatten(1), v.flatten(1), lengths, q.shape[1])
    return attended.to(q.dtype).view(q.shape)
