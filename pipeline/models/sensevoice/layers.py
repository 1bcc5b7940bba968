"""The encoder's layers at each precision. Knows weights and shapes; not how layers are ordered."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import Precision
from pipeline.models.linear import linear
from pipeline.models.sensevoice.attention import Padded, PerClip, Varlen


class Layout(NamedTuple):
    """Where the clips of a model batch lie; built once and used by every layer."""

    clips: PerClip | Padded | Varlen
    spaced: Tensor  # int64 (n_frames,), row of each frame when zeros separate the clips
    n_spaced: int  # rows, zeros included


class Layer:
    """SANM: self-attention with an FSMN memory of the values, then a feed-forward network."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        name: str,
        n_heads: int,
        left: int,
        precision: Precision,
    ) -> None:
        self._n_heads, self._left = n_heads, left
        self.norm1, self.norm2 = (Norm(weights, f"{name}.{norm}") for norm in ("norm1", "norm2"))
        self.q_k_v, self.out = (
            make_linear(weights, f"{name}.self_attn.{part}", precision)
            for part in ("linear_q_k_v", "linear_out")
        )
        self.w_1, self.w_2 = (
            make_linear(weights, f"{name}.feed_forward.{part}", precision)
            for part in ("w_1", "w_2")
        )
        self.kernel = _fixed(weights[f"{name}.self_attn.fsmn_block.weight"])

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """(n_frames, d_in) -> (n_frames, d)."""
        q, k, v = self.q_k_v(self.norm1(x)).chunk(3, dim=-1)
        attended = self.out(layout.clips.attend(q, k, v, self._n_heads))
        attended = self._memory(v.float(), layout).add_(attended)
        # The first layer maps 560 to 512 and therefore has no residual around its attention.
        x = attended.add_(x) if x.shape == attended.shape else attended
        return x.add_(self.w_2(self.w_1(self.norm2(x)).relu_()))

    def _memory(self, v: Tensor, layout: Layout) -> Tensor:
        """FSMN: a depthwise convolution over time plus the values themselves. (n, d) -> (n, d).

        Zeros between the clips replace the padding that each clip would have alone. The input is
        viewed as an image of height 1 with channels last, so (n, d) needs no transposition. torch
        recognises that layout by the strides, also those of the axes of length 1; otherwise it
        makes a copy, which takes longer than the convolution.
        """
        d = v.shape[1]
        padded = v.new_zeros(layout.n_spaced, d)
        padded[layout.spaced] = v
        image = padded.view(1, 1, -1, d).permute(0, 3, 1, 2)
        convolved = F.conv2d(image, self.kernel[:, :, None], groups=d)[0, :, 0].T
        return convolved[layout.spaced - self._left].add_(v)


class Norm:
    """Layer norm over the last axis, in float32."""

    def __init__(self, weights: Mapping[str, Tensor], name: str) -> None:
        self.weight = _fixed(weights[f"{name}.weight"])
        self.bias = _fixed(weights[f"{name}.bias"])

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


class Linear:
    """(n, d_in) -> x @ weight.T + bias, in float32."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = _fixed(weight), _fixed(bias)

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class HalfLinear(Linear):
    """Weights, product and result in bfloat16; the float32 weights are not kept."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight.bfloat16(), bias.bfloat16())

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight, self.bias)


class Int8Linear:
    """Weights of 8 bits with one scale per output; inputs of 7 bits with one scale per frame.

    Every frame is scaled to [-1, 1] first. So the kernel's fixed scale fits all frames, and the
    result of a frame does not depend on the other clips of its model batch. Inputs have 7 bits,
    because a CPU without VNNI adds pairs of products in 16 bits (vpmaddubsw), which products of 8
    by 8 bits overflow.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        ops: Any = torch.ops.quantized
        scales = weight.abs().amax(dim=1).clamp_min(1e-12).double() / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # torch recommends torchao instead, whose CPU kernels need a compiler
            warnings.simplefilter("ignore")
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self._packed = ops.linear_prepack(quantized, None)
        self._multiply = ops.linear_with_input_q_dq_qweight_dq_output_fp32
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        # Two reductions: abs() would write a copy of x, linalg.vector_norm is five times slower.
        peak = torch.maximum(x.amax(1, True), x.amin(1, True).neg_()).clamp_min_(1e-12)
        y = self._multiply(x / peak, 1 / 63, 64, self._packed)
        return torch.addcmul(self._bias, y, peak, out=y)


_LINEARS: dict[Precision, type[Linear | Int8Linear]] = {
    "fp32": Linear,
    "bf16": HalfLinear,
    "int8": Int8Linear,
}


def make_linear(
    weights: Mapping[str, Tensor], name: str, precision: Precision
) -> Linear | Int8Linear:
    """The linear layer called `name`; its result is bfloat16 at bf16, else float32."""
    return _LINEARS[precision](weights[f"{name}.weight"], weights[f"{name}.bias"])


def _fixed(weight: Tensor) -> Tensor:
    """As a Parameter: torch.compile treats its sizes as constant, those of other inputs as not."""
    return torch.nn.Parameter(weight, requires_grad=False)
