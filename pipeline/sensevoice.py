"""The SenseVoice model: log-mel features in, per-frame tokens and tag probabilities out.

Reads FunASR's model directory, writes the prompt before each clip, packs the clips for the encoder
and reads tokens and tags at their frames. Knows nothing of recordings, text or tables.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.batching import PackTooLarge
from pipeline.config import Precision, RunConfig, label_precision
from pipeline.decoding import Frames, Vocabulary
from pipeline.encoder import Encoder
from pipeline.features import read_cmvn, stack_frames
from pipeline.model_files import ModelError, ModelFiles, resolve_model

# Rows of the prompt embedding (SenseVoiceSmall.lid_dict and textnorm_dict in FunASR).
_LANGUAGE_PROMPT = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12}
_EVENT_EMOTION_PROMPT = (1, 2)
_TEXT_NORM_PROMPT = {True: 14, False: 15}  # with, without inverse text normalisation
N_PROMPT_FRAMES = 4

# Frames per pass of the CTC head, of 25055 float32 logits each. On a CPU 26 MB: glibc gives back
# blocks over 32 MB at once (see encoder.keep_freed_memory), and they would leave the cache.
_HEAD_FRAMES = {"cpu": 256, "cuda": 8192}


class Transcriber(Protocol):
    """What the label stage needs of a model; one answer per clip, in the order of the clips."""

    vocabulary: Vocabulary

    def transcribe(
        self, clips: Sequence[np.ndarray], languages: Sequence[str], use_itn: bool
    ) -> list[Frames]: ...


class SenseVoice:
    """One model on one device. `transcribe` is the whole interface."""

    def __init__(
        self,
        files: ModelFiles,
        device: str = "cpu",
        precision: Precision = "fp32",
        attend_in_grid: bool | None = None,
    ) -> None:
        if files.config.get("model") != "SenseVoiceSmall" or files.tokenizer is None:
            raise ModelError(
                f"{files.directory} holds {files.config.get('model')!r}, no SenseVoice"
            )
        conf = files.config.get("encoder_conf", {})
        self._device = torch.device(device)
        self._size = int(conf["output_size"])
        weights = _load_weights(files, self._device)
        self._prompts = weights["embed.weight"]
        self._encoder = Encoder(weights, conf, self._device, precision, attend_in_grid)
        shift, scale = read_cmvn(files.cmvn)
        self._shift, self._scale = shift.to(self._device), scale.to(self._device)
        self.vocabulary = Vocabulary(
            sentencepiece.SentencePieceProcessor(model_file=str(files.tokenizer))
        )
        ids = self.vocabulary
        self._tag_layers = [  # the rows of the head that belong to a kind of tag
            (weights["ctc.ctc_lo.weight"][kind], weights["ctc.ctc_lo.bias"][kind])
            for kind in (ids.language_ids, ids.emotion_ids, ids.event_ids)
        ]

    @torch.inference_mode()
    def transcribe(
        self, clips: Sequence[np.ndarray], languages: Sequence[str], use_itn: bool
    ) -> list[Frames]:
        """Hear clips together in one pass. Each clip is log-mel, float32 (n_frames, 80).

        Raises PackTooLarge when the device runs out of memory.
        """
        try:
            return self._transcribe(clips, languages, use_itn)
        except torch.OutOfMemoryError as error:
            short = str(error)
        # Outside the handler: the traceback would hold the tensors of the failed pass alive.
        torch.cuda.empty_cache()
        raise PackTooLarge(short)

    def _transcribe(
        self, clips: Sequence[np.ndarray], languages: Sequence[str], use_itn: bool
    ) -> list[Frames]:
        inputs = [
            self._embed(clip, language, use_itn)
            for clip, language in zip(clips, languages, strict=True)
        ]
        lengths = [len(one) for one in inputs]
        hidden = self._encoder.encode(torch.cat(inputs), lengths)
        return self._decode(hidden, lengths)

    def _embed(self, clip: np.ndarray, language: str, use_itn: bool) -> Tensor:
        """Features (n, 80) -> encoder input (4 + ceil(n / 6), 560), prompts and positions added."""
        prompt = self._prompts[
            [_LANGUAGE_PROMPT[language], *_EVENT_EMOTION_PROMPT, _TEXT_NORM_PROMPT[use_itn]]
        ]
        stacked = stack_frames(torch.from_numpy(clip).to(self._device))
        frames = torch.cat([prompt, (stacked + self._shift) * self._scale])
        return frames * math.sqrt(self._size) + _positions(len(frames), frames.shape[1], frames)

    def _decode(self, hidden: Tensor, lengths: list[int]) -> list[Frames]:
        """Encoder output (n, d) -> greedy tokens of each frame, tag probabilities of each clip."""
        tokens, top = [], []
        for part in hidden.split(_HEAD_FRAMES[self._device.type]):
            logits = self._encoder.logits(part)
            best, ids = logits.max(dim=-1)
            tokens.append(ids)
            top.append((best - logits.logsumexp(dim=-1)).exp())
        starts = torch.tensor([0, *lengths[:-1]], device=self._device).cumsum(0)
        kinds = [
            F.linear(hidden[starts + frame], *layer).softmax(dim=-1).cpu().numpy()
            for frame, layer in enumerate(self._tag_layers)  # language, emotion, event: 0, 1, 2
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
    return SenseVoice(files, device, label_precision(config))
