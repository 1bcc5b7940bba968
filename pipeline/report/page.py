"""What a page is made of: its style, cards, tables and how values are said. Knows no figures.

One style sheet for light and dark; text holds 4.5 to 1 against its ground in both.
"""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark;
  --ground: #f6f6f3; --card: #ffffff; --ink: #1b1e22; --soft: #5b636d; --line: #e2e3e0;
  --bar: #2d6cb0; --quiet: #a9bed3; --warn: #a64a0a; --bad: #b3261e; --warn-ground: #fbeadd; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #13161a; --card: #1b1f25; --ink: #e9ebee; --soft: #a2abb6; --line: #2e343c;
  --bar: #6fa9e6; --quiet: #43566b; --warn: #f0a561; --bad: #f2867d; --warn-ground: #3a2a1a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC",
  sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 24px 64px; }
header p { margin: 4px 0 0; color: var(--soft); overflow-wrap: anywhere; }
h1 { font-size: 30px; line-height: 1.2; margin: 0; letter-spacing: -.015em; }
h2 { font-size: 19px; margin: 44px 0 14px; letter-spacing: -.01em; }
h3 { font-size: 14px; margin: 0 0 12px; font-weight: 600; }
.note { color: var(--soft); font-size: 13px; margin: 10px 0 0; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); }
.narrow-wide { display: grid; gap: 16px; }
@media (min-width: 800px) {
  .narrow-wide { grid-template-columns: minmax(300px, 1fr) minmax(0, 2fr); } }
.below { margin-top: 16px; }
.tiles { display: grid; gap: 12px; margin: 28px 0 16px;
  grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); }
.card, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 18px 20px; min-width: 0; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 22px; line-height: 1.3; font-weight: 600;
  letter-spacing: -.01em; }
.tile span { color: var(--soft); font-size: 13px; }
svg { display: block; width: 100%; max-width: 400px; height: auto; overflow: visible; }
svg text { font-size: 12.5px; fill: var(--ink); }
svg .tick { font-size: 11.5px; fill: var(--soft); }
svg .value { fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .bar, .key.bar { fill: var(--bar); background: var(--bar); }
svg .quiet, .key.quiet { fill: var(--quiet); background: var(--quiet); }
svg .warn, .key.warn { fill: var(--warn); background: var(--warn); }
svg .bad, .key.bad { fill: var(--bad); background: var(--bad); }
svg.divided { height: 14px; max-width: none; border-radius: 7px; overflow: hidden; }
.keys { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 10px 0 0; font-size: 13px;
  color: var(--soft); }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 500; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.wraps { overflow-wrap: anywhere; min-width: 150px; }
td.odd { color: var(--warn); font-weight: 600; }
td.odd span { background: var(--warn-ground); border-radius: 4px; padding: 1px 6px; }
td.id { white-space: nowrap; }
td.none { color: var(--soft); }
code { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
details { margin-top: 16px; } summary { cursor: pointer; font-size: 14px; font-weight: 600; }
pre { margin: 12px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 700px) { tbody th { white-space: normal; } }
@media print { .card, .tile { break-inside: avoid; } }
"""


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.0f} h" if seconds >= 360_000 else f"{seconds / 3600:.1f} h"
    if seconds >= 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s"


def share(part: float, whole: float) -> str:
    """A percentage that never rounds something to nothing, or almost all to all."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent < 10 or 99 < percent < 100 else f"{percent:.0f} %"


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def grid(cards: Iterable[str]) -> str:
    return f'<div class="grid">{"".join(cards)}</div>'


def card(title: str, content: str, note: str = "") -> str:
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<div class="card"><h3>{escape(title)}</h3>{content}{below}</div>'


def table(names: Sequence[str], rows: Iterable[str], numbers: Sequence[str] = ()) -> str:
    cells = "".join(
        f'<th scope="col"{" class=n" if name in numbers else ""}>{escape(name)}</th>'
        for name in names
    )
    head = f"<thead><tr>{cells}</tr></thead>" if names else ""
    return f'<div class="wide"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def nothing(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def plain_seconds(value: float) -> str:
    return f"{number(value)} s"


def edge(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
