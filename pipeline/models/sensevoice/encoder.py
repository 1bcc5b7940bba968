"""SenseVoice's encoder and CTC head over model batches. Knows nothing of prompts, tags or text.

The network of FunASR's SenseVoiceEncoderSmall (funasr/models/sense_voice/model.py). The frames of
all clips of a model batch stand one after the other, so linear layers process no padding; only
attention and the FSMN memory know where a clip ends. Residuals, norms, softmax and the memory stay
in float32 at every precision.
"""

import ctypes
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Precision
from pipeline.errors import ModelError
from pipeline.models.sensevoice.attention import AttentionKind, choose_attention, lay_out
from pipeline.models.sensevoice.layers import Layer, Layout, Norm, make_linear

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MAX_HEAP_BLOCK = 32 << 20  # the highest M_MMAP_THRESHOLD that glibc accepts


class Encoder:
    """70 SANM layers and the CTC head, on one device at one precision.

    `attention` None: the fastest kind that works on the device (attention.choose_attention). With
    `compiled` the layers are compiled by torch.compile; if that fails, they run uncompiled. Raises
    ModelError for a precision that the device does not have, KeyError for a missing weight.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        conf: Mapping[str, Any],
        device: torch.device,
        precision: Precision = "fp32",
        attention: AttentionKind | None = None,
        compiled: bool = False,
    ) -> None:
        if precision == "int8" and device.type != "cpu":
            raise ModelError("label.precision: int8 is for CPUs; use bf16 on a GPU")
        self._device = device
        n_heads, size = int(conf["attention_heads"]), int(conf["output_size"])
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.attention = attention or choose_attention(device, dtype, n_heads, size // n_heads)
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
        """float32 (sum of lengths, 560) -> (sum of lengths, 512); `x` is not changed."""
        layout = self._lay_out(lengths)
        for layer in self._layers:
            x = self._run(layer, x, layout)
        x = self._after_norm(x)
        for layer in self._tp_layers:
            x = self._run(layer, x, layout)
        return self._tp_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, 512) -> float32 (n, n_tokens): 100 kB per frame, so pass few frames at a time."""
        return self._head(hidden).float()

    def _run(self, layer: "Layer", x: Tensor, layout: Layout) -> Tensor:
        compiled = self._compiled  # another thread may set it to None in the meantime
        if compiled is None:
            return layer(x, layout)
        try:
            return compiled(layer, x, layout)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, an unsupported graph: many exception types
            _log.warning("label.compile: torch.compile fails here, continuing without: %s", error)
            self._compiled = None
            return layer(x, layout)

    def _lay_out(self, lengths: Sequence[int]) -> Layout:
        left, right = self._pads
        gap = max(left, right)
        n_frames, n_clips = sum(lengths), len(lengths)
        spaced = np.arange(n_frames) + gap * np.repeat(np.arange(n_clips), lengths) + left
        return Layout(
            lay_out(lengths, self.attention, self._device),
            torch.from_numpy(spaced).to(self._device),
            left + n_frames + gap * (n_clips - 1) + right,
        )


def _run_layer(layer: Layer, x: Tensor, layout: Layout) -> Tensor:
    """One function for all layers, so that torch.compile compiles it once and not 70 times."""
    return layer(x, layout)


def keep_freed_memory() -> None:
    """Make glibc reuse large freed blocks instead of returning each to the kernel at once.

    Without it every activation of megabytes is mapped, faulted in page by page and unmapped again:
    a tenth of the CPU time of a model batch. No effect with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _MAX_HEAP_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
