"""Progress of a run: a live table on a terminal, lines in a log. Decides nothing.

A log gets a line every ten seconds: `key=value` for grep and awk, or one JSON object per line.
Log records of the library are printed in the same form, with the id of the run.
"""

import json
import logging
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.runs.progress import Outcome, Phase, Progress, speed

_STAGE_NAMES = {
    "decode": "decoded",
    "segment": "segmented",
    "label": "labelled",
}
_LOG_EVERY_S = 10.0
_PACE_S = 300.0  # speed and time left are computed from the last five minutes, not from the start
_LOGGERS = ("pipeline", "jobs")
_log = logging.getLogger("jobs.run")


class Pace:
    """How fast a run is now. Call `add` with the totals whenever they have grown."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int, float]] = deque()  # time, recordings, audio seconds

    def add(self, now_s: float, n_recordings: int, audio_s: float) -> None:
        self._points.append((now_s, n_recordings, audio_s))
        while len(self._points) > 2 and self._points[1][0] < now_s - _PACE_S:
            self._points.popleft()

    def rtfx(self, now_s: float) -> float:
        """Audio seconds per second of wall clock, over the last five minutes."""
        if not self._points or now_s <= self._points[0][0]:
            return 0.0
        return (self._points[-1][2] - self._points[0][2]) / (now_s - self._points[0][0])

    def left_s(self, now_s: float, n_left: int) -> float | None:
        """Seconds until `n_left` more recordings are done; None while nothing is done yet."""
        if not self._points or self._points[-1][1] == self._points[0][1]:
            return None
        elapsed_s = now_s - self._points[0][0]
        return n_left * elapsed_s / (self._points[-1][1] - self._points[0][1])


class ProgressLines:
    """Shows the progress of a run: a live table on a terminal, else log lines.

    `quiet`: only warnings and errors.
    """

    def __init__(self, console: Console, *, log_json: bool = False, quiet: bool = False) -> None:
        self._console = console
        self._is_live = console.is_terminal and not log_json and not quiet
        self._level = logging.WARNING if self._is_live or quiet else logging.INFO
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._handler = _Lines(console, log_json)
        self._pace = Pace()
        self._started = time.monotonic()
        self._logged = 0.0
        self._phase = ""
        self._seq = -1

    def __enter__(self) -> Self:
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self._handler)
            logging.getLogger(name).setLevel(self._level)
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_live:
            self._live.stop()
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)

    def update(self, progress: Progress) -> None:
        now_s = time.monotonic()
        self._handler.run_id = progress.run_id
        if progress.phase == Phase.LABELLING:
            self._pace.add(now_s, progress.n_recordings, progress.audio_s)
        if self._is_live:
            self._live.update(self._table(progress, now_s))
            return
        if progress.doing != self._phase or now_s - self._logged > _LOG_EVERY_S:
            self._phase, self._logged = progress.doing, now_s
            _log.info(progress.doing, extra={"fields": self._fields(progress, now_s)})
        if progress.seq > self._seq >= 0:
            fields = {"commit": progress.seq, "recordings": progress.n_recordings}
            _log.info("committed", extra={"fields": fields})
        self._seq = progress.seq

    def finish(self, outcome: Outcome, exit_code: int) -> None:
        """Print the last line of a log: what the run did."""
        progress = outcome.progress
        ended = "unfinished" if outcome.n_unfinished else "partial" if progress.n_errors else "done"
        self._handler.run_id = outcome.run.run_id
        self.end(
            ended,
            exit_code,
            {
                "recordings": progress.n_recordings,
                "failed": progress.n_errors,
                "unfinished": outcome.n_unfinished,
                "hours": round(progress.audio_s / 3600, 3),
                "wall_s": round(outcome.label_wall_s, 1),
                "start_up_s": round(outcome.start_up_s, 1),
                "rtfx": round(speed(outcome), 1),
                "commit": progress.seq,
                "errors": dict(progress.errors.most_common()),
            },
        )

    def end(
        self, outcome: str, exit_code: int, fields: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Print the last line of every log: "finished outcome=... exit_code=..."."""
        if not self._is_live:
            with self:
                values = {"outcome": outcome, "exit_code": exit_code, **fields}
                _log.info("finished", extra={"fields": values})

    def _fields(self, progress: Progress, now_s: float) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "elapsed": _clock(now_s - self._started),
            "recordings": progress.n_recordings,
            "planned": progress.n_planned,
            **{name: _rows(progress, stage) for stage, name in _STAGE_NAMES.items()},
        }
        if progress.phase != Phase.LABELLING:
            return fields
        return fields | {
            "failed": progress.n_errors,
            "hours": round(progress.audio_s / 3600, 3),
            "rtfx": round(self._pace.rtfx(now_s), 1),
            "eta": self._eta(progress, now_s),
            "errors": dict(progress.errors.most_common()),
            **({"waits_for": progress.waits_for} if progress.waits_for else {}),
        }

    def _eta(self, progress: Progress, now_s: float) -> str:
        left_s = self._pace.left_s(now_s, progress.n_planned - progress.n_recordings)
        return "unknown" if left_s is None else _clock(left_s)

    def _table(self, progress: Progress, now_s: float) -> Table:
        table = Table.grid(padding=(0, 2))
        for stage, name in _STAGE_NAMES.items():
            n_rows = _rows(progress, stage)
            filled = round(30 * min(1.0, n_rows / max(1, progress.n_planned)))
            bar = f"[cyan]{'━' * filled}[/][dim]{'╌' * (30 - filled)}[/]"
            table.add_row(name, bar, f"{n_rows:,}/{progress.n_planned:,}")
        elapsed = _clock(now_s - self._started)
        if progress.phase != Phase.LABELLING:
            table.add_row("", f"[dim]{progress.doing} …[/]", elapsed)
            return table
        table.add_row(
            "stored",
            f"{progress.n_recordings:,} recordings, {progress.audio_s / 3600:,.2f} h, "
            f"{self._pace.rtfx(now_s):,.0f}x real time",
            f"{elapsed}, {self._eta(progress, now_s)} left",
        )
        if progress.waits_for:
            table.add_row("waiting", f"[yellow]for {progress.waits_for}[/]")
        if progress.errors:
            failed = ", ".join(f"{kind} {n:,}" for kind, n in progress.errors.most_common(4))
            table.add_row("failed", f"[yellow]{failed}[/]")
        return table


class _Lines(logging.Handler):
    """Prints log records as lines of text or JSON; above the live table if there is one."""

    def __init__(self, console: Console, as_json: bool) -> None:
        super().__init__()
        self.run_id = ""
        self._console = console
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        line = self._json(record) if self._as_json else self._text(record)
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _text(self, record: logging.LogRecord) -> str:
        parts = [_stamp(record), record.levelname, f"run={self.run_id or '-'}", record.getMessage()]
        for name, value in getattr(record, "fields", {}).items():
            if isinstance(value, Mapping):
                value = ",".join(f"{kind}:{count}" for kind, count in value.items()) or "none"
            parts.append(f"{name}={value}")
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        return "\n".join(filter(None, [" ".join(parts), trace]))

    def _json(self, record: logging.LogRecord) -> str:
        line = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "run_id": self.run_id,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _stamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))).replace(" ", "")  # 0:00:12, 2days,3:04:05


def _rows(progress: Progress, stage: str) -> int:
    state = progress.stages.get(stage)
    return state.n_rows if state else 0
