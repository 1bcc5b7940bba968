"""SenseVoice's encoder and head over packed clips: their frames stand one after the other.

The network of FunASR's SenseVoiceEncoderSmall (funasr/models/sense_voice/model.py). Linear layers
never see padding; only attention and the FSMN memory know where a clip ends. Residuals, norms,
softmax and the memory stay in float32 at every precision. Knows nothing of prompts, tags or text.
"""

import ctypes
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import Precision
from pipeline.models.files import ModelError
from pipeline.models.linear import linear
from pipeline.models.sensevoice.attention import ByClip, InGrid, Varlen, Way, choose_way, lay_out

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MAX_HEAP_BLOCK = 32 << 20  # glibc takes no higher M_MMAP_THRESHOLD


class Layout(NamedTuple):
    """Where the clips of a pack lie; built once and used by every layer."""

    clips: ByClip | InGrid | Varlen
    spread: Tensor  # (n_frames,) place of each frame when clips stand some zeros apart
    n_spread: int


class Encoder:
    """70 SANM layers and the CTC head, on one device at one precision.

    `attention` None: the best way that works on the device (attention.choose_way). With `compiled`
    the layers go through torch.compile; where that fails, they run as they are.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        conf: Mapping[str, Any],
        device: torch.device,
        precision: Precision = "fp32",
        attention: Way | None = None,
        compiled: bool = False,
    ) -> None:
        if precision == "int8" and device.type != "cpu":
            raise ModelError("label.precision: int8 is for CPUs; use bf16 on a GPU")
        self._device = device
        n_heads, size = int(conf["attention_heads"]), int(conf["output_size"])
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.attention = attention or choose_way(device, dtype, n_heads, size // n_heads)
        kernel = int(conf["kernel_size"])
        left = (kernel - 1) // 2 + max(0, int(conf.get("sanm_shfit", 0)))
        self._pads = left, kernel - 1 - left
        names = ["encoders0.0", *(f"encoders.{i}" for i in range(int(conf["num_blocks"]) - 1))]
        tp_names = [f"tp_encoders.{i}" for i in range(int(conf["tp_blocks"]))]
        self._layers, self._tp_layers = (
            [Layer(weights, f"encoder.{name}", n_heads, left, precision) for name in some]
            for some in (names, tp_names)
        )
        self._after_norm, self._tp_norm = (
            Norm(weights, f"encoder.{name}") for name in ("after_norm", "tp_norm")
        )
        self._head = make_linear(weights, "ctc.ctc_lo", precision)
        self._compiled = torch.compile(_run_layer, dynamic=True) if compiled else None
        if device.type == "cpu":
            keep_freed_memory()

    def encode(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """float32 (sum of lengths, 560) -> (sum of lengths, 512); the input stays as it is."""
        layout = self._lay_out(lengths)
        for layer in self._layers:
            x = self._run(layer, x, layout)
        x = self._after_norm(x)
        for layer in self._tp_layers:
            x = self._run(layer, x, layout)
        return self._tp_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, 512) -> float32 (n, n_tokens): 100 kB a frame, so ask for few at a time."""
        return self._head(hidden).float()

    def _run(self, layer: "Layer", x: Tensor, layout: Layout) -> Tensor:
        compiled = self._compiled  # two threads run passes; the other may give it up
        if compiled is None:
            return layer(x, layout)
        try:
            return compiled(layer, x, layout)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, a graph it cannot translate: many types
            _log.warning("label.compile: torch.compile fails here, going on without: %s", error)
            self._compiled = None
            return layer(x, layout)

    def _lay_out(self, lengths: Sequence[int]) -> Layout:
        left, right = self._pads
        gap = max(left, right)
        n_frames, n_clips = sum(lengths), len(lengths)
        spread = np.arange(n_frames) + gap * np.repeat(np.arange(n_clips), lengths) + left
        return Layout(
            lay_out(lengths, self.attention, self._device),
            torch.from_numpy(spread).to(self._device),
            left + n_frames + gap * (n_clips - 1) + right,
        )


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
        heard = self.out(layout.clips.attend(q, k, v, self._n_heads))
        heard = self._memory(v.float(), layout).add_(heard)
        # The first layer maps 560 to 512 and therefore has no residual around its attention.
        x = heard.add_(x) if x.shape == heard.shape else heard
        return x.add_(self.w_2(self.w_1(self.norm2(x)).relu_()))

    def _memory(self, v: Tensor, layout: Layout) -> Tensor:
        """FSMN: a depthwise convolution over time plus the values themselves. (n, d) -> (n, d).

        Zeros between the clips stand for the padding that each would have alone. An image of height
        1 whose channels come last, (n, d) needs no transposition; torch knows it for one by its
        strides, those of the axes of length 1 included, and else copies it, which takes longer than
        the convolution.
        """
        d = v.shape[1]
        spaced = v.new_zeros(layout.n_spread, d)
        spaced[layout.spread] = v
        image = spaced.view(1, 1, -1, d).permute(0, 3, 1, 2)
        convolved = F.conv2d(image, self.kernel[:, :, None], groups=d)[0, :, 0].T
        return convolved[layout.spread - self._left].add_(v)


def _run_layer(layer: Layer, x: Tensor, layout: Layout) -> Tensor:
    """One function for all layers, so that torch.compile translates it once and not 70 times."""
    return layer(x, layout)


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
    """In bfloat16, and so is what comes out; the float32 matrices are not kept."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight.bfloat16(), bias.bfloat16())

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight, self.bias)


class Int8Linear:
    """8 bits a weight, with a scale per output, and 7 an input, with a scale per frame.

    Every frame is brought to [-1, 1] first, so that the fixed scale of the kernel fits them all and
    a frame's result does not depend on the clips it shares a batch with. 7 bits, because without
    VNNI the CPU adds pairs of products in 16 bits (vpmaddubsw), which 8 by 8 bits overflow.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        ops: Any = torch.ops.quantized
        scales = weight.abs().amax(dim=1).clamp_min(1e-12).double() / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # torch points to torchao, whose CPU kernels need a compiler
            warnings.simplefilter("ignore")
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self._packed = ops.linear_prepack(quantized, None)
        self._multiply = ops.linear_with_input_q_dq_qweight_dq_output_fp32
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        # Two reductions: abs() would write all of x, linalg.vector_norm takes five times as long.
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
    """The layer of that name; what it gives is bfloat16 at bf16, else float32."""
    return _LINEARS[precision](weights[f"{name}.weight"], weights[f"{name}.bias"])


def _fixed(weight: Tensor) -> Tensor:
    """A parameter, whose sizes torch.compile may take for granted; those of other inputs vary."""
    return torch.nn.Parameter(weight, requires_grad=False)


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of giving each back to the kernel at once.

    Without it every activation of megabytes is mapped, faulted in page by page and unmapped again:
    a tenth of the CPU time of a pass. No effect on other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _MAX_HEAP_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
