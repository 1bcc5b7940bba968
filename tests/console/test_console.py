"""Progress of a run, on a terminal and in a log."""

import io
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from pipeline.console.progress import Pace, ProgressLines
from pipeline.flow.telemetry import SumOverRounds
from pipeline.runs.progress import Outcome, Progress
from tests.support.demo import AS_TESTED, AUDIO, ROOT

RUN_ID = "20261122T120000-0a1b2c3d"


def progress_of(**changes: Any) -> Progress:
    stages = {
        name: SimpleNamespace(n_rows=n_rows, busy_s=1.0, worker_s=2.0)
        for name, n_rows in (("decode", 70), ("segment", 60), ("label", 50))
    }
    values: dict[str, Any] = {
        "phase": "labelling",
        "n_planned": 100,
        "n_recordings": 40,
        "n_errors": 3,
        "audio_s": 7200.0,
        "errors": Counter(Truncated=2, EmptyFile=1),
        "stages": stages,
        "seq": 7,
    }
    return Progress(RUN_ID, **values | changes)


def outcome_of(progress: Progress, n_unfinished: int = 0) -> Outcome:
    run = SimpleNamespace(run_id=RUN_ID)
    values = SimpleNamespace(
        run=run, progress=progress, n_unfinished=n_unfinished, label_wall_s=100.0, start_up_s=20.0
    )
    return cast(Outcome, values)


def log_of(*updates: Progress, log_json: bool = False) -> list[str]:
    out = io.StringIO()
    with ProgressLines(Console(file=out, width=80), log_json=log_json) as lines:
        for progress in updates:
            lines.update(progress)
    return out.getvalue().splitlines()


def test_speed_and_time_left_come_from_the_last_five_minutes() -> None:
    pace = Pace()
    pace.add(0, 0, 0.0)
    for minute in range(1, 61):  # slow for half an hour, then ten times as fast
        n_done = minute if minute <= 30 else 30 + (minute - 30) * 10
        pace.add(minute * 60, n_done, n_done * 60.0)
    assert pace.rtfx(3600) == pytest.approx(10)
    assert pace.left_s(3600, 100) == pytest.approx(600)


def test_the_time_left_is_unknown_until_something_is_done() -> None:
    pace = Pace()
    assert pace.left_s(1.0, 10) is None
    pace.add(1.0, 0, 0.0)
    pace.add(5.0, 0, 0.0)
    assert pace.left_s(6.0, 10) is None
    pace.add(11.0, 5, 50.0)
    assert pace.left_s(11.0, 10) == pytest.approx(20)


def test_a_stall_makes_the_time_left_grow() -> None:
    pace = Pace()
    pace.add(0.0, 0, 0.0)
    pace.add(10.0, 10, 100.0)
    assert pace.left_s(20.0, 10) == pytest.approx(20)


def test_a_log_line_has_a_value_for_every_question() -> None:
    line = log_of(progress_of())[0]
    assert re.match(rf"\d{{4}}-\d\d-\d\dT[\d:]+Z INFO run={RUN_ID} labelling ", line)
    for text in (
        *("recordings=40", "planned=100", "failed=3", "hours=2.0", "rtfx=", "eta=unknown"),
        *("decoded=70", "segmented=60", "labelled=50", "errors=Truncated:2,EmptyFile:1"),
    ):
        assert f" {text}" in line


def test_a_log_line_stays_one_line_and_without_colour() -> None:
    lines = log_of(progress_of(errors=Counter({f"Kind{i}": 1 for i in range(40)})))
    assert len(lines) == 1
    assert not re.search(r"[\x00-\x1f\x7f]", "".join(lines))


