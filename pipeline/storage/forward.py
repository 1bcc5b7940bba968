"""Replace an object by newer content only. Knows nothing of the content.

A writer that is slow, or was stopped for an hour, must not put an old state back. A check before
the write is not enough, because another writer can act between the two. LocalStore checks and
writes under a lock, S3Store under the condition that the object is still the one that was checked.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from pipeline.storage.store import Store

IsOlder = Callable[[bytes], bool]  # whether this content, b"" if there is none, may be replaced


@runtime_checkable
class ForwardStore(Protocol):
    """A store that can check and replace in one step."""

    def put_forward(self, key: str, data: bytes, is_older: IsOlder) -> bool:
        """Write, unless `is_older` is false for what is there; whether it was written."""


def put_forward(store: Store, key: str, data: bytes, is_older: IsOlder) -> bool:
    """Write, unless `is_older` is false for what is there; whether it was written.

    A store without conditional writes (see lease.sole_writer) is checked first, then written.
    """
    if isinstance(store, ForwardStore):
        return store.put_forward(key, data, is_older)
    try:
        present = store.get(key)
    except FileNotFoundError:
        present = b""
    if not is_older(present):
        return False
    store.put(key, data)
    return True
