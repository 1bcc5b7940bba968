"""Examples of one batch as tensors: features, prompts and targets, with SpecAugment.

What is drawn by chance (prompt, masks) depends on the seed, the epoch and the example only. So a
run that resumes, or that has another number of workers, draws the same.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.models.features import log_mel, read_cmvn, stack_frames
from pipeline.models.files import ModelFiles
from pipeline.schema import LFR_STACK, N_MELS
from pipeline.training.examples import AUTO, Example, read_waveform
from pipeline.training.settings import SpecAugConfig


class Batch(NamedTuple):
    """n clips, padded to t LFR frames."""

    speech: Tensor  # float32 (n, t, 560), after CMVN
    lengths: Tensor  # int64 (n,), LFR frames
    language: Tensor  # int64 (n,), prompt
    textnorm: Tensor  # int64 (n,), prompt
    tags: Tensor  # int64 (n, 4), MASKED where not known
    targets: Tensor  # int64 (sum of target_lengths,)
    target_lengths: Tensor  # int64 (n,)
    has_text: Tensor  # float32 (n,), 0 where the text is not known

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass(frozen=True, slots=True)
class Draw:
    """What chance changes in training; None in its place: nothing is changed."""

    seed: tuple[int, ...]  # of the run and the epoch
    language_share: float
    specaug: SpecAugConfig


class BatchReader:
    """Reads the audio of examples and makes batches of them. Raises RecordingError."""

    def __init__(self, files: ModelFiles, options: Mapping[str, Any], n_threads: int = 4) -> None:
        self._shift, self._scale = read_cmvn(files.cmvn)
        self._options = options
        self._pool = ThreadPoolExecutor(n_threads)

    def read(self, examples: Mapping[int, Example], draw: Draw | None = None) -> Batch:
        """One batch of the examples, which have their numbers in the data for what is drawn."""
        chosen = [*examples.values()]
        features = list(self._pool.map(self._features, chosen))
        languages = [one.language_prompt if draw else AUTO for one in chosen]
        if draw:
            for place, number in enumerate(examples):
                rng = np.random.default_rng([*draw.seed, number])
                if rng.random() >= draw.language_share:
                    languages[place] = AUTO
                features[place] = mask(features[place], draw.specaug, rng)
        return Batch(
            speech=torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
            lengths=torch.tensor([len(one) for one in features]),
            language=torch.tensor(languages),
            textnorm=torch.tensor([one.text_norm_prompt for one in chosen]),
            tags=torch.tensor([one.tags for one in chosen]),
            targets=torch.tensor([i for one in chosen for i in one.tokens], dtype=torch.int64),
            target_lengths=torch.tensor([len(one.tokens) for one in chosen]),
            has_text=torch.tensor([float(one.row.text is not None) for one in chosen]),
        )

    def _features(self, example: Example) -> Tensor:
        """(t, 560), after CMVN."""
        frames = torch.from_numpy(log_mel(read_waveform(example.row, self._options)))
        return (stack_frames(frames, [len(frames)]) + self._shift) * self._scale


def mask(features: Tensor, widths: SpecAugConfig, rng: np.random.Generator) -> Tensor:
    """SpecAugment as FunASR's SpecAugLFR: one band of mel bins and one interval become 0.

    (t, 560) -> (t, 560). The same mel bins are masked in all 7 frames that are stacked.
    """
    masked = features.clone()
    if widths.freq:
        width = int(rng.integers(0, widths.freq))
        at = int(rng.integers(0, max(1, N_MELS - width)))
        masked.view(len(masked), LFR_STACK, N_MELS)[:, :, at : at + width] = 0
    if widths.time:
        width = int(rng.integers(0, widths.time))
        at = int(rng.integers(0, max(1, len(masked) - width)))
        masked[at : at + width] = 0
    return masked


def numbered(examples: Sequence[Example], members: Sequence[int]) -> dict[int, Example]:
    """The members of a batch by their numbers."""
    return {i: examples[i] for i in members}
