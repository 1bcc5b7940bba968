"""The commands, one by one: what they print, and how they refuse."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs import doctor
from jobs.__main__ import app
from pipeline.storage.probe import Check
from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import OTHER_MODEL, RUN, bundle, window
from tests.support.demo import AUDIO, ROOT, run_command

READERS = {  # commands on tables, with the arguments that they need
    "query": ["SELECT 1"],
    "report": [],
    "export": ["-o", "NEW", "--format", "nemo"],
    "diff": ["f1", "e2"],
    "verify": [],
    "compact": [],
    "vacuum": [],
    "release": ["NEW"],
}


@pytest.fixture(autouse=True)
def sigterm_kept() -> Iterator[None]:
    """The command `label` sets its own handler of SIGTERM."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of two models: recording b is lost on disk, c failed."""
    root = tmp_path_factory.mktemp("tables")
    store = open_store(str(root))
    audio = {"uri": str(AUDIO / "en_sad.opus")}
    for run, name in ((OTHER_MODEL, "b"), (RUN, "b"), (RUN, "d")):
        rows = [window(name)]
        if name == "b":
            rows += [window("a", n_segments=1) | audio, window("c", error="NotAudio", n_segments=0)]
        if run is OTHER_MODEL:
            rows[1]["segments"][0] |= {"text": "other", "language": "zh"}
        write_bundle(store, run, bundle(*rows))
        publish(store, run)
    return root


@pytest.fixture
def root(tables: Path, tmp_path: Path) -> str:
    """A copy of the tables that a test may change."""
    return str(shutil.copytree(tables, tmp_path / "root"))


def invoke(job: str, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [job, *arguments])


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("job", "arguments", "reason"),
    [
        ("query", ["ROOT", "SELEC 1"], "syntax error"),
        ("query", ["ROOT", "SELECT nothing FROM segments"], '"nothing" not found'),
        ("query", ["ROOT", " ; "], "no statement given"),
        ("query", ["EMPTY", "SELECT 1"], "run the label job"),
        ("query", ["ROOT", "SELECT 1", "--set", "endpoint_url"], "write it as key=value"),
        ("report", ["EMPTY"], "run the label job"),
        ("report", ["ROOT", "--seq", "99"], "there is no commit 99; the newest is 3"),
        ("report", ["ROOT", "-o", "EMPTY"], "Is a directory"),
        ("export", ["ROOT", "-o", "NEW", "--format", "nemo", "--where", "x = 1"], "Candidate"),
        ("export", ["EMPTY", "-o", "NEW", "--format", "nemo"], "run the label job"),
        ("export", ["ROOT", "-o", "/proc/x", "--format", "nemo"], "/proc/"),
        ("release", ["ROOT", "ROOT"], "is not empty"),
        ("release", ["ROOT"], "name one place for the copy"),
        ("release", ["ROOT", "NEW", "-o", "NEW"], "name one place for the copy"),
        ("release", ["ROOT", "NEW", "--partition-by", "day"], "use one of none, language"),
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
    job: str, arguments: list[str], reason: str, tables: Path, tmp_path: Path
) -> None:
    (tmp_path / "EMPTY").mkdir()
    places = {"ROOT": str(tables)}
    places |= {name: str(tmp_path / name) for name in ("EMPTY", "NEW", "NEW.yaml")}
    done = invoke(job, *(places.get(argument, argument) for argument in arguments))
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("refused: ")
    assert reason in done.stderr
    assert "Traceback" not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["EMPTY"]


@pytest.mark.parametrize("job", READERS)
@pytest.mark.parametrize("flag", [(), ("--json",)], ids=["text", "json"])
def test_a_refusal_is_the_same_in_every_command(
    job: str, flag: tuple[str, ...], tmp_path: Path
) -> None:
    if job == "query":
        flag = ()
    new = str(tmp_path / "NEW")
    arguments = [new if argument == "NEW" else argument for argument in READERS[job]]
    done = invoke(job, new, *arguments, *flag)
    text = f"refused: {new}: no tables here yet; run the label job with this output first\n"
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", text)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- results


RESULTS: dict[str, tuple[list[str], list[str]]] = {
    "plan": (
        [str(AUDIO / "manifest.jsonl"), "--sample", "3"],
        [
            "{n_manifest:,} recordings in the manifest",
            "{n_done:,} already in the tables, {n_todo:,} to do",
            "the first bytes of {n_sampled:,} recordings",
            "longest {longest_s:,.1f} s",
        ],
    ),
    "doctor": (["NEW"], ["{root}"]),
    "report": (["ROOT"], ["{report}"]),
    "export": (
        ["ROOT", "--format", "nemo", "-o", "NEW"],
        [
            "{n_segments:,} segments of {n_recordings:,} recordings, {hours:.3f} h, ",
            "as {format} in {output} (commit {seq})",
        ],
    ),
    "diff": (
        ["ROOT", "f1", "e2"],
        [
            "A {a}\nB {b}\n",
            "{n_both:,} recordings in both, {n_only_a:,} only in A, {n_only_b:,} only in B",
            "{n_unmatched_a:,} of A, {n_unmatched_b:,} of B",
            "{total[cer]:.2%}",
            "{language_flips[0][a]} -> {language_flips[0][b]} {language_flips[0][n]:,}",
        ],
    ),
    "verify": (
        ["ROOT"],
        [
            "verified: {n_recordings:,} recordings ({n_errors:,} failed), {n_segments:,} segments",
            "{n_fingerprints} fingerprints, {n_files:,} files",
            "{seq:,} commits",
        ],
    ),
    "compact": (
        ["ROOT"],
        [
            "{n_parts_before:,} small parts became {n_parts_after:,} in {n_commits:,} commits; "
            "newest commit: {seq:,}"
        ],
    ),
    "vacuum": (
        ["ROOT", "--dry-run", "--retain-days", "0"],
        ["{n_temporaries:,} temporary files; commits {first_seq:,} to {seq:,} can be read"],
    ),
    "release": (
        ["ROOT", "-o", "NEW"],
        [
            "released commit {seq:,} to {output}: {n_rows[recordings]:,} recordings, "
            "{n_rows[transcripts]:,} segments, {n_files:,} files"
        ],
    ),
}


