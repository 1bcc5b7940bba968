"""SenseVoice's encoder and head over packed clips: their frames stand one after the other.

The network of FunASR's SenseVoiceEncoderSmall (funasr/models/sense_voice/model.py). Linear layers
never see padding; only attention and the FSMN memory know where a clip ends. Residuals, norms,
softmax and the memory stay in float32 at every precision. Knows nothing of prompts, tags or text.
"""

import ctypes
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import Precision
from pipeline.linear import linear
from pipeline.model_files import ModelError

Linear = Callable[[Tensor], Tensor]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MAX_HEAP_BLOCK = 32 << 20  # glibc takes no higher M_MMAP_THRESHOLD


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the clips of a packed batch lie; built once per batch and used by every layer."""

    lengths: list[int]
    spread: Tensor  # (n_frames,) place of each frame when clips stand `gap` zeros apart
    n_spread: int
    grid: Tensor | None  # (n_frames,) place of each frame in a padded (n_clips, longest) grid
    mask: Tensor | None  # (n_clips, 1, 1, longest) true where the grid holds a frame


class Encoder:
    """70 SANM layers and the CTC head, on one device at one precision."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        conf: Mapping[str, Any],
        device: torch.device,
        precision: Precision = "fp32",
        attend_in_grid: bool | None = None,
    ) -> None:
        # Attention clip by clip wastes nothing but costs a launch each: right on a CPU, where a
        # launch is free, and wrong on a GPU, where a pack has hundreds of clips of like length.
        on_cpu = device.type == "cpu"
        self._attend_in_grid = not on_cpu if attend_in_grid is None else attend_in_grid
        if precision == "int8" and not on_cpu:
            raise ModelError("label.precision: int8 is for CPUs; use bf16 on a GPU")
        self._device = device
        self._heads = int(conf["attention_heads"])
        self._size = int(conf["output_size"])
        first = [f"encoder.encoders0.{i}" for i in range(1)]
        rest = [f"encoder.encoders.{i}" for i in range(int(conf["num_blocks"]) - 1)]
        self._layers = [*first, *rest]
        self._tp_layers = [f"encoder.tp_encoders.{i}" for i in range(int(conf["tp_blocks"]))]
        kernel = int(conf["kernel_size"])
        left = (kernel - 1) // 2 + max(0, int(conf.get("sanm_shfit", 0)))
        self._memory_pad = (left, kernel - 1 - left)
        linears = [
            name.removesuffix(".weight")
            for name, weight in weights.items()
            if weight.dim() == 2 and name != "embed.weight"
        ]
        self._linears = {
            name: make_linear(weights[f"{name}.weight"], weights[f"{name}.bias"], precision)
            for name in linears
        }
        # The rest only: at bf16 and int8 the float32 matrices are not kept.
        self._weights = {
            name: weight
            for name, weight in weights.items()
            if name.rpartition(".")[0] not in self._linears
        }
        if on_cpu:
            keep_freed_memory()

    def encode(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """float32 (sum of lengths, 560) -> (sum of lengths, 512); the input stays as it is."""
        layout = self._lay_out(list(lengths))
        for name in self._layers:
            x = self._layer(x, name, layout)
        x = self._norm(x, "encoder.after_norm")
        for name in self._tp_layers:
            x = self._layer(x, name, layout)
        return self._norm(x, "encoder.tp_norm")

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, 512) -> float32 (n, n_tokens): 100 kB a frame, so ask for few at a time."""
        return self._linears["ctc.ctc_lo"](hidden).float()

    def _lay_out(self, lengths: list[int]) -> Layout:
        left, right = self._memory_pad
        gap = max(left, right)
        clip_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        place = torch.arange(sum(lengths))
        spread = (place + gap * clip_of + left).to(self._device)
        n_spread = left + sum(lengths) + gap * (len(lengths) - 1) + right
        grid = mask = None
        if self._attend_in_grid:
            longest = max(lengths)
            starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
            grid = (place - starts[clip_of] + longest * clip_of).to(self._device)
            mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
            mask = mask[:, None, None, :].to(self._device)
        return Layout(lengths, spread, n_spread, grid, mask)

    def _layer(self, x: Tensor, name: str, layout: Layout) -> Tensor:
        heard = self._attend(self._norm(x, f"{name}.norm1"), f"{name}.self_attn", layout)
        # The first layer maps 560 to 512 and therefore has no residual around its attention.
        x = heard.add_(x) if x.shape == heard.shape else heard
        hidden = self._linears[f"{name}.feed_forward.w_1"](self._norm(x, f"{name}.norm2")).relu_()
        return x.add_(self._linears[f"{name}.feed_forward.w_2"](hidden))

    def _attend(self, x: Tensor, name: str, layout: Layout) -> Tensor:
        """SANM: self-attention plus the FSMN memory of the values. (n, d_in) -> (n, d)."""
        q, k, v = self._linears[f"{name}.linear_q_k_v"](x).split(self._size, dim=-1)
        heard = self._linears[f"{name}.linear_out"](self._attention(q, k, v, layout))
        return self._memory(v.float(), name, layout).add_(heard)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        if layout.grid is None:
            parts = zip(*(t.split(layout.lengths) for t in (q, k, v)), strict=True)
            return torch.cat([self._sdpa(q[None], k[None], v[None])[0] for q, k, v in parts])
        n_clips, longest = len(layout.lengths), max(layout.lengths)
        grids = []
        for t in (q, k, v):
            grid = t.new_zeros(n_clips * longest, self._size)
            grid[layout.grid] = t
            grids.append(grid.view(n_clips, longest, self._size))
        heard = self._sdpa(grids[0], grids[1], grids[2], layout.mask)
        return heard.reshape(n_clips * longest, self._size)[layout.grid]

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n_clips, n, d) -> (n_clips, n, d)."""
        q, k, v = (t.unflatten(-1, (self._heads, -1)).transpose(1, 2) for t in (q, k, v))
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return heard.transpose(1, 2).flatten(-2)

    def _memory(self, v: Tensor, name: str, layout: Layout) -> Tensor:
        """FSMN: a depthwise convolution over time plus the values themselves. (n, d) -> (n, d).

        Zeros between the clips stand for the padding that each would have alone. Laid out as an
        image of height 1 whose channels come last, (n, d) needs no transposition.
        """
        spaced = v.new_zeros(layout.n_spread, self._size)
        spaced[layout.spread] = v
        kernel = self._weights[f"{name}.fsmn_block.weight"][:, :, None]
        image = spaced.T[None, :, None]
        convolved = F.conv2d(image, kernel, groups=self._size)[0, :, 0].T
        return convolved[layout.spread - self._memory_pad[0]].add_(v)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias)


