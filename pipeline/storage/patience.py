"""Repeat a call while the store does not answer, for a limited time. Knows nothing of the call.

The clients of a store repeat a request for seconds. A restart or an outage of a store takes
minutes, and a run that has labelled for days should survive it.
"""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.redaction import redact

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
# A store that gives one of these answers works; another try in a minute would get the same answer.
_ANSWERS = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError)
_ANSWER_CODES = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG}
)


def is_away(error: OSError) -> bool:
    """Whether the store did not answer, or said that it cannot serve now, so waiting may help."""
    return not isinstance(error, _ANSWERS) and error.errno not in _ANSWER_CODES


def with_patience(
    call: Callable[[], _T],
    patience_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """The result of `call()`, which is repeated for `patience_s` while the store is away.

    Waits 1 s before the second call, then twice as long each time, at most 30 s. Raises the
    OSError of the last call; one that waiting cannot cure at once.
    """
    end_s = clock() + patience_s
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            return call()
        except OSError as error:
            left_s = end_s - clock()
            if not is_away(error) or left_s <= 0:
                raise
            log.warning(
                "the store does not answer, will wait up to %.0f s more: %s",
                left_s,
                redact(str(error)),
            )
            sleep(min(wait_s, left_s))
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
