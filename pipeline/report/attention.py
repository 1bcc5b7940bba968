"""What is wrong with a snapshot, in sentences: the first thing that a card shows. Knows figures."""

from dataclasses import dataclass
from typing import Literal

from pipeline.report.figures import Figures
from pipeline.report.text import duration, share

_MANY = 0.1  # of the recordings without a segment: more than this is named


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence, and the section of the card that shows the rows."""

    tone: Literal["bad", "warn"]
    text: str
    section: Literal["errors", "review", "quality"]


def find_problems(figures: Figures) -> list[Problem]:
    """The worst first; empty if nothing is wrong."""
    found = [_failed(figures), _misfits(figures), _warned(figures), _silent(figures)]
    return [each for each in found if each is not None]


def _failed(figures: Figures) -> Problem | None:
    totals = figures.totals
    if not totals.n_errors:
        return None
    types = ", ".join(f"{each.type} {each.n:,}" for each in figures.errors[:4])
    lost = f", {duration(totals.failed_s)} of audio lost" if totals.failed_s else ""
    text = f"{_of_recordings(totals.n_errors, figures)} failed{lost}: {types}"
    return Problem("bad", text, "errors")


def _misfits(figures: Figures) -> Problem | None:
    n = sum(each.n for each in figures.scripts if not each.fits)
    part = share(n, figures.totals.n_segments)
    text = f"{n:,} segments ({part}) are in a script that does not fit their language"
    return Problem("bad", text, "review") if n else None


def _warned(figures: Figures) -> Problem | None:
    n = figures.totals.n_warnings
    text = f"{_of_recordings(n, figures)} have a warning"
    return Problem("warn", text, "review") if n else None


def _silent(figures: Figures) -> Problem | None:
    totals = figures.totals
    text = f"{_of_recordings(totals.n_silent, figures)} have no segment: no speech was found"
    many = totals.n_silent > _MANY * totals.n_recordings
    return Problem("warn", text, "errors") if many else None


def _of_recordings(n: int, figures: Figures) -> str:
    whole = figures.totals.n_recordings
    return f"{n:,} of {whole:,} recordings ({share(n, whole)})"
