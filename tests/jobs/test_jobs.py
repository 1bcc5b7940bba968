"""The commands, one by one: what they print, and how they refuse."""

import csv
import io
import json
import shlex
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
        ("export", ["ROOT", "-o", "s3:/b/x", "--format", "nemo"], "s3:/b/x: is no local dir"),
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


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("manifest=/nowhere/m.csv", "/nowhere/m.csv: no such file or directory"),
        ("output=/proc/nope", "/proc/nope: cannot be written"),
    ],
)
@pytest.mark.parametrize("job", ["label", "plan"])
def test_manifest_and_output_are_checked_before_the_model(
    job: str, setting: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fetch(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a model was looked for")

    monkeypatch.setattr("pipeline.runs.execute.resolve_model_of", fetch)
    settings = (f"manifest={AUDIO}", f"output={tmp_path / 'out'}", setting)
    flags = [part for one in settings for part in ("--set", one)]
    done = invoke(job, str(ROOT / "configs" / "demo.yaml"), *flags)
    assert (done.exit_code, reason in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_the_reason_of_a_refusal_is_in_the_json_log() -> None:
    done = invoke("label", str(ROOT / "configs" / "demo.yaml"), "--set", "lable=1", "--log-json")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["outcome"], last["exit_code"]) == ("refused", 2)
    assert "did you mean" in last["error"]


def test_a_quiet_label_prints_only_why_it_was_refused() -> None:
    done = invoke("label", str(ROOT / "configs" / "demo.yaml"), "--set", "lable=1", "--quiet")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("refused: ")


@pytest.mark.parametrize("job", READERS)
@pytest.mark.parametrize("flag", [(), ("--json",)], ids=["text", "json"])
def test_a_refusal_is_the_same_in_every_command(
    job: str, flag: tuple[str, ...], tmp_path: Path
) -> None:
    new = str(tmp_path / "NEW")
    arguments = [new if argument == "NEW" else argument for argument in READERS[job]]
    done = invoke(job, new, *arguments, *flag)
    reason = f"{new}: no tables here yet; run the label job with this output first"
    assert (done.exit_code, done.stderr) == (2, f"refused: {reason}\n")
    if flag:
        facts = {"outcome": "refused", "error": reason, "exit_code": 2}
        assert json.loads(done.stdout) == facts
    else:
        assert done.stdout == ""
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
            "{n_parts_before:,} small parts became {n_parts_after:,} in {n_commits:,} commit",
            "newest commit: {seq:,}",
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


def test_a_dry_run_of_compact_counts_and_writes_nothing(root: str) -> None:
    before = sorted(Path(root).rglob("*"))
    would = json.loads(invoke("compact", root, "--dry-run", "--json").stdout)
    assert sorted(Path(root).rglob("*")) == before
    did = json.loads(invoke("compact", root, "--json").stdout)
    assert (would.pop("dry_run"), did.pop("dry_run")) == (True, False)
    assert would.pop("seq") + did["n_commits"] == did.pop("seq")
    assert would == did


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


# --------------------------------------------------------------------------- ROOT or CONFIG


@pytest.mark.parametrize("job", [*READERS, "status"])
def test_a_config_stands_for_its_output(job: str, root: str, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"manifest: m.csv\noutput: {root}\nmodel: nowhere/at/all\n")
    new = str(tmp_path / "NEW")
    arguments = [new if argument == "NEW" else argument for argument in READERS.get(job, [])]
    done = invoke(job, str(config), *arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout


def test_a_key_of_a_config_may_be_set_for_a_reader(root: str, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("manifest: m.csv\noutput: /nowhere\n")
    assert invoke("verify", str(config), "--set", f"output={root}").exit_code == 0
    done = invoke("verify", str(config), "--set", "outptu=x")
    assert (done.exit_code, "did you mean 'output'" in done.stderr) == (2, True)


def test_a_storage_option_of_a_local_path_is_warned_of(root: str) -> None:
    done = invoke("status", root, "--set", "foo=bar")
    assert (done.exit_code, done.stderr) == (
        *(0, f"warning: {root} is a local path; foo is not used\n"),
    )


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        *(("verify", []), ("compact", []), ("vacuum", []), ("report", []), ("doctor", [])),
        *(("release", ["NEW"]), ("export", ["-o", "NEW", "--format", "nemo"])),
        ("promote", ["f1"]),
    ],
)
def test_a_quiet_command_prints_nothing_if_all_is_well(
    job: str, arguments: list[str], root: str, tmp_path: Path
) -> None:
    given = [str(tmp_path / "NEW") if argument == "NEW" else argument for argument in arguments]
    done = invoke(job, root, *given, "--quiet")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_a_quiet_verify_still_prints_problems(root: str) -> None:
    for path in Path(root).glob("emotions/*/*.parquet"):
        path.unlink()
    done = invoke("verify", root, "-q")
    assert (done.exit_code, "is missing, but a commit lists it" in done.stdout) == (1, True)


# --------------------------------------------------------------------------- query

MANY = "SELECT range AS n FROM range(20000)"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdout of a command looks like a terminal."""
    monkeypatch.setattr("jobs.query.is_terminal", lambda: True)


def test_rows_too_wide_for_a_table_are_shown_value_by_value(terminal: None, tables: Path) -> None:
    sql = "SELECT * FROM segments ORDER BY segment_id LIMIT 2"
    done = invoke("query", str(tables), sql)
    assert "segment_id            a-000000" in done.stdout
    assert "emotion               unknown" in done.stdout


@pytest.mark.parametrize("text", ["[/red]", ":warning:"])
def test_text_that_looks_like_markup_is_shown_as_it_is(
    text: str, terminal: None, tables: Path
) -> None:
    assert text in invoke("query", str(tables), f"SELECT '{text}' AS text").stdout


def test_a_long_answer_is_cut_on_a_terminal(terminal: None, tables: Path) -> None:
    shown = invoke("query", str(tables), MANY)
    assert "999" in shown.stdout and "1000" not in shown.stdout
    assert "the first 1,000 rows" in shown.stderr


@pytest.mark.parametrize(("flags", "n_lines"), [([], 20_001), (["--csv"], 20_001)])
def test_a_long_answer_is_whole_in_a_pipe(flags: list[str], n_lines: int, tables: Path) -> None:
    assert len(invoke("query", str(tables), MANY, *flags).stdout.splitlines()) == n_lines


def test_a_pipe_gets_whole_values_between_tabs(tables: Path) -> None:
    sql = "SELECT repeat('x', 200) AS x, 'a\tb\nc' AS t, NULL AS n, [1, 2] AS l, 0.1::FLOAT AS f"
    done = invoke("query", str(tables), sql)
    assert done.stdout == f"x\tt\tn\tl\tf\n{'x' * 200}\ta\\tb\\nc\t\t[1, 2]\t0.1\n"


def test_json_has_the_rows_with_their_lists_and_times(tables: Path) -> None:
    sql = "SELECT [{'a': 1.5}] AS l, TIMESTAMP '2026-01-02 03:04:05' AS t, 'nan'::DOUBLE AS n"
    row = {"l": [{"a": 1.5}], "t": "2026-01-02T03:04:05", "n": None}
    whole = invoke("query", str(tables), sql, "--json")
    assert json.loads(whole.stdout) == {"columns": ["l", "t", "n"], "rows": [row]}
    lines = invoke("query", str(tables), f"{sql} UNION ALL {sql}", "--jsonl")
    assert [json.loads(line) for line in lines.stdout.splitlines()] == [row, row]
    none = invoke("query", str(tables), "SELECT 1 AS x WHERE false", "--json")
    assert json.loads(none.stdout) == {"columns": ["x"], "rows": []}


def test_csv_holds_lists_as_json(tables: Path) -> None:
    sql = "SELECT ['a'] AS l, {'k': true} AS s"
    done = invoke("query", str(tables), sql, "--csv")
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (json.loads(row["l"]), json.loads(row["s"])) == (["a"], {"k": True})


def test_sql_may_come_from_a_file_or_from_stdin(tables: Path, tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("SELECT 1\n  AS one;\n")
    done = invoke("query", str(tables), "-f", str(tmp_path / "a.sql"))
    assert done.stdout == "one\n1\n"
    done = CliRunner().invoke(app, ["query", str(tables), "-"], input="SELECT 2 AS two")
    assert done.stdout == "two\n2\n"
    assert invoke("query", str(tables), "SELECT 1", "-f", "x.sql").exit_code == 2


def test_without_sql_the_views_and_examples_are_shown(tables: Path) -> None:
    done = invoke("query", str(tables))
    assert done.exit_code == 0
    assert "segments: recording_id, segment_id" in done.stdout
    examples = [line for line in done.stdout.splitlines() if "python -m jobs query" in line]
    assert len(examples) > 3
    for line in examples:
        assert invoke(*shlex.split(line)[3:]).exit_code == 0


def test_a_terminal_without_unicode_gets_escapes(tables: Path) -> None:
    """LC_ALL=C without UTF-8 mode: no exception, and JSON stays JSON."""
    query = ["query", str(tables), "SELECT '你好' AS t"]
    code = (
        "from jobs.__main__ import app\n"
        f"app({query!a}, standalone_mode=False)\n"
        f"app({[*query, '--json']!a}, standalone_mode=False)\n"
    )
    ascii_only = ("LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", "PYTHONIOENCODING=ascii")
    done = run_command(["env", *ascii_only, sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    title, shown, as_json = done.stdout.splitlines()
    assert (title, shown) == ("t", "\\u4f60\\u597d")
    assert json.loads(as_json)["rows"] == [{"t": "你好"}]


@pytest.mark.parametrize(("program", "flag"), [("jobs.query", "--csv"), ("jobs query", "")])
def test_a_query_ends_silently_when_its_reader_has_enough(
    program: str, flag: str, tables: Path
) -> None:
    """Killed by SIGPIPE (128 + 13), as other programs are, and without a message."""
    sql = "SELECT repeat('x', 70) AS n FROM range(200_000)"
    query = f'{sys.executable} -m {program} {tables} "{sql}" {flag}'
    done = run_command(["bash", "-c", f"{query} | head -n 1 > /dev/null; echo ${{PIPESTATUS[0]}}"])
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_a_query_leaves_the_signals_of_its_process_as_they_are(tables: Path) -> None:
    before: Any = signal.getsignal(signal.SIGPIPE)
    assert invoke("query", str(tables), "SELECT 1", "--csv").exit_code == 0
    assert signal.getsignal(signal.SIGPIPE) == before
