"""SenseVoice as one torch.nn.Module over padded batches, for conversion and for training.

Computes what encoder.py computes over packed clips; its parameters have the names of FunASR's
SenseVoiceSmall (funasr/models/sense_voice/model.py), so a state dict of one fits the other. Changes
nothing in place, so it can be traced and differentiated. Knows no loss and no decoding.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.files import ModelFiles
from pipeline.models.sensevoice.decoding import EVENT_EMOTION_PROMPT
from pipeline.models.sensevoice.weights import load_weights
from pipeline.schema import N_PROMPT_FRAMES


class SenseVoiceModule(nn.Module):
    """Prompt embedding, 70 SANM layers and the CTC head, for `encoder_conf` of a config.yaml.

    `dropout` is the rate at every place where FunASR has one; it acts in training mode only.
    """

    def __init__(
        self,
        conf: Mapping[str, Any],
        *,
        n_prompts: int,
        n_features: int,
        n_tokens: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_prompts, n_features)
        self.encoder = _Encoder(conf, n_features, dropout)
        self.ctc = _Head(int(conf["output_size"]), n_tokens)

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, language: Tensor, textnorm: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Padded clips -> (logits, lengths): (n, 4 + t, n_tokens) float32, and (n,).

        `speech` (n, t, 560): stacked frames (`features.stack_frames`) after CMVN, any values after
        the end of a clip. `speech_lengths` (n,): LFR frames of each clip, at most t. `language`
        and `textnorm` (n,): rows of `embed` (`LANGUAGE_PROMPTS`, `TEXT_NORM_PROMPTS`). Frames 0 to
        3 of the logits are language, emotion, event and text normalisation; text begins at 4. The
        four prompt frames count in the lengths that come back. Logits after them mean nothing.
        """
        lengths = speech_lengths + N_PROMPT_FRAMES
        hidden = self.encoder(self.prompted(speech, language, textnorm), lengths)
        return self.ctc.ctc_lo(hidden), lengths

    def prompted(self, speech: Tensor, language: Tensor, textnorm: Tensor) -> Tensor:
        """(n, t, 560) -> (n, 4 + t, 560): the rows of the prompt before each clip."""
        fixed = torch.tensor([EVENT_EMOTION_PROMPT], device=language.device)
        both = fixed.expand(language.shape[0], -1)
        rows = torch.cat([language[:, None].long(), both, textnorm[:, None].long()], dim=1)
        return torch.cat([self.embed(rows), speech], dim=1)


