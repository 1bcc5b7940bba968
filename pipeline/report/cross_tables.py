"""Tables of languages by script and by emotion: figures to rows of cells. Writes no HTML."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.figures import Figures, LanguageEmotion, ScriptCount
from pipeline.report.scripts import SCRIPTS


@dataclass(frozen=True, slots=True)
class ScriptTable:
    """Segments by language and script. A cell is None if there are no such segments."""

    scripts: Sequence[str]  # the columns
    rows: Sequence[tuple[str, Sequence[ScriptCount | None]]]  # (language, one cell for each script)
    n_misfits: int  # segments in a script that does not fit the language


@dataclass(frozen=True, slots=True)
class EmotionTable:
    """Segments by language and emotion. A cell is None if there are no such segments."""

    emotions: Sequence[str]  # the columns, the most frequent first
    rows: Sequence[tuple[str, int, Sequence[LanguageEmotion | None]]]  # (language, all, cells)


def tabulate_scripts(figures: Figures) -> ScriptTable:
    """Languages in the order of the card, scripts in the order of SCRIPTS."""
    counts = {(each.language, each.script): each for each in figures.scripts}
    languages = [each.label for each in figures.languages]
    used = [script for script in SCRIPTS if any((name, script) in counts for name in languages)]
    rows = [(name, [counts.get((name, script)) for script in used]) for name in languages]
    return ScriptTable(used, rows, sum(each.n for each in figures.scripts if not each.fits))


def tabulate_emotions(figures: Figures) -> EmotionTable:
    """Languages in the order of the card, emotions by their number of segments."""
    counts = {(each.language, each.emotion): each for each in figures.language_emotions}
    n: Counter[str] = Counter()
    for each in figures.language_emotions:
        n[each.emotion] += each.n
    emotions = sorted(n, key=lambda emotion: (-n[emotion], emotion))
    rows = [
        (share.label, share.n, [counts.get((share.label, emotion)) for emotion in emotions])
        for share in figures.languages
    ]
    return EmotionTable(emotions, rows)
