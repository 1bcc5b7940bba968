"""The SenseVoice model: log-mel features in, per-frame tokens and tag probabilities out.

Reads FunASR's model directory and runs the same network (funasr/models/sense_voice/model.py,
SenseVoiceEncoderSmall) over a packed batch: the frames of all clips stand one after the other, so
the linear layers never see padding. Only attention and the FSMN memory know where a clip ends.
Knows nothing of recordings, text or tables.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import RunConfig
from pipeline.decoding import Frames, Vocabulary
from pipeline.features import read_cmvn, stack_frames
from pipeline.model_files import ModelError, ModelFiles, resolve_model

# Rows of the prompt embedding (SenseVoiceSmall.lid_dict and textnorm_dict in FunASR).
_LANGUAGE_PROMPT = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12}
_EVENT_EMOTION_PROMPT = (1, 2)
_TEXT_NORM_PROMPT = {True: 14, False: 15}  # with, without inverse text normalisation
N_PROMPT_FRAMES = 4

_HEAD_FRAMES = 1024  # frames per pass of the CTC head: 25055 logits each, 100 MB in fp32


class Transcriber(Protocol):
    """What the label stage needs of a model; one answer per clip, in the order of the clips."""

    vocabulary: Vocabulary

    def transcribe(
        self, clips: Sequence[np.ndarray], languages: Sequence[str], use_itn: bool
    ) -> list[Frames]: ...


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the clips of a packed batch lie; built once per batch and used by every layer."""

    lengths: list[int]
    spread: Tensor  # (n_frames,) place of each frame when clips stand `gap` zeros apart
    n_spread: int
    grid: Tensor | None  # (n_frames,) place of each frame in a padded (n_clips, longest) grid
    mask: Tensor | None  # (n_clips, 1, 1, longest) true where the grid holds a frame


class SenseVoice:
    """One model on one device. `transcribe` is the whole interface."""

    def __init__(
        self, files: ModelFiles, device: str = "cpu", attend_in_grid: bool | None = None
    ) -> None:
        conf = files.config.get("encoder_conf", {})
        if files.config.get("model") != "SenseVoiceSmall" or files.tokenizer is None:
            raise ModelError(
                f"{files.directory} holds {files.config.get('model')!r}, no SenseVoice"
            )
        self._device = torch.device(device)
        # Attention clip by clip wastes nothing but costs a launch each: right on a CPU, where a
        # launch is free, and wrong on a GPU, where a pack has hundreds of clips of like length.
        on_cpu = self._device.type == "cpu"
        self._attend_in_grid = not on_cpu if attend_in_grid is None else attend_in_grid
        self._heads = int(conf["attention_heads"])
        self._size = int(conf["output_size"])
        self._weights = _load_weights(files, self._device)
        shift, scale = read_cmvn(files.cmvn)
        self._shift, self._scale = shift.to(self._device), scale.to(self._device)
        self._layers = [
            *(f"encoder.encoders0.{i}" for i in range(1)),
            *(f"encoder.encoders.{i}" for i in range(int(conf["num_blocks"]) - 1)),
        ]
        self._tp_layers = [f"encoder.tp_encoders.{i}" for i in range(int(conf["tp_blocks"]))]
        kernel = int(conf["kernel_size"])
        left = (kernel - 1) // 2 + max(0, int(conf.get("sanm_shfit", 0)))
        self._memory_pad = (left, kernel - 1 - left)
        self.vocabulary = Vocabulary(
            sentencepiece.SentencePieceProcessor(model_file=str(files.tokenizer))
        )
        ids = self.vocabulary
        self._tag_ids = [
            torch.tensor(kind, device=self._device)
            for kind in (ids.language_ids, ids.emotion_ids, ids.event_ids)
        ]

    @torch.inference_mode()
    def transcribe(
        self, clips: Sequence[np.ndarray], languages: Sequence[str], use_itn: bool
    ) -> list[Frames]:
        """Hear clips together in one pass. Each clip is log-mel, float32 (n_frames, 80)."""
        inputs = [
            self._embed(clip, language, use_itn)
            for clip, language in zip(clips, languages, strict=True)
        ]
        lengths = [len(one) for one in inputs]
        hidden = self._encode(torch.cat(inputs), self._lay_out(lengths))
        return self._decode(hidden, lengths)

    def _embed(self, clip: np.ndarray, language: str, use_itn: bool) -> Tensor:
        """Features (n, 80) -> encoder input (4 + ceil(n / 6), 560), prompts and positions added."""
        prompt = self._weights["embed.weight"][
            [_LANGUAGE_PROMPT[language], *_EVENT_EMOTION_PROMPT, _TEXT_NORM_PROMPT[use_itn]]
        ]
        stacked = stack_frames(torch.from_numpy(clip).to(self._device))
        frames = torch.cat([prompt, (stacked + self._shift) * self._scale])
        return frames * math.sqrt(self._size) + _positions(len(frames), frames.shape[1], frames)

    def _lay_out(self, lengths: list[int]) -> _Layout:
        gap = max(self._memory_pad)
        clip_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        place = torch.arange(sum(lengths))
        spread = (place + gap * clip_of).to(self._device)
        grid = mask = None
        if self._attend_in_grid:
            longest = max(lengths)
            starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
            grid = (place - starts[clip_of] + longest * clip_of).to(self._device)
            mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
            mask = mask[:, None, None, :].to(self._device)
        return _Layout(lengths, spread, sum(lengths) + gap * (len(lengths) - 1), grid, mask)

    def _encode(self, x: Tensor, layout: _Layout) -> Tensor:
        for name in self._layers:
            x = self._layer(x, name, layout)
        x = self._norm(x, "encoder.after_norm")
        for name in self._tp_layers:
            x = self._layer(x, name, layout)
        return self._norm(x, "encoder.tp_norm")

    def _layer(self, x: Tensor, name: str, layout: _Layout) -> Tensor:
        heard = self._attend(self._norm(x, f"{name}.norm1"), f"{name}.self_attn", layout)
        # The first layer maps 560 to 512 and therefore has no residual around its attention.
        x = heard.add_(x) if x.shape == heard.shape else heard
        hidden = self._linear(self._norm(x, f"{name}.norm2"), f"{name}.feed_forward.w_1").relu_()
        return self._linear(hidden, f"{name}.feed_forward.w_2").add_(x)

    def _attend(self, x: Tensor, name: str, layout: _Layout) -> Tensor:
        """SANM: self-attention plus the FSMN memory of the values. (n, d_in) -> (n, d)."""
        q, k, v = self._linear(x, f"{name}.linear_q_k_v").split(self._size, dim=-1)
        heard = self._linear(self._attention(q, k, v, layout), f"{name}.linear_out")
        return heard.add_(self._memory(v, name, layout))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, layout: _Layout) -> Tensor:
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

    def _memory(self, v: Tensor, name: str, layout: _Layout) -> Tensor:
        """FSMN: a depthwise convolution over time plus the values themselves. (n, d) -> (n, d).

        Zeros between the clips stand for the padding that each would have alone.
        """
        spaced = v.new_zeros(layout.n_spread, self._size)
        spaced[layout.spread] = v
        padded = F.pad(spaced.T[None], self._memory_pad)
        kernel = self._weights[f"{name}.fsmn_block.weight"]
        convolved = F.conv1d(padded, kernel, groups=self._size)[0].T
        return convolved[layout.spread].add_(v)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias)

    def _decode(self, hidden: Tensor, lengths: list[int]) -> list[Frames]:
        """Encoder output (n, d) -> greedy tokens of each frame, tag probabilities of each clip."""
        tokens, top = [], []
        for part in hidden.split(_HEAD_FRAMES):
            logits = self._linear(part, "ctc.ctc_lo").float()
            best, ids = logits.max(dim=-1)
            tokens.append(ids)
            top.append((best - logits.logsumexp(dim=-1)).exp())
        starts = torch.tensor([0, *lengths[:-1]], device=self._device).cumsum(0)
        kinds = [
            F.linear(
                hidden[starts + frame],
                self._weights["ctc.ctc_lo.weight"][ids],
                self._weights["ctc.ctc_lo.bias"][ids],
            )
            .float()
            .softmax(dim=-1)
            .cpu()
            .numpy()
            for frame, ids in enumerate(self._tag_ids)  # language, emotion, event: frames 0, 1, 2
        ]
        token_parts = np.split(torch.cat(tokens).cpu().numpy(), np.cumsum(lengths)[:-1])
        top_parts = np.split(torch.cat(top).cpu().numpy(), np.cumsum(lengths)[:-1])
        return [
            Frames(token_parts[i], top_parts[i], kinds[0][i], kinds[1][i], kinds[2][i])
            for i in range(len(lengths))
        ]