def test_lines_come_every_ten_seconds_and_when_something_new_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("pipeline.console.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    with ProgressLines(Console(file=out)) as lines:
        for second in range(31):
            now[0] = 1000.0 + second
            phase = "loading models" if second < 2 else "labelling"
            lines.update(progress_of(phase=phase, seq=7 if second < 20 else 8))
    text = out.getvalue()
    assert text.count(" loading models ") == 1
    assert text.count(" labelling ") == 3  # at 2, 13 and 24 s
    assert re.findall(r" committed commit=(\d+) ", text) == ["8"]


def test_a_log_counts_decoded_and_segmented_rows_before_the_first_label() -> None:
    waiting = progress_of(phase="loading models", waits_for="workers of stage label")
    (line,) = log_of(waiting)
    assert " waiting for workers of stage label elapsed=" in line
    assert " planned=100 decoded=70 segmented=60 labelled=50" in line
    assert "rtfx=" not in line  # there is no speed yet


def test_json_lines_carry_the_run_and_numbers() -> None:
    first = json.loads(log_of(progress_of(), log_json=True)[0])
    assert (first["run_id"], first["event"], first["level"]) == (RUN_ID, "labelling", "info")
    assert (first["recordings"], first["errors"]) == (40, {"Truncated": 2, "EmptyFile": 1})


@pytest.mark.parametrize("log_json", [False, True])
def test_what_the_library_logs_carries_the_run(log_json: bool) -> None:
    out = io.StringIO()
    with ProgressLines(Console(file=out, width=80), log_json=log_json) as lines:
        lines.update(progress_of())
        try:
            raise ValueError("lost [bold]it")
        except ValueError:
            logging.getLogger("pipeline.tables.publisher").exception("a bundle is damaged")
    text = out.getvalue()
    assert RUN_ID in text.splitlines()[1]
    assert "a bundle is damaged" in text
    assert "ValueError: lost [bold]it" in text
    if log_json:
        assert "Traceback" in json.loads(text.splitlines()[1])["trace"]


def test_log_handlers_are_removed_after_the_run() -> None:
    log_of(progress_of())
    assert not logging.getLogger("pipeline").handlers
    assert not logging.getLogger("jobs").handlers


@pytest.mark.parametrize(
    ("changes", "n_unfinished", "name"),
    [
        ({"n_errors": 0, "errors": Counter()}, 0, "done"),
        ({}, 0, "partial"),
        ({}, 5, "unfinished"),
    ],
)
def test_the_last_line_says_how_the_run_ended(
    changes: dict[str, Any], n_unfinished: int, name: str
) -> None:
    out = io.StringIO()
    ProgressLines(Console(file=out)).finish(outcome_of(progress_of(**changes), n_unfinished), 9)
    assert f"run={RUN_ID} finished outcome={name} exit_code=9 recordings=40" in out.getvalue()
    assert "wall_s=100.0 start_up_s=20.0 rtfx=90.0" in out.getvalue()  # 7,200 s in 80 s


def test_a_terminal_shows_a_bar_per_stage_and_the_time_left() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=20)
    with ProgressLines(console) as lines:
        lines.update(progress_of(n_recordings=0, audio_s=0.0))
        lines._pace._points[0] = (lines._pace._points[0][0] - 60, 0, 0.0)
        lines.update(progress_of())
        lines._live.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    for name in ("decoded", "segmented", "labelled", "stored", "failed"):
        assert name in text
    assert "━" * 21 + "╌" * 9 in text  # 70 of 100
    assert "40 recordings, 2.00 h, 120x real time" in text
    assert "0:01:30 left" in text
    assert "Truncated 2, EmptyFile 1" in text


def test_a_terminal_says_what_it_waits_for_before_the_first_label() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=20)
    with ProgressLines(console) as lines:
        lines.update(progress_of(phase="loading models", stages={}))
        lines._live.refresh()
    assert "loading models …" in out.getvalue()


def test_a_counter_that_starts_again_continues_from_its_last_value() -> None:
    rows = SumOverRounds()
    assert [rows.add(figure) for figure in (3, 8, 8, 2, 5, 0, 1)] == [3, 8, 8, 10, 13, 13, 14]


def test_the_command_prints_nothing_but_json_when_asked(labelled_root: str) -> None:
    settings = (
        *(f"output={labelled_root}", f"manifest={AUDIO / 'manifest.jsonl'}"),
        *AS_TESTED,
    )
    flags = [part for setting in settings for part in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.label", "configs/demo.yaml", "--log-json", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["event"] == "finished"
    assert (lines[-1]["outcome"], lines[-1]["exit_code"], lines[-1]["recordings"]) == ("done", 0, 0)
