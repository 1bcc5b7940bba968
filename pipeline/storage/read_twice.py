"""Read an object a second time if it arrived damaged. Knows nothing of its content."""

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def read_twice(
    read: Callable[[], _T], damaged: type[Exception] | tuple[type[Exception], ...]
) -> _T:
    """The result of `read()`, which is called again if it raises one of `damaged`.

    A bit can flip on the network as well as in the store. If the stored bytes are wrong, the second
    call raises the exception again.
    """
    try:
        return read()
    except damaged:
        return read()
