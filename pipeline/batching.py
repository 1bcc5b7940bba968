"""Clip lengths to clip batches that fill one forward pass. Knows numbers only."""

from collections.abc import Sequence


class PackTooLarge(Exception):
    """The device has no memory for this forward pass; fewer clips at a time may go."""


def pack_by_length(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Indices of clips, longest first, in batches whose lengths sum to at most `max_length`.

    Neighbours in length share a batch, which keeps the padding inside attention small. A clip
    longer than `max_length` goes alone. Every index appears exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    filled = max_length + 1
    for index in order:
        if filled + lengths[index] > max_length:
            batches.append([])
            filled = 0
        batches[-1].append(index)
        filled += lengths[index]
    return batches
