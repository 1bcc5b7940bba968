"""One command per module: parse the options, call the library, print the result."""

import sys
from pathlib import Path

from pipeline.console.interrupts import exit_on_interrupt

# `python -m jobs` imports this package first, as "-m"; the libraries that follow take a second.
if Path(sys.argv[0] if sys.argv else "").name in {"-m", "sensevoice-pipeline"}:
    exit_on_interrupt()
