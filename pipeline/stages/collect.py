"""Short rows into tables of a minute of audio. Knows seconds; nothing of what the rows hold.

A table of one row costs more than a row: Ray sends every column of every chunk on its own, and a
network needs as long for its call as for a second of audio. More than a minute gains nothing.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

TABLE_S = 60.0

Item = TypeVar("Item")


def collect(items: Iterable[tuple[float, Item]]) -> Iterator[list[Item]]:
    """Items with their seconds -> lists of neighbours of at most TABLE_S, or of one long item.

    A long item waits for nothing and keeps nothing waiting, so that memory holds one window.
    """
    held: list[Item] = []
    held_s = 0.0
    for seconds, item in items:
        if held and held_s + seconds > TABLE_S:
            yield held
            held, held_s = [], 0.0
        held.append(item)
        held_s += seconds
        if held_s >= TABLE_S:
            yield held
            held, held_s = [], 0.0
    if held:
        yield held
