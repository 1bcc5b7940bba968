"""Functions that run again and again in threads, beside what a test does."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def repeated(*works: Callable[[], None]) -> Iterator[list[int]]:
    """Call each function again and again, each in its own thread, until the block ends.

    Yields how many calls of each have ended. Raises the exception of a call at the end.
    """
    counts, stop = [0] * len(works), threading.Event()

    def repeat(index: int) -> None:
        while not stop.is_set():
            works[index]()
            counts[index] += 1

    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(repeat, index) for index in range(len(works))]
        try:
            yield counts
        finally:
            stop.set()
        for future in futures:
            future.result()