class _Encoder(nn.Module):
    def __init__(self, conf: Mapping[str, Any], n_features: int, dropout: float) -> None:
        super().__init__()
        size = int(conf["output_size"])
        self._scale = math.sqrt(size)
        self.encoders0 = nn.ModuleList([_Layer(conf, n_features, dropout)])
        n_layers, n_tp_layers = int(conf["num_blocks"]) - 1, int(conf["tp_blocks"])
        self.encoders, self.tp_encoders = (
            nn.ModuleList([_Layer(conf, size, dropout) for _ in range(n)])
            for n in (n_layers, n_tp_layers)
        )
        self.after_norm, self.tp_norm = nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(n, t, 560), (n,) -> (n, t, d)."""
        x = x * self._scale + positions(x.shape[1], x.shape[2], x)
        is_frame = torch.arange(x.shape[1], device=x.device) < lengths.long()[:, None]
        for layer in [*self.encoders0, *self.encoders]:
            x = layer(x, is_frame)
        x = self.after_norm(x)
        for layer in self.tp_encoders:
            x = layer(x, is_frame)
        told: Tensor = self.tp_norm(x)
        return told


class _Layer(nn.Module):
    """SANM, then a feed-forward network; `Layer` of layers.py."""

    def __init__(self, conf: Mapping[str, Any], d_in: int, dropout: float) -> None:
        super().__init__()
        size = int(conf["output_size"])
        self._has_residual = d_in == size  # the first layer maps 560 to 512
        self.norm1, self.norm2 = nn.LayerNorm(d_in), nn.LayerNorm(size)
        self.self_attn = _Attention(conf, d_in, dropout)
        self.feed_forward = _FeedForward(size, int(conf["linear_units"]), dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, is_frame: Tensor) -> Tensor:
        attended = self.dropout(self.self_attn(self.norm1(x), is_frame))
        x = x + attended if self._has_residual else attended
        told: Tensor = x + self.dropout(self.feed_forward(self.norm2(x)))
        return told


class _Attention(nn.Module):
    """Self-attention of each clip, plus the FSMN memory of its values."""

    def __init__(self, conf: Mapping[str, Any], d_in: int, dropout: float) -> None:
        super().__init__()
        size, kernel = int(conf["output_size"]), int(conf["kernel_size"])
        self._n_heads = int(conf["attention_heads"])
        self._scale = math.sqrt(self._n_heads / size)
        self.linear_q_k_v = nn.Linear(d_in, 3 * size)
        self.linear_out = nn.Linear(size, size)
        self.fsmn_block = nn.Conv1d(size, size, kernel, groups=size, bias=False)
        left = (kernel - 1) // 2 + max(0, int(conf.get("sanm_shfit", 0)))
        self._pads = left, kernel - 1 - left
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, is_frame: Tensor) -> Tensor:
        q, k, v = self.linear_q_k_v(x).chunk(3, dim=-1)
        heads = (t.unflatten(-1, (self._n_heads, -1)).transpose(1, 2) for t in (q, k, v))
        q_heads, k_heads, v_heads = heads
        scores = (q_heads * self._scale) @ k_heads.transpose(2, 3)
        hidden = ~is_frame[:, None, None]  # of every frame of a clip, the padding
        weights = scores.masked_fill(hidden, -math.inf).softmax(dim=-1)
        attended = (self.dropout(weights) @ v_heads).transpose(1, 2).flatten(2)
        told: Tensor = self.linear_out(attended) + self.dropout(self._memory(v, is_frame))
        return told

    def _memory(self, v: Tensor, is_frame: Tensor) -> Tensor:
        """A depthwise convolution over time plus the values. (n, t, d) -> (n, t, d)."""
        values = v * is_frame[:, :, None]
        padded = nn.functional.pad(values.transpose(1, 2), self._pads)
        remembered: Tensor = self.fsmn_block(padded)
        return remembered.transpose(1, 2) + values


class _FeedForward(nn.Module):
    def __init__(self, size: int, n_units: int, dropout: float) -> None:
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(size, n_units), nn.Linear(n_units, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        told: Tensor = self.w_2(self.dropout(self.w_1(x).relu()))
        return told


class _Head(nn.Module):
    def __init__(self, size: int, n_tokens: int) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(size, n_tokens)


def positions(n_frames: int, size: int, like: Tensor) -> Tensor:
    """(n_frames, size) Sinusoids of positions 1..n: sines in the left half, cosines in the right.

    As FunASR's SinusoidalPositionEncoder: timescales 10000 ** (i / (size / 2 - 1)).
    """
    increment = math.log(10000.0) / (size / 2 - 1)
    scales = torch.exp(torch.arange(size // 2, device=like.device) * -increment)
    times = torch.arange(1, n_frames + 1, device=like.device)[:, None] * scales
    return torch.cat([times.sin(), times.cos()], dim=1).to(like.dtype)


def load_module(
    files: ModelFiles, device: torch.device | str = "cpu", dropout: float = 0.0
) -> SenseVoiceModule:
    """The module with the weights of a model directory, in evaluation mode. Raises ModelError.

    A weight that is missing is refused; FunASR goes on with random ones. Weights that SenseVoice
    does not have are left out, as encoder.py leaves them out.
    """
    weights = load_weights(files, torch.device(device))
    n_prompts, n_features = weights["embed.weight"].shape
    try:
        with torch.device("meta"):  # no second copy of 0.9 GB, no random numbers
            module = SenseVoiceModule(
                files.config["encoder_conf"],
                n_prompts=n_prompts,
                n_features=n_features,
                n_tokens=len(weights["ctc.ctc_lo.weight"]),
                dropout=dropout,
            )
        wanted = {name: weights[name] for name in module.state_dict()}
        module.load_state_dict(wanted, assign=True)
    except KeyError as error:
        raise ModelError(
            f"{files.weights} has no {error}, which its config.yaml requires"
        ) from error
    except RuntimeError as error:  # sizes
        raise ModelError(f"{files.weights} does not fit its config.yaml: {error}") from error
    return module.eval().requires_grad_(True)
