"""SenseVoice's loss: CTC over the text frames plus cross entropy over the four tag frames. Pure.

As SenseVoiceSmall.forward in FunASR (funasr/models/sense_voice/model.py), in float32 whatever the
precision of the network. The divisors are given, so that the parts of a step, on several workers
or one after the other, add up to the gradient of one large batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.sensevoice.decoding import BLANK
from pipeline.schema import N_PROMPT_FRAMES
from pipeline.training.examples import MASKED


@dataclass(frozen=True, slots=True)
class LossForm:
    """`model_conf` of config.yaml: how FunASR sums the loss of the tags."""

    per_tag: bool  # length_normalized_loss: divide by the number of tags, not of clips
    smoothing: float  # lsm_weight


@dataclass(frozen=True, slots=True)
class Divisors:
    """Of the whole step, all workers together."""

    n_clips: int
    n_tags: int  # not masked


def ctc_loss(
    logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, has_text: Tensor
) -> Tensor:
    """The sum over the clips. `logits` (n, 4 + t, n_tokens), `lengths` (n,) with the tag frames.

    `targets` are the tokens of all clips, one after the other; a clip without any must be silent
    in the text frames. Where `has_text` (n,) is false the text is not known, and nothing is added.
    """
    log_probabilities = logits[:, N_PROMPT_FRAMES:].float().log_softmax(dim=-1).transpose(0, 1)
    each = F.ctc_loss(
        log_probabilities,
        targets,
        lengths - N_PROMPT_FRAMES,
        target_lengths,
        blank=BLANK,
        reduction="none",
    )
    return (each * has_text).sum()


def tag_loss(logits: Tensor, tags: Tensor, smoothing: float = 0.0) -> Tensor:
    """The sum over the tags that are not masked: label-smoothed cross entropy (KL divergence).

    `logits` (n, 4 + t, n_tokens), `tags` (n, 4) with MASKED where a label is not known.
    """
    flat = tags.flatten()
    known = flat != MASKED
    found = logits[:, :N_PROMPT_FRAMES].flatten(0, 1)[known].float().log_softmax(dim=-1)
    right = found.gather(1, flat[known, None]).squeeze(1)
    if not smoothing:
        return -right.sum()
    n_tokens = logits.shape[-1]
    share = smoothing / (n_tokens - 1)  # of each wrong token
    certainty = 1 - smoothing
    wrong = found.sum(dim=-1) - right
    entropy = certainty * torch.log(torch.tensor(certainty)) + smoothing * torch.log(
        torch.tensor(share)
    )
    return (entropy - certainty * right - share * wrong).sum()


def total_loss(ctc: Tensor, tags: Tensor, form: LossForm, divisors: Divisors) -> Tensor:
    """What the sums of a batch add to the loss of its step."""
    n_tags = divisors.n_tags if form.per_tag else divisors.n_clips
    return ctc / max(divisors.n_clips, 1) + tags / max(n_tags, 1)
