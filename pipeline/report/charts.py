"""Plots as inline SVG: bars, histograms, a divided bar. Knows numbers and escaping; no tables.

Colours are classes of `card.css`, for light and dark. Every bar shows its value as text or as a
tooltip, and every plot has a name for screen readers. `Markup.format` escapes what it inserts.
"""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from pipeline.report.text import printable

WIDTH = 360  # units of the viewBox; the page scales it
_ROW = 26
_LABEL = 92
_VALUE = 92
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
    '<rect class="bar" x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}" '
    'rx="{radius:.1f}"><title>{title}</title></rect>'
)
_TICK = Markup('<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>')
_PIECE = Markup('<rect class="{tone}" x="{x:.2f}" y="0" width="{width:.2f}" height="14"/>')
_DIVIDED = Markup(
    '<svg class="divided" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" '
    'aria-label="{name}">{parts}</svg>'
)
_SVG = Markup(
    '<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{name}">{parts}</svg>'
)


def bars(name: str, rows: Sequence[tuple[str, float, str]], tone: str = "bar") -> Markup:
    """Horizontal bars: (label, value, value as text), drawn in the order given."""
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
                tone=tone,
                x=_LABEL,
                y=i * _ROW + 5,
                width=length,
                value_x=_LABEL + length + 7,
                shown=shown,
            )
        )
    return _svg(name, max(1, len(rows)) * _ROW, parts)


def histogram(
    name: str, counts: Sequence[int], titles: Sequence[str], ticks: Iterable[tuple[float, str]]
) -> Markup:
    """Vertical bars; `titles` are their tooltips, `ticks` (place in bars, text) the axis."""
    highest = max(counts, default=0) or 1
    left, top = 44, 14
    bottom = top + _PLOT
    step = (WIDTH - left - 10) / max(1, len(counts))
    parts = [
        _GRID_LINE.format(x1=left, x2=WIDTH - 8, y=y, text_x=left - 7, text_y=y + 4, count=count)
        for y, count in ((top, _short(highest)), (bottom, "0"))
    ]
    for i, (count, title) in enumerate(zip(counts, titles, strict=True)):
        height = max(1.5, _PLOT * count / highest) if count else 0
        parts.append(
            _COLUMN.format(
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
