"""Rows to row batches, clips to clip batches, both by seconds of audio. Knows numbers only."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class PackTooLarge(Exception):
    """The device has no memory for this forward pass; fewer clips at a time may go."""


def pack_by_length(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Indices of clips, longest first, in batches whose lengths sum to at most `max_length`.

    Neighbours in length share a batch, which keeps the padding inside attention small. All batches
    are about alike: a small rest would read every weight for a few frames. A clip longer than
    `max_length` goes alone. Every index appears exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    total, longest = sum(lengths), max(lengths, default=0)
    # Room for half a clip more than a share: else the last clip that does not fit begins a rest.
    room = max(max_length / 2, max_length - longest / 2)
    share = total / max(1, math.ceil(total / room))
    batches: list[list[int]] = []
    before = filled = 0
    for index in order:
        length = lengths[index]
        is_next = before + length / 2 > share * len(batches)  # most of it lies beyond this share
        if not batches or is_next or filled + length > max_length:
            batches.append([])
            filled = 0
        batches[-1].append(index)
        filled += length
        before += length
    return batches


def group_by_seconds(
    seconds: npt.NDArray[np.float64], target_s: float, n_least: int, n_most: int
) -> list[slice]:
    """Consecutive rows in groups of about `target_s`, in order; no group is empty.

    A small corpus is cut finer, into `n_least` groups or single rows, so that every worker has
    something to do; a huge one coarser, into `n_most`.
    """
    total_s = float(seconds.sum())
    if not len(seconds):
        return []
    target_s = max(min(target_s, total_s / max(1, n_least)), total_s / n_most)
    if target_s <= 0:  # nobody knows anything of these rows
        seconds, target_s = np.ones(len(seconds)), math.ceil(len(seconds) / max(1, n_least))
    middles = np.cumsum(seconds) - seconds / 2
    groups = np.floor(middles / target_s)
    starts = np.flatnonzero(np.diff(groups, prepend=-1.0))
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(seconds)], strict=True)]
