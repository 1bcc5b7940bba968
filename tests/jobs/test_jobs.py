"""The commands, as somebody meets them who has typed something wrong at three in the morning."""

import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.support.demo import ROOT, run_command

# jobs.benchmark and pipeline.benchmark.planning measure; they are of the project's own kitchen.
JOBS = (
    *("compact", "diff", "doctor", "export", "label", "plan", "query", "release", "report"),
    *("vacuum", "verify"),
)


@pytest.fixture(autouse=True)
def sigterm_kept() -> Iterator[None]:
    """The label job takes SIGTERM for itself."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


def invoke(job: str, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(importlib.import_module(f"jobs.{job}").main)
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_says_what_it_takes(job: str) -> None:
    done = invoke(job, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.output and "--set" in done.output


@pytest.mark.parametrize(
    ("job", "arguments", "reason"),
    [
        ("query", ["ROOT", "SELEC 1"], "syntax error"),
        ("query", ["ROOT", "SELECT nothing FROM segments"], '"nothing" not found'),
        ("query", ["ROOT", " ; "], "nothing asked"),
        ("query", ["EMPTY", "SELECT 1"], "run the label job"),
        ("query", ["ROOT", "SELECT 1", "--set", "endpoint_url"], "write it as key=value"),
        ("report", ["EMPTY"], "run the label job"),
        ("report", ["ROOT", "--seq", "99"], "there is no commit 99; the newest is 1"),
        ("report", ["ROOT", "-o", "EMPTY"], "Is a directory"),
        ("export", ["ROOT", "-o", "NEW", "--format", "nemo", "--where", "x = 1"], "Candidate"),
        ("export", ["EMPTY", "-o", "NEW", "--format", "nemo"], "run the label job"),
        ("export", ["ROOT", "-o", "/proc/x", "--format", "nemo"], "/proc/"),
        ("release", ["ROOT", "ROOT"], "is not empty"),
        ("verify", ["NEW"], "run the label job"),
        ("compact", ["NEW"], "run the label job"),
        ("vacuum", ["NEW"], "run the label job"),
        ("diff", ["ROOT", "ff", "00"], "fits none of"),
        ("doctor", ["NEW.yaml"], "NEW.yaml: cannot be read"),
        ("plan", ["NEW"], "no such file or directory"),
        ("plan", ["EMPTY"], "a directory without audio"),
        ("label", ["NEW.yaml"], "NEW.yaml: cannot be read"),
        ("label", [str(ROOT / "configs/demo.yaml"), "--set", "lable=1"], "did you mean 'label"),
    ],
)
def test_a_wrong_command_is_refused_with_its_reason(
    job: str, arguments: list[str], reason: str, labelled_root: str, tmp_path: Path
) -> None:
    (tmp_path / "EMPTY").mkdir()
    places = {"ROOT": labelled_root}
    places |= {name: str(tmp_path / name) for name in ("EMPTY", "NEW", "NEW.yaml")}
    done = invoke(job, *(places.get(argument, argument) for argument in arguments))
    assert done.exit_code == 2, done.output
    assert "refused: " in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["EMPTY"]


def test_rows_too_wide_for_a_table_are_shown_value_by_value(labelled_root: str) -> None:
    done = invoke("query", labelled_root, "SELECT * FROM segments ORDER BY segment_id LIMIT 2")
    assert "segment_id            en_happy-000000" in done.stdout
    assert "emotion               happy" in done.stdout


def test_text_that_looks_like_markup_is_shown_as_it_is(labelled_root: str) -> None:
    assert "[/red]" in invoke("query", labelled_root, "SELECT '[/red]' AS text").stdout


def test_a_long_answer_is_cut_on_a_terminal_and_whole_in_csv(labelled_root: str) -> None:
    sql = "SELECT range AS n FROM range(20000)"
    shown = invoke("query", labelled_root, sql)
    assert "999" in shown.stdout and "1000" not in shown.stdout
    assert "the first 1,000 rows" in shown.stderr
    assert len(invoke("query", labelled_root, sql, "--csv").stdout.splitlines()) == 20_001


def test_a_reader_that_has_enough_ends_a_query_without_a_word(labelled_root: str) -> None:
    sql = "SELECT range AS n FROM range(200000)"
    query = f"{sys.executable} -m jobs.query {labelled_root} '{sql}' --csv | head -n 1"
    done = run_command(["bash", "-c", query])
    assert (done.stdout, done.stderr) == ("n\n", "")
