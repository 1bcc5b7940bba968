"""Self-attention over packed clips, three ways. Knows where clips lie; nothing of a network.

Packed: the frames of all clips stand one after the other, (n_frames, d), and none of them hears
another clip. All ways take q, k, v like that and give the same back: softmax(q k' / sqrt(d_head)) v
of each head and clip.
"""

import logging
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen

from pipeline.models.linear import linear

AttentionKind = Literal["clips", "grid", "varlen"]

_log = logging.getLogger(__name__)

# Frames of a clip from which its heads are multiplied one by one, by oneDNN (see `linear`).
_LONG = 170
_TRIAL_LENGTHS = [3, 200, 1]
_TRIAL_WAYS: tuple[AttentionKind, AttentionKind] = ("varlen", "grid")


class ByClip(NamedTuple):
    """Clip by clip: wastes nothing, but costs launches for each."""

    lengths: list[int]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
        clips = zip(*(t.split(self.lengths) for t in (q, k, v)), strict=True)
        return torch.cat([_attend_one(q, k, v, n_heads) for q, k, v in clips])


class InGrid(NamedTuple):
    """All clips as long as the longest, their padding masked."""

    longest: int
    place: Tensor  # int64 (n_frames,) of each frame in a (n_clips, longest) grid
    mask: Tensor  # bool (n_clips, 1, 1, longest), true where the grid holds a frame

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
        q, k, v = (self._spread(t, n_heads) for t in (q, k, v))
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return heard.transpose(1, 2).flatten(2).flatten(0, 1)[self.place]

    def _spread(self, t: Tensor, n_heads: int) -> Tensor:
        """(n_frames, d) -> (n_clips, n_heads, longest, d_head)."""
        n_clips = len(self.mask)
        grid = t.new_zeros(n_clips * self.longest, t.shape[1])
        grid[self.place] = t
        return grid.view(n_clips, self.longest, n_heads, -1).transpose(1, 2)


class Varlen(NamedTuple):
    """By FlashAttention's kernel for sequences of any length (torch.nn.attention.varlen)."""

    longest: int
    bounds: Tensor  # int32 (n_clips + 1,), where clips begin and end

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
        q, k, v = (t.unflatten(-1, (n_heads, -1)) for t in (q, k, v))
        heard = varlen.varlen_attn(q, k, v, self.bounds, self.bounds, self.longest, self.longest)
        assert isinstance(heard, Tensor)  # with return_aux it would be two
        return heard.flatten(1)


def lay_out(
    lengths: Sequence[int], way: AttentionKind, device: torch.device
) -> ByClip | InGrid | Varlen:
    """The clips of one pack, for all layers; made on the host, which knows all lengths."""
    sizes, longest = np.array(lengths), max(lengths)
    starts = np.cumsum(sizes) - sizes
    if way == "varlen":
        bounds = np.append(starts, sizes.sum()).astype(np.int32)
        return Varlen(longest, torch.from_numpy(bounds).to(device))
    if way == "grid":
        n_padding = np.repeat(np.arange(len(sizes)) * longest - starts, sizes)
        mask = (np.arange(longest) < sizes[:, None])[:, None, None]
        return InGrid(
            longest,
            torch.from_numpy(np.arange(sizes.sum()) + n_padding).to(device),
            torch.from_numpy(mask).to(device),
        )
    return ByClip(list(lengths))


def choose_way(
    device: torch.device, dtype: torch.dtype, n_heads: int, d_head: int
) -> AttentionKind:
    """The best that works: clip by clip on a CPU, where launches are free; on a GPU FlashAttention.

    It is for half precision on Ampere or newer. A trial shows whether its kernel is there and
    right; else it is a grid.
    """
    if device.type == "cpu":
        return "clips"
    if dtype == torch.bfloat16 and varlen_works(device, dtype, n_heads, d_head):
        return "varlen"
    return "grid"


def varlen_works(device: torch.device, dtype: torch.dtype, n_heads: int, d_head: int) -> bool:
    """Whether it gives here what the grid gives; if not, the log says why."""
    generator = torch.Generator().manual_seed(0)
    shape = sum(_TRIAL_LENGTHS), 3 * n_heads * d_head
    q, k, v = torch.randn(shape, generator=generator).to(device, dtype).chunk(3, dim=-1)
    try:
        heard, expected = (
            lay_out(_TRIAL_LENGTHS, way, device).attend(q, k, v, n_heads).float()
            for way in _TRIAL_WAYS
        )
        difference = float((heard - expected).abs().max())
    except (RuntimeError, TypeError) as error:  # no kernel for this device; another signature
        _log.warning("attention in a padded grid: varlen_attn fails here: %s", error)
        return False
    if not difference < 0.05:  # bfloat16 keeps 8 bits of values around 1; NaN is not less
        _log.warning("attention in a padded grid: varlen_attn is off by %g here", difference)
        return False
    return True


def _attend_one(q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
    """One clip on a CPU; scores and their softmax are float32 at every precision.

    torch's own attention for CPUs multiplies by MKL in float32, whatever it is given. With bfloat16
    it takes twice as long as this on an AMD EPYC; with clips of 15 s in float32 half as long again.
    """
    scale = math.sqrt(n_heads / q.shape[1])
    if len(q) < _LONG:
        q, k, v = (t.unflatten(-1, (n_heads, -1)).transpose(0, 1) for t in (q, k, v))
        weights = torch.bmm(q.float() * scale, k.float().transpose(1, 2)).softmax(-1)
        return torch.bmm(weights.to(v.dtype), v).transpose(0, 1).flatten(1)
    heads = zip(*(t.chunk(n_heads, dim=1) for t in (q, k, v)), strict=True)
    return torch.cat([_attend_head(q.float() * scale, k.float(), v) for q, k, v in heads], dim=1)


def _attend_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Contiguous matrices: with strided ones oneDNN takes a thousand times as long."""
    weights = linear(q.contiguous(), k.contiguous()).softmax(-1)
    if v.dtype == torch.float32:
        return linear(weights, v.T.contiguous())
    return weights.to(v.dtype) @ v
