"""Which examples are trained together, in which order and on which worker. Pure arithmetic.

A step is a list of batches, `n_workers * accumulate` of them; worker r takes every n_workers-th
from r on. Every worker has the same number of batches in every step: with other counts DDP waits
for ever (FunASR#2006). One worker that accumulates two batches takes the same step as two workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.schema import LFR_FRAME_S


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Numbers of examples. `counts` false: only there to keep the workers together; it adds 0."""

    members: tuple[int, ...]
    counts: bool = True


Step = tuple[PlannedBatch, ...]


def plan_epoch(
    n_frames: Sequence[int], batch_s: float, n_per_step: int, seed: Sequence[int]
) -> list[Step]:
    """Steps in which each example is trained once. Same arguments, same steps.

    `n_frames` are the LFR frames of each example; a batch, padded to its longest, has at most
    `batch_s` of audio, or one clip. Clips of like length are batched together, with some chance.
    """
    if not len(n_frames):
        return []
    rng = np.random.default_rng(seed)
    sizes = np.asarray(n_frames)
    jitter = rng.uniform(0.98, 1.02, len(sizes))  # else the same clips would always meet
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i] * jitter[i], i))
    batches = _cut(order, sizes, max(1, int(batch_s / LFR_FRAME_S)))
    batches = _fill_up(batches, n_per_step)
    steps = [tuple(batches[at : at + n_per_step]) for at in range(0, len(batches), n_per_step)]
    return [steps[i] for i in rng.permutation(len(steps))]


def padding_share(steps: Sequence[Step], n_frames: Sequence[int]) -> float:
    """The share of frames that are padding."""
    batches = [batch.members for step in steps for batch in step if batch.counts]
    padded = sum(len(members) * max(n_frames[i] for i in members) for members in batches)
    return 1 - sum(n_frames[i] for members in batches for i in members) / max(padded, 1)


def _cut(order: Sequence[int], sizes: np.ndarray, most: int) -> list[PlannedBatch]:
    batches: list[PlannedBatch] = []
    members: list[int] = []
    longest = 0
    for i in order:
        longest_now = max(longest, int(sizes[i]))
        if members and longest_now * (len(members) + 1) > most:
            batches.append(PlannedBatch(tuple(members)))
            members, longest_now = [], int(sizes[i])
        members.append(i)
        longest = longest_now
    return [*batches, PlannedBatch(tuple(members))]


def _fill_up(batches: list[PlannedBatch], n_per_step: int) -> list[PlannedBatch]:
    """A multiple of `n_per_step` batches: the largest are halved.

    If all have one clip, copies that count nothing follow.
    """
    while len(batches) % n_per_step:
        at = max(range(len(batches)), key=lambda i: len(batches[i].members))
        members = batches[at].members
        if len(members) == 1:
            n_missing = -len(batches) % n_per_step
            return [*batches, *[PlannedBatch(batches[-1].members, counts=False)] * n_missing]
        half = len(members) // 2
        batches[at : at + 1] = [PlannedBatch(members[:half]), PlannedBatch(members[half:])]
    return batches
