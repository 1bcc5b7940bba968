"""Plots as inline SVG: bars, histograms, a divided bar. Knows numbers and escaping, no tables.

Colours are classes, which the page paints for light and dark. Every bar has its value as text or
as a tooltip, and every plot a name for those who hear it.
"""

from collections.abc import Sequence
from html import escape

WIDTH = 360  # units of the viewBox; the page scales it
_ROW = 26
_LABEL = 92
_VALUE = 92
_PLOT = 120  # height of a histogram's bars


def text_of(value: str, limit: int = 160) -> str:
    """Foreign text for HTML: escaped, shortened, without control characters, kept to itself.

    <bdi> keeps the direction marks in a hostile file name from turning the rest of the page.
    """
    seen = "".join(char if char.isprintable() else " " for char in value)
    shown = seen if len(seen) <= limit else f"{seen[: limit // 2]} … {seen[-limit // 2 :]}"
    return f"<bdi>{escape(shown)}</bdi>"


def bars(name: str, rows: Sequence[tuple[str, float, str]], tone: str = "bar") -> str:
    """Horizontal bars: (label, value, value as text), drawn in the order given."""
    longest = max((value for _, value, _ in rows), default=0) or 1
    room = WIDTH - _LABEL - _VALUE
    parts = []
    for i, (label, value, shown) in enumerate(rows):
        y = i * _ROW
        length = max(1.5, room * value / longest) if value else 0
        parts.append(
            f'<text class="label" x="{_LABEL - 10}" y="{y + 17}" text-anchor="end">'
            f"{_svg_text(label, 14)}</text>"
            f'<rect class="{tone}" x="{_LABEL}" y="{y + 5}" width="{length:.1f}" '
            'height="16" rx="3"/>'
            f'<text class="value" x="{_LABEL + length + 7:.1f}" y="{y + 17}">{escape(shown)}</text>'
        )
    return _svg(name, max(1, len(rows)) * _ROW, parts)


def histogram(
    name: str, counts: Sequence[int], titles: Sequence[str], ticks: Sequence[tuple[float, str]]
) -> str:
    """Vertical bars; `titles` are their tooltips, `ticks` (place in bars, text) the axis."""
    highest = max(counts, default=0) or 1
    left, top = 44, 14
    step = (WIDTH - left - 10) / max(1, len(counts))
    parts = [
        f'<line class="grid" x1="{left}" x2="{WIDTH - 8}" y1="{y}" y2="{y}"/>'
        f'<text class="tick" x="{left - 7}" y="{y + 4}" text-anchor="end">{count}</text>'
        for y, count in ((top, _short(highest)), (top + _PLOT, "0"))
    ]
    for i, (count, title) in enumerate(zip(counts, titles, strict=True)):
        height = max(1.5, _PLOT * count / highest) if count else 0
        parts.append(
            f'<rect class="bar" x="{left + i * step + step * 0.06:.2f}" '
            f'y="{top + _PLOT - height:.1f}" width="{step * 0.88:.2f}" height="{height:.1f}" '
            f'rx="{min(2.0, step * 0.2):.1f}"><title>{escape(title)}</title></rect>'
        )
    parts += [
        f'<text class="tick" x="{left + place * step:.1f}" y="{top + _PLOT + 18}" '
        f'text-anchor="middle">{escape(text)}</text>'
        for place, text in ticks
    ]
    return _svg(name, top + _PLOT + 26, parts)


def divided(name: str, pieces: Sequence[tuple[str, float]]) -> str:
    """One bar from edge to edge, divided: (class, share of one)."""
    x, parts = 0.0, []
    for tone, share in pieces:
        length = 1000 * share
        if length:
            parts.append(
                f'<rect class="{tone}" x="{x:.2f}" y="0" width="{max(length - 2, 3):.2f}" '
                'height="14"/>'
            )
        x += length
    return (
        f'<svg class="divided" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(name)}">{"".join(parts)}</svg>'
    )


def _svg(name: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(name)}">'
        f"{''.join(parts)}</svg>"
    )


def _svg_text(value: str, limit: int) -> str:
    seen = "".join(char if char.isprintable() else " " for char in value)
    return escape(seen if len(seen) <= limit else f"{seen[: limit - 1]}…")


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{count:,}"