def _positions(n_frames: int, size: int, like: Tensor) -> Tensor:
    """Sinusoids of positions 1..n: sines in the first half of the columns, cosines in the second.

    As SinusoidalPositionEncoder of FunASR computes them: timescales 10000 ** (i / (size / 2 - 1)).
    """
    increment = math.log(10000.0) / (size / 2 - 1)
    scales = torch.exp(torch.arange(size // 2, device=like.device) * -increment)
    times = torch.arange(1, n_frames + 1, device=like.device)[:, None] * scales
    return torch.cat([times.sin(), times.cos()], dim=1).to(like.dtype)


def _load_weights(files: ModelFiles, device: torch.device) -> dict[str, Tensor]:
    """The state dict of model.pt, fp32; nested and prefixed as FunASR's trainers leave them."""
    try:
        state: Any = torch.load(files.weights, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model_state_dict", "model"):
            state = state.get(key, state)
        weights = {
            name.removeprefix("module."): value.float().to(device) for name, value in state.items()
        }
        weights["embed.weight"], weights["ctc.ctc_lo.weight"], weights["encoder.tp_norm.weight"]
    except Exception as error:  # torch.load raises pickle, zip, runtime and key errors alike
        raise ModelError(
            f"{files.weights} cannot be read as SenseVoice weights: {error}"
        ) from error
    return weights


def load_sensevoice(config: RunConfig, sha256: str = "") -> SenseVoice:
    """The model of a run on this worker's device. Raises ModelError.

    `sha256` is the hash that the driver planned with: a worker that finds other files under the
    same name must not label with them.
    """
    files = resolve_model(
        config.model,
        hub=config.hub,
        revision=config.model_revision,
        options=config.storage_options,
    )
    if sha256 and files.sha256 != sha256:
        raise ModelError(
            f"model {config.model!r} is not the same here as on the driver "
            f"({files.sha256[:12]} instead of {sha256[:12]}); give every node the same files"
        )
    device = config.label.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(max(1, int(config.ray.label_cpus)))
    return SenseVoice(files, device)
