"""Values as text for a reader: durations, shares, dates, text from the corpus. Knows no figures."""

from markupsafe import Markup


def duration(seconds: float) -> str:
    """Seconds in the largest unit that fits: "0.5 s", "1.2 min", "10,428 h"."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.0f} h" if seconds >= 360_000 else f"{seconds / 3600:.1f} h"
    if seconds >= 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s"


def clock(seconds: float) -> str:
    """A place in a recording as a player shows it: "0:09.1", "1:06:40.0"."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def share(part: float, whole: float) -> str:
    """A percentage. Only nothing is "0 %", and only everything is "100 %"."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent < 10 or 99 < percent < 100 else f"{percent:.0f} %"


def number(value: float) -> str:
    """At most two decimals, without trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def plain_seconds(value: float) -> str:
    return f"{number(value)} s"


def axis_duration(seconds: float) -> str:
    """A whole number of seconds, minutes or hours, for the axis of a plot."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def thousands(n: int) -> str:
    """12345 as "12,345"."""
    return f"{n:,}"


def minute(time: str) -> str:
    """An ISO 8601 time as date, hour and minute."""
    return time[:16].replace("T", " ")


def printable(text: str) -> str:
    """Without control characters and direction marks; each becomes a space. Line ends stay."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def foreign(text: str, limit: int = 160) -> Markup:
    """Text that comes from the corpus, for HTML: escaped, shortened in its middle, in a <bdi>.

    <bdi> keeps right-to-left letters in a file name from reordering the text around it.
    """
    shown = printable(text)
    if len(shown) > limit:
        shown = f"{shown[: limit // 2]} … {shown[-limit // 2 :]}"
    return Markup("<bdi>{}</bdi>").format(shown)
