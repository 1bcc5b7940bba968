"""The SenseVoice model: log-mel features in, per-frame tokens and tag probabilities out.

Reads FunASR's model directory, puts the prompt before each clip, joins the clips of a model batch
for the encoder, and reads tokens and tags from their frames. Knows nothing of recordings, text or
tables.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import Precision, RunConfig, label_precision
from pipeline.errors import BatchTooLarge, ModelError
from pipeline.models.device import pick_device
from pipeline.models.features import read_cmvn, stack_frames
from pipeline.models.files import ModelFiles, resolve_model_of
from pipeline.models.sensevoice.attention import AttentionKind
from pipeline.models.sensevoice.decoding import (
    EVENT_EMOTION_PROMPT,
    LANGUAGE_PROMPTS,
    TEXT_NORM_PROMPTS,
    ClipOutput,
    Vocabulary,
)
from pipeline.models.sensevoice.encoder import Encoder
from pipeline.models.sensevoice.module import positions
from pipeline.models.sensevoice.weights import load_weights
from pipeline.schema import LFR_STEP, N_PROMPT_FRAMES
from pipeline.storage.redaction import public_uri

Clip = np.ndarray | Tensor  # log-mel, float32 (n_frames, 80)

# LFR frames per call of the CTC head, of 25055 float32 logits each. On a CPU this is 26 MB: glibc
# returns blocks over 32 MB to the kernel at once (see encoder.keep_freed_memory), and they do not
# fit the cache.
_HEAD_FRAMES = {"cpu": 256, "cuda": 8192}


class Transcriber(Protocol):
    """What the label stage needs of a model."""

    vocabulary: Vocabulary

    def transcribe(
        self, clips: Sequence[Clip], languages: Sequence[str], use_itn: Sequence[bool]
    ) -> list[ClipOutput]:
        """One output per clip, in the order of the clips. Raises BatchTooLarge."""
        ...


class Aligner(Protocol):
    """What the label stage needs of a model to place a given text."""

    def transcribe(
        self,
        clips: Sequence[Clip],
        languages: Sequence[str],
        use_itn: Sequence[bool],
        wanted: Sequence[Sequence[int]],
    ) -> list[ClipOutput]:
        """As Transcriber.transcribe.

        `wanted`: for each clip, tokens, ascending, whose log-probabilities its output shall have.
        """
        ...


class SenseVoice:
    """One SenseVoice model on one device. Raises ModelError.

    `attention` is the kind in use: the given one, or the fastest that works on the device.
    """

    def __init__(
        self,
        files: ModelFiles,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        attention: AttentionKind | None = None,
        compiled: bool = False,
    ) -> None:
        self._device = torch.device(device)
        weights = load_weights(files, self._device)
        conf = files.config.get("encoder_conf", {})
        self._size = int(conf["output_size"])
        self._prompts = weights["embed.weight"]
        try:
            self._encoder = Encoder(weights, conf, self._device, precision, attention, compiled)
        except KeyError as error:
            raise ModelError(
                f"{files.weights} has no {error}, which its config.yaml requires"
            ) from error
        self.attention = self._encoder.attention
        shift, scale = read_cmvn(files.cmvn)
        self._shift, self._scale = shift.to(self._device), scale.to(self._device)
        self.vocabulary = Vocabulary(
            sentencepiece.SentencePieceProcessor(model_file=str(files.tokenizer))
        )
        ids = self.vocabulary
        self._tag_layers = [  # for each kind of tag, its rows of the head
            (weights["ctc.ctc_lo.weight"][kind], weights["ctc.ctc_lo.bias"][kind])
            for kind in (ids.language_ids, ids.emotion_ids, ids.event_ids)
        ]

    @torch.inference_mode()
    def transcribe(
        self,
        clips: Sequence[Clip],
        languages: Sequence[str],
        use_itn: Sequence[bool],
        wanted: Sequence[Sequence[int]] = (),
    ) -> list[ClipOutput]:
        """Run clips (n_frames, 80) through the model as one model batch; one output per clip.

        Each clip is prompted with its language (auto, zh, en, yue, ja or ko) and its `use_itn`.
        Raises BatchTooLarge when the device has no memory for all of them.
        """
        try:
            return self._transcribe(clips, languages, use_itn, wanted)
        except torch.OutOfMemoryError as error:
            message = str(error)
        # Outside the handler, whose traceback would keep the tensors of the failed batch alive.
        torch.cuda.empty_cache()
        raise BatchTooLarge(message)

    def _transcribe(
        self,
        clips: Sequence[Clip],
        languages: Sequence[str],
        use_itn: Sequence[bool],
        wanted: Sequence[Sequence[int]],
    ) -> list[ClipOutput]:
        x, lengths = self._embed(clips, languages, use_itn)
        return self._decode(self._encoder.encode(x, lengths), lengths, wanted)

    def _embed(
        self, clips: Sequence[Clip], languages: Sequence[str], use_itn: Sequence[bool]
    ) -> tuple[Tensor, list[int]]:
        """Features (n, 80) of each clip -> encoder input of all clips, and the length of each.

        One clip is (4 + ceil(n / 6), 560): prompts, then stacked frames; positions are added to
        both.
        """
        tensors = [clip if isinstance(clip, Tensor) else torch.from_numpy(clip) for clip in clips]
        frames = torch.cat(tensors).to(self._device)
        stacked = stack_frames(frames, [len(clip) for clip in clips])
        rows = [
            (LANGUAGE_PROMPTS[language], *EVENT_EMOTION_PROMPT, TEXT_NORM_PROMPTS[itn])
            for language, itn in zip(languages, use_itn, strict=True)
        ]
        lengths = [N_PROMPT_FRAMES + math.ceil(len(clip) / LFR_STEP) for clip in clips]
        place = np.concatenate([np.arange(n) for n in lengths])
        x = stacked.new_empty(len(place), stacked.shape[1])
        x[self._index(np.flatnonzero(place < N_PROMPT_FRAMES))] = self._prompts[
            self._index(np.array(rows).ravel())
        ]
        x[self._index(np.flatnonzero(place >= N_PROMPT_FRAMES))] = (
            stacked + self._shift
        ) * self._scale
        table = positions(max(lengths), x.shape[1], x)
        return x * math.sqrt(self._size) + table[self._index(place)], lengths

    def _index(self, rows: np.ndarray) -> Tensor:
        """Row numbers on the device. They come from the host: a mask would wait for the GPU."""
        return torch.from_numpy(rows).to(self._device)

    def _decode(
        self, hidden: Tensor, lengths: list[int], wanted: Sequence[Sequence[int]]
    ) -> list[ClipOutput]:
        """Encoder output (n, d) -> for each clip, best tokens per frame and tag probabilities."""
        columns = np.unique([token for ids in wanted for token in ids]).astype(np.int64)
        place = self._index(columns) if wanted else None
        tokens, top, asked = [], [], []
        for part in hidden.split(_HEAD_FRAMES[self._device.type]):
            logits = self._encoder.logits(part)
            best, ids = logits.max(dim=-1)
            told = None if place is None else logits[:, place] - best[:, None]
            # In place: the softmax of the best token alone.
            tokens.append(ids)
            top.append(logits.sub_(best[:, None]).exp_().sum(dim=-1).reciprocal())
            asked += [] if told is None else [told + top[-1].log()[:, None]]
        starts = self._index(np.cumsum([0, *lengths[:-1]]))
        kinds = [
            F.linear(hidden[starts + frame], *layer).softmax(dim=-1)
            for frame, layer in enumerate(self._tag_layers)  # language, emotion, event: 0, 1, 2
        ]
        asked = [torch.cat(asked)] if asked else []
        token_ids, peaks, *rest = _to_host([torch.cat(tokens), torch.cat(top), *kinds, *asked])
        shares, told_of_all = rest[: len(kinds)], rest[len(kinds) :]
        ends = np.cumsum(lengths)[:-1]
        of_frames = np.split(token_ids.astype(np.int64), ends), np.split(peaks, ends)
        outputs = [ClipOutput(*parts) for parts in zip(*of_frames, *shares, strict=True)]
        return [
            replace(output, wanted=part[:, np.searchsorted(columns, ids)])
            for told in told_of_all
            for output, part, ids in zip(outputs, np.split(told, ends), wanted, strict=True)
        ] or outputs


def _to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Float32 copies in one transfer, because each transfer waits for the GPU's queued work.

    Token ids are less than 2^24, so float32 holds them exactly.
    """
    flat = torch.cat([tensor.flatten().float() for tensor in tensors]).cpu().numpy()
    parts = np.split(flat, np.cumsum([tensor.numel() for tensor in tensors])[:-1])
    return [part.reshape(tuple(tensor.shape)) for part, tensor in zip(parts, tensors, strict=True)]


def load_sensevoice(config: RunConfig, sha256: str = "") -> SenseVoice:
    """The model of a run on this worker's device. Raises ModelError.

    `sha256` is the hash of the model that the driver planned with. A worker that finds other files
    under the same name must not label with them.
    """
    files = resolve_model_of(config)
    if sha256 and files.sha256 != sha256:
        raise ModelError(
            f"model {public_uri(config.model)!r} is not the same on this node as on the driver "
            f"({files.sha256[:12]} instead of {sha256[:12]}); give every node the same files"
        )
    device = pick_device(config.label.device)
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.ray.label_cpus)))
    # Not on a CPU: it gains 3 % with padded attention and cannot compile attention per clip.
    compiled = config.label.compile and device.type != "cpu"
    return SenseVoice(files, device, label_precision(config), compiled=compiled)
