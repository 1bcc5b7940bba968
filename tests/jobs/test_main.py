"""`python -m jobs`: lists every command and runs one."""

import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from jobs.__main__ import COMMANDS, app
from pipeline import __version__
from tests.support.demo import ROOT, run_command

_HEAVY = ("duckdb", "fsspec", "numpy", "pandas", "pyarrow", "pydantic", "ray", "torch")
_SLOW_TO_IMPORT = ("duckdb", "fastapi", "onnxruntime", "pandas", "ray", "s3fs", "torch")
SHARED = (
    *("ROOT|CONFIG", "--set", "--seq", "--fingerprint", "--single-writer", "--json", "--quiet"),
    *("--price", "--gpu-price", "--sample"),
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def command_of(name: str) -> Any:
    return get_command(import_module(f"jobs.{name}").app)


def test_the_list_names_every_module_in_jobs() -> None:
    assert set(COMMANDS) == {path.stem for path in (ROOT / "jobs").glob("[!_]*.py")}


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_the_list_has_every_command_in_order_of_use(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 0
    words = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert [word for word in words if word in COMMANDS] == list(COMMANDS)
    for text in COMMANDS.values():
        assert text in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_shows_the_first_line_of_each_help(name: str) -> None:
    assert COMMANDS[name] == inspect.cleandoc(command_of(name).help).splitlines()[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_same_help_both_ways(name: str) -> None:
    listed = run(name, "--help")
    alone = CliRunner().invoke(import_module(f"jobs.{name}").app, ["--help"])
    assert (listed.exit_code, alone.exit_code) == (0, 0)
    assert "Traceback" not in listed.output + alone.output
    assert "╭" not in listed.output + alone.output
    assert listed.stdout.startswith(f"Usage: root {name} [OPTIONS]")
    assert listed.stdout.split("\n", 1)[1] == alone.stdout.split("\n", 1)[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_module_is_a_program_of_its_own(name: str) -> None:
    text = (ROOT / "jobs" / f"{name}.py").read_text(encoding="utf-8")
    assert text.endswith('if __name__ == "__main__":\n    app()\n')


def test_a_command_of_a_command_runs() -> None:
    done = run("benchmark", "planning", "--help")
    assert done.exit_code == 0
    assert "Usage: root benchmark planning [OPTIONS]" in done.stdout


@pytest.mark.parametrize(
    ("typed", "meant"), [("lable", "label"), ("compct", "compact"), ("bench", "benchmark")]
)
def test_an_unknown_command_is_refused_with_the_nearest(typed: str, meant: str) -> None:
    done = run(typed, "ROOT")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert f"No such command '{typed}'. Did you mean '{meant}'" in done.stderr


def test_the_list_imports_no_heavy_library() -> None:
    code = f"import sys, jobs.__main__\nprint([name for name in {_HEAVY} if name in sys.modules])"
    assert run_command([sys.executable, "-c", code]).stdout == "[]\n"


def test_help_and_refusals_import_no_library_that_takes_seconds() -> None:
    """pandas comes with the first pa.scalar() or pa.array() too, so none stands at a top."""
    code = f"""
import sys
from importlib import import_module
from typer.testing import CliRunner
from jobs.__main__ import COMMANDS, app
for name in COMMANDS:
    if name not in ("finetune", "convert"):  # these need torch for all that they do
        import_module(f"jobs.{{name}}")
wrong = ["label", "configs/demo.yaml", "--set", "label.langauge=zh"]
print(CliRunner().invoke(app, wrong).exit_code)
print([name for name in {_SLOW_TO_IMPORT} if name in sys.modules])
"""
    done = run_command([sys.executable, "-c", code])
    assert done.stdout == "2\n[]\n", done.stderr


def test_a_program_names_itself_in_its_usage(tmp_path: Path) -> None:
    done = run_command([sys.executable, "-m", "jobs", "verify"])
    assert done.returncode == 2
    assert "Try 'python -m jobs verify --help' for help." in done.stderr


def test_an_option_has_one_text_in_all_commands() -> None:
    """--set has three: a key of CONFIG, a key or a storage option, and what init writes."""
    texts: dict[str, set[str]] = {name: set() for name in SHARED}
    for command in (command_of(name) for name in COMMANDS if name != "benchmark"):
        for param in command.params:
            for name in {*param.opts, param.metavar} & texts.keys():
                texts[name].add(param.help)
    assert {name: len(found) for name, found in texts.items()} == {
        **dict.fromkeys(SHARED, 1),
        "--set": 3,
    }


def test_what_is_written_is_named_by_output() -> None:
    for name in ("init", "export", "release", "report"):
        assert ["--output", "-o"] in [param.opts for param in command_of(name).params]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "benchmark"])
def test_every_command_but_label_and_query_has_the_same_json(name: str) -> None:
    opts = {opt for param in command_of(name).params for opt in param.opts}
    assert "--set" in opts
    # label has --log-json; explore and serve print an address
    assert ("--json" in opts) == (name not in ("label", "explore", "serve"))


def test_the_version_is_printed() -> None:
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"{__version__}\n")


@pytest.mark.parametrize("program", ["jobs", "jobs.query", "jobs.plan", "jobs.label"])
def test_ctrl_c_while_a_command_imports_is_one_line(program: str, tmp_path: Path) -> None:
    """The interrupt comes from the first import of a library, so at the same place each time."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    (tmp_path / "duckdb.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", program, "query"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_ctrl_c_while_a_command_runs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.status.read_status", interrupt)
    done = run("status", "ROOT")
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_the_shell_completes_commands() -> None:
    code = "import sys; sys.argv[0] = 'sensevoice-pipeline'\nfrom jobs.__main__ import app\napp()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ
        | {
            "_SENSEVOICE_PIPELINE_COMPLETE": "complete_bash",
            "COMP_WORDS": "sensevoice-pipeline ve",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["verify"]