@pytest.mark.parametrize("job", RESULTS)
def test_json_is_one_object_that_says_what_the_text_says(
    job: str, tables: Path, tmp_path: Path
) -> None:
    arguments, texts = RESULTS[job]
    done: list[Result] = []
    for flag in ([], ["--json"]):
        shutil.copytree(tables, tmp_path / "ROOT")
        given = [str(tmp_path / text) if text in ("ROOT", "NEW") else text for text in arguments]
        done.append(invoke(job, *given, *flag))
        for name in ("ROOT", "NEW"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
    text, as_json = done
    assert (text.exit_code, as_json.exit_code) == (0, 0), as_json.output
    assert (text.stderr, as_json.stderr) == ("", "")
    assert as_json.stdout.count("\n") == 1
    facts = json.loads(as_json.stdout)
    for template in texts:
        assert template.format(**facts) in text.stdout


def test_json_of_an_export_lists_what_was_left_out(root: str, tmp_path: Path) -> None:
    done = invoke("export", root, "--format", "audiofolder", "-o", str(tmp_path / "x"), "--json")
    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout)["skipped"].keys() == {"b"}


def test_json_of_verify_lists_every_problem(root: str) -> None:
    for path in Path(root).glob("emotions/*/*.parquet"):
        path.unlink()
    done = invoke("verify", root, "--json")
    facts = json.loads(done.stdout)
    assert (done.exit_code, facts["ok"], len(facts["problems"])) == (1, False, 3)
    assert all("is missing, but a commit lists it" in text for text in facts["problems"])


def test_json_of_the_doctor_says_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [Check("put", "failed", "[bold]it was lost", "Use another store", True)]
    monkeypatch.setattr(doctor, "examine", lambda store: checks)
    done = invoke("doctor", str(tmp_path), "--json")
    facts = json.loads(done.stdout)
    assert (done.exit_code, facts["ok"], facts["checks"][0]["advice"]) == (
        *(1, False),
        "Use another store",
    )
    shown = invoke("doctor", str(tmp_path))
    assert shown.exit_code == 1
    assert "[bold]it was lost" in shown.stdout and "-> Use another store" in shown.stdout


def test_a_comparison_without_text_has_no_error_rate(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for run in (RUN, OTHER_MODEL):
        write_bundle(store, run, bundle(window("a", n_segments=0)))
        publish(store, run)
    done = invoke("diff", str(tmp_path), "f1", "e2", "--json")
    assert json.loads(done.stdout)["total"]["cer"] is None


def test_a_release_may_name_its_place_in_either_way(root: str, tmp_path: Path) -> None:
    for arguments in ([str(tmp_path / "a")], ["--output", str(tmp_path / "b")]):
        assert invoke("release", root, *arguments).exit_code == 0
    assert (tmp_path / "a" / "_SUCCESS").exists() and (tmp_path / "b" / "_SUCCESS").exists()


# --------------------------------------------------------------------------- query


def test_rows_too_wide_for_a_table_are_shown_value_by_value(tables: Path) -> None:
    sql = "SELECT * FROM segments ORDER BY segment_id LIMIT 2"
    done = invoke("query", str(tables), sql)
    assert "segment_id            a-000000" in done.stdout
    assert "emotion               unknown" in done.stdout


@pytest.mark.parametrize("text", ["[/red]", ":warning:"])
def test_text_that_looks_like_markup_is_shown_as_it_is(text: str, tables: Path) -> None:
    assert text in invoke("query", str(tables), f"SELECT '{text}' AS text").stdout


def test_a_long_answer_is_cut_on_a_terminal_and_whole_in_csv(tables: Path) -> None:
    sql = "SELECT range AS n FROM range(20000)"
    shown = invoke("query", str(tables), sql)
    assert "999" in shown.stdout and "1000" not in shown.stdout
    assert "the first 1,000 rows" in shown.stderr
    assert len(invoke("query", str(tables), sql, "--csv").stdout.splitlines()) == 20_001


@pytest.mark.parametrize("program", ["jobs.query", "jobs query"])
@pytest.mark.parametrize("flag", ["--csv", ""], ids=["csv", "table"])
def test_a_query_ends_silently_when_its_reader_has_enough(
    program: str, flag: str, tables: Path
) -> None:
    """Killed by SIGPIPE (128 + 13), as other programs are, and without a message."""
    sql = f"SELECT repeat('x', 70) AS n FROM range({200_000 if flag else 1_000})"
    query = f'{sys.executable} -m {program} {tables} "{sql}" {flag}'
    done = run_command(["bash", "-c", f"{query} | head -n 1 > /dev/null; echo ${{PIPESTATUS[0]}}"])
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_a_query_leaves_the_signals_of_its_process_as_they_are(tables: Path) -> None:
    before: Any = signal.getsignal(signal.SIGPIPE)
    assert invoke("query", str(tables), "SELECT 1", "--csv").exit_code == 0
    assert signal.getsignal(signal.SIGPIPE) == before
