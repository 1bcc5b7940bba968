"""Self-attention of each clip of a model batch, in three ways. Knows where clips lie; no network.

The frames of all clips stand one after the other, (n_frames, d), and no clip attends to another.
Each way takes q, k and v like that and returns softmax(q k' / sqrt(d_head)) v in the same order,
per head and clip.
"""

import logging
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.linear import linear

AttentionKind = Literal["per_clip", "padded", "varlen"]

_log = logging.getLogger(__name__)

_LONG_FRAMES = 170  # from this length on, oneDNN multiplies each head by itself (see `linear`)
_TRIAL_LENGTHS = [3, 200, 1]
_MAX_DIFFERENCE = 0.05  # bfloat16 keeps 8 bits of values around 1


class PerClip(NamedTuple):
    """One clip after the other: no wasted work, but several kernel launches for each clip."""

    lengths: list[int]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
        clips = zip(*(t.split(self.lengths) for t in (q, k, v)), strict=True)
        return torch.cat([_attend_one(q, k, v, n_heads) for q, k, v in clips])


class Padded(NamedTuple):
    """All clips at once, padded to the longest; a mask hides the padding."""

    longest: int
    place: Tensor  # int64 (n_frames,), where each frame lies among the n_clips * longest places
    mask: Tensor  # bool (n_clips, 1, 1, longest), true where there is a frame

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
        q, k, v = (self._pad(t, n_heads) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return attended.transpose(1, 2).flatten(2).flatten(0, 1)[self.place]

    def _pad(self, t: Tensor, n_heads: int) -> Tensor:
        """(n_frames, d) -> (n_clips, n_heads, longest, d_head)."""
        n_clips = len(self.mask)
        padded = t.new_zeros(n_clips * self.longest, t.shape[1])
        padded[self.place] = t
        return padded.view(n_clips, self.longest, n_heads, -1).transpose(1, 2)


class Varlen(NamedTuple):
    """All clips at once, without padding: FlashAttention's kernel for sequences of any length."""

    longest: int
    bounds: Tensor  # int32 (n_clips + 1,), where clips begin and end

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
        # Its import takes seconds of CPU and 160 MB (torch._dynamo, sympy, triton). CPU workers do
        # not need it.
        from torch.nn.attention import varlen

        q, k, v = (t.unflatten(-1, (n_heads, -1)) for t in (q, k, v))
        attended = varlen.varlen_attn(q, k, v, self.bounds, self.bounds, self.longest, self.longest)
        assert isinstance(attended, Tensor)  # with return_aux it would be two
        return attended.flatten(1)


def lay_out(
    lengths: Sequence[int], kind: AttentionKind, device: torch.device
) -> PerClip | Padded | Varlen:
    """Where the clips of one model batch lie, for all layers. Built on the host, from `lengths`."""
    sizes, longest = np.array(lengths), max(lengths)
    starts = np.cumsum(sizes) - sizes
    if kind == "varlen":
        bounds = np.append(starts, sizes.sum()).astype(np.int32)
        return Varlen(longest, torch.from_numpy(bounds).to(device))
    if kind == "padded":
        n_padding = np.repeat(np.arange(len(sizes)) * longest - starts, sizes)
        mask = (np.arange(longest) < sizes[:, None])[:, None, None]
        return Padded(
            longest,
            torch.from_numpy(np.arange(sizes.sum()) + n_padding).to(device),
            torch.from_numpy(mask).to(device),
        )
    return PerClip(list(lengths))


def choose_attention(
    device: torch.device, dtype: torch.dtype, n_heads: int, d_head: int
) -> AttentionKind:
    """The fastest kind that works on the device.

    On a CPU: per clip, because a launch costs nothing there. On a GPU: FlashAttention, which needs
    half precision and Ampere or newer; a trial shows whether its kernel exists and is right. Else
    padded.
    """
    if device.type == "cpu":
        return "per_clip"
    if dtype == torch.bfloat16 and varlen_works(device, dtype, n_heads, d_head):
        return "varlen"
    return "padded"


def varlen_works(device: torch.device, dtype: torch.dtype, n_heads: int, d_head: int) -> bool:
    """Whether varlen attention gives the result of padded attention; if not, logs why."""
    generator = torch.Generator().manual_seed(0)
    shape = sum(_TRIAL_LENGTHS), 3 * n_heads * d_head
    q, k, v = torch.randn(shape, generator=generator).to(device, dtype).chunk(3, dim=-1)
    kinds: tuple[AttentionKind, AttentionKind] = ("varlen", "padded")
    try:
        tried, expected = (
            lay_out(_TRIAL_LENGTHS, kind, device).attend(q, k, v, n_heads).float() for kind in kinds
        )
        difference = float((tried - expected).abs().max())
    except (RuntimeError, TypeError, ImportError) as error:  # no kernel, or another signature
        _log.warning("varlen_attn fails on this device, using padded attention: %s", error)
        return False
    if not difference < _MAX_DIFFERENCE:  # also true of NaN
        _log.warning("varlen_attn is off by %g here, using padded attention", difference)
        return False
    return True


def _attend_one(q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
    """One clip on a CPU; scores and their softmax are float32 at every precision.

    torch's own attention for CPUs multiplies in float32 by MKL, whatever dtype it is given. On an
    AMD EPYC it takes twice as long as this with bfloat16, and half as long again as this with clips
    of 15 s in float32.
    """
    scale = math.sqrt(n_heads / q.shape[1])
    if len(q) < _LONG_FRAMES:
        q, k, v = (t.unflatten(-1, (n_heads, -1)).transpose(0, 1) for t in (q, k, v))
        weights = torch.bmm(q.float() * scale, k.float().transpose(1, 2)).softmax(-1)
        return torch.bmm(weights.to(v.dtype), v).transpose(0, 1).flatten(1)
    heads = zip(*(t.chunk(n_heads, dim=1) for t in (q, k, v)), strict=True)
    return torch.cat([_attend_head(q.float() * scale, k.float(), v) for q, k, v in heads], dim=1)


def _attend_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head of a long clip. Contiguous, because oneDNN takes 1000 times as long with strides."""
    weights = linear(q.contiguous(), k.contiguous()).softmax(-1)
    if v.dtype == torch.float32:
        return linear(weights, v.T.contiguous())
    return weights.to(v.dtype) @ v
