"""Ctrl-C in the first second of a command, while it imports libraries. Imports none itself."""

import os
import signal
from types import FrameType

STOPPED = "stopped"
EXIT_CODE = 130  # 128 + SIGINT, as shells report it


def exit_on_interrupt() -> None:
    """End the process on Ctrl-C with one line, until `raise_interrupts` is called.

    An exception in the middle of an import would be printed with its traceback, or be lost.
    """
    signal.signal(signal.SIGINT, _exit)


def raise_interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: a command that has begun may have to clean up."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(EXIT_CODE)  # nothing was begun, so there is nothing to clean up