def make_linear(weight: Tensor, bias: Tensor, precision: Precision) -> Linear:
    """A layer: x (n, d_in) -> x @ weight.T + bias, in float32, or bfloat16 at bf16."""
    if precision == "int8":
        return _int8_linear(weight, bias)
    if precision == "bf16":
        half, half_bias = weight.bfloat16(), bias.bfloat16()
        return lambda x: F.linear(x.bfloat16(), half, half_bias)
    return lambda x: linear(x, weight, bias)


def _int8_linear(weight: Tensor, bias: Tensor) -> Linear:
    """8 bits a weight, with a scale per output, and 7 an input, with a scale per frame.

    Every frame is brought to [-1, 1] first, so that the fixed scale of the kernel fits them all and
    a frame's result does not depend on the clips it shares a batch with. 7 bits, because without
    VNNI the CPU adds pairs of products in 16 bits (vpmaddubsw), which 8 by 8 bits overflow.
    """
    ops: Any = torch.ops.quantized
    scales = weight.abs().amax(dim=1).clamp_min(1e-12).double() / 127
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():  # torch points to torchao, whose CPU kernels need a compiler
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    packed = ops.linear_prepack(quantized, None)

    def multiply(x: Tensor) -> Tensor:
        # Two reductions: abs() would write all of x, linalg.vector_norm takes five times as long.
        peak = torch.maximum(x.amax(1, True), x.amin(1, True).neg_()).clamp_min_(1e-12)
        y = ops.linear_with_input_q_dq_qweight_dq_output_fp32(x / peak, 1 / 63, 64, packed)
        return torch.addcmul(bias, y, peak, out=y)

    return multiply


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of giving each back to the kernel at once.

    Without it every activation of megabytes is mapped, faulted in page by page and unmapped again:
    a tenth of the CPU time of a pass. No effect on other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _MAX_HEAP_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
