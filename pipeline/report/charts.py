"""Plots as inline SVG: bars, histograms, a divided bar. Knows numbers and escaping; no tables.

A plot is WIDTH pixels wide also in a wider card, so that all its text has one size. Colours are
classes of `card.css`, for light and dark. Every bar shows its value as text or as a
tooltip, and every plot has a name for screen readers. `Markup.format` escapes what it inserts.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from markupsafe import Markup

from pipeline.report.text import printable

WIDTH = 320  # pixels; a narrower page scales a plot down
_ROW = 26
_LABEL = 92
_VALUE = 108
_PLOT = 120  # height of a histogram's bars

_BAR = Markup(
    '<text class="label" x="{label_x}" y="{text_y}" text-anchor="end">{label}</text>'
    '<rect class="{tone}" x="{x}" y="{y}" width="{width:.1f}" height="16" rx="3"/>'
    '<text class="value" x="{value_x:.1f}" y="{text_y}">{shown}</text>'
)
_GRID_LINE = Markup(
    '<line class="grid" x1="{x1}" x2="{x2}" y1="{y}" y2="{y}"/>'
    '<text class="tick" x="{text_x}" y="{text_y}" text-anchor="end">{count}</text>'
)
_COLUMN = Markup(
    '<rect class="{tone}" x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}" '
    'rx="{radius:.1f}"><title>{title}</title></rect>'
)
_UNIT = Markup('<text class="tick" x="{x}" y="9">{text}</text>')
_TICK = Markup('<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>')
_PIECE = Markup('<rect class="{tone}" x="{x:.2f}" y="0" width="{width:.2f}" height="14"/>')
_DIVIDED = Markup(
    '<svg class="divided" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" '
    'aria-label="{name}">{parts}</svg>'
)
_SVG = Markup(
    '<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{name}">{parts}</svg>'
)

_PLOT_TAG = re.compile(r'<svg viewBox="0 0 \d+ (\d+)" role="img" aria-label="([^"]*)">')
_TITLE = 34  # height of the title of a plot outside the card


def bars(
    name: str,
    rows: Sequence[tuple[str, float, str]],
    tone: str = "bar",
    tones: Mapping[str, str] = MappingProxyType({}),
) -> Markup:
    """Horizontal bars: (label, value, value as text), drawn in the order given.

    `tone` is the class of a bar, `tones` those of the bars with other ones, by label.
    """
    longest = max((value for _, value, _ in rows), default=0) or 1
    room = WIDTH - _LABEL - _VALUE
    parts = []
    for i, (label, value, shown) in enumerate(rows):
        length = max(1.5, room * value / longest) if value else 0
        parts.append(
            _BAR.format(
                label=_shortened(label, 14),
                label_x=_LABEL - 10,
                text_y=i * _ROW + 17,
                tone=tones.get(label, tone),
                x=_LABEL,
                y=i * _ROW + 5,
                width=length,
                value_x=_LABEL + length + 7,
                shown=shown,
            )
        )
    return _svg(name, max(1, len(rows)) * _ROW, parts)


def histogram(
    name: str,
    counts: Sequence[int],
    titles: Sequence[str],
    ticks: Iterable[tuple[float, str]],
    unit: str = "",
    n_warned: int = 0,
) -> Markup:
    """Vertical bars; `titles` are their tooltips, `ticks` (place in bars, text) the axis.

    `unit` names what is counted. The first `n_warned` bars have the colour of a warning.
    """
    highest = _round_up(max(counts, default=0) or 1)
    left, top = 44, 24
    bottom = top + _PLOT
    step = (WIDTH - left - 10) / max(1, len(counts))
    parts = [
        _GRID_LINE.format(x1=left, x2=WIDTH - 8, y=y, text_x=left - 7, text_y=y + 4, count=count)
        for y, count in _levels(top, bottom, highest)
    ]
    parts.append(_UNIT.format(x=left, text=unit))
    for i, (count, title) in enumerate(zip(counts, titles, strict=True)):
        height = max(1.5, _PLOT * count / highest) if count else 0
        parts.append(
            _COLUMN.format(
                tone="warn" if i < n_warned else "bar",
                x=left + i * step + step * 0.06,
                y=bottom - height,
                width=step * 0.88,
                height=height,
                radius=min(2.0, step * 0.2),
                title=title,
            )
        )
    parts += [_TICK.format(x=left + at * step, y=bottom + 18, text=text) for at, text in ticks]
    return _svg(name, bottom + 26, parts)


def divided(name: str, pieces: Sequence[tuple[str, float]]) -> Markup:
    """One bar over the whole width, divided into pieces: (class, share of one)."""
    x, parts = 0.0, []
    for tone, share in pieces:
        width = 1000 * share
        if width:
            parts.append(_PIECE.format(tone=tone, x=x, width=max(width - 2, 3)))
        x += width
    return _DIVIDED.format(name=name, parts=Markup().join(parts))


def standalone(plot: Markup) -> str:
    """A plot as an SVG document with its name as a title, e.g. for a notebook.

    It has the light colours of the card. A plot without anything to draw becomes a sentence.
    """
    plot = plot or _svg("Nothing to show", 0, [])
    found = _PLOT_TAG.match(plot)
    if not found:
        raise ValueError(f"not a plot of this module: {plot[:80]!r}")
    height, name = int(found[1]) + _TITLE, found[2]
    style = Path(__file__).with_name("card.css").read_text(encoding="utf-8")
    colours = "; ".join(f"--{key}: {value}" for key, value in _light_colours(style).items())
    rules = "".join(line for line in style.splitlines() if line.startswith("svg "))
    font = "background: #ffffff; font-family: system-ui, sans-serif"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-_TITLE} {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{name}">'
        f"<style>svg {{ {colours}; {font} }} {rules}</style>"
        f'<text x="4" y="-16" font-weight="600">{name}</text>{plot[found.end() :]}'
    )


def _light_colours(style: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#\w+)", style.partition("@media")[0]))


def _levels(top: float, bottom: float, highest: int) -> list[tuple[float, str]]:
    """The lines of an axis: (y, count). The middle one only if its count is whole."""
    middle = [] if highest % 2 else [((top + bottom) / 2, _short(highest // 2))]
    return [(top, _short(highest)), *middle, (bottom, "0")]


def _round_up(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8 and 10, times a power of ten."""
    size = int(10 ** int(math.log10(count)))
    return size * next(step for step in (1, 2, 3, 4, 6, 8, 10) if step * size >= count)


def _svg(name: str, height: float, parts: Iterable[Markup]) -> Markup:
    return _SVG.format(width=WIDTH, height=height, name=name, parts=Markup().join(parts))


def _shortened(text: str, limit: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{count:,}"
