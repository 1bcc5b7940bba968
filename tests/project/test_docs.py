"""The documents: links, commands, options, keys and snippets are true of this code.

A command in an unmarked ```bash block is run, on a copy of the labelled demo corpus, or is listed
in NOT_RUN. A line `<!-- needs hardware -->` before a block, or with "a cluster", "a browser" or "a
server", leaves its commands out; their options and keys are checked all the same.
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from typer.main import get_command
from typer.testing import CliRunner

from jobs.__main__ import COMMANDS, app
from pipeline.config import load_config
from pipeline.runs.fingerprint import CODE_VERSION
from pipeline.schema import SCHEMA_VERSION
from pipeline.tables import connect
from pipeline.tables.commit_log import LOG_VERSION
from pipeline.training.settings import load_finetune_config
from tests.project.test_layout import ROOMS
from tests.support import key_table
from tests.support.demo import ROOT

FOLDERS = ("configs", "pipeline", "tests", "notebooks", "jobs")
DOCS = sorted(
    [*ROOT.glob("*.md"), *(doc for name in FOLDERS for doc in (ROOT / name).rglob("*.md"))]
)
README = ROOT / "README.md"

FIRST = "python3 -m pip install uv && uv run --no-dev python -m jobs.label configs/demo.yaml"
TEST = (
    "python3 -m pip install uv && uv run ruff check && uv run ruff format --check && uv run mypy "
    '&& uv run pytest -m "not ray" -n 2 --dist loadfile && uv run pytest -m ray'
)
# Run elsewhere: FIRST by tests/runs/test_execute.py, TEST by CI, the rest by whoever contributes.
NOT_RUN = {
    FIRST,
    TEST,
    "python3 -m pip install uv && uv sync",
    "uvx pre-commit install  # ruff, notebooks, no large files; optional",
    "uv run ruff check && uv run ruff format && uv run mypy",
    'uv run pytest -x -q -m "not slow" tests/storage tests/tables tests/project/test_layout.py',
}
MARKS = {f"<!-- needs {what} -->" for what in ("hardware", "a cluster", "a browser", "a server")}
RUNNABLE = ("uv run python -m jobs ", "uv run --no-dev python -m jobs ")


class Block(NamedTuple):
    """A fenced block of a document."""

    doc: Path
    language: str
    mark: str  # the line before its fence
    text: str


class Command(NamedTuple):
    """`python -m jobs NAME ARGUMENTS`, wherever a document names it."""

    doc: Path
    name: str
    arguments: list[str]


def blocks_of(doc: Path) -> Iterator[Block]:
    text = doc.read_text(encoding="utf-8")
    for found in re.finditer(r"^([^\n]*)\n```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        mark, language, body = found.groups()
        yield Block(doc, language, mark, body)


def commands_of(doc: Path) -> Iterator[Command]:
    for found in re.finditer(r"python -m jobs[. ](\w+)([^`\n]*)", doc.read_text(encoding="utf-8")):
        yield Command(doc, found[1], shlex.split(found[2], comments=True))


BLOCKS = [block for doc in DOCS for block in blocks_of(doc)]
LINES = [
    line
    for block in BLOCKS
    if block.language == "bash" and block.mark not in MARKS
    for line in block.text.splitlines()
]
RUN = [line for line in LINES if line.startswith(RUNNABLE)]
COMMANDS_NAMED = [command for doc in DOCS for command in commands_of(doc)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_readme_is_short_and_has_both_commands() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert lines.index(FIRST) < 15
    assert TEST in lines


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (line,) = re.findall(r"^command=.*$", script, re.MULTILINE)
    found = subprocess.run(
        ["bash", "-c", f'{line}\necho "$command"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == f"{TEST}\n"
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


@cache
def anchors_of(doc: Path) -> set[str]:
    """Headings, spelled as GitHub spells their anchors."""
    headings = re.findall(r"^#+ (.+)$", doc.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("doc", DOCS, ids=name_of)
def test_every_relative_link_resolves(doc: Path) -> None:
    text = re.sub(r"```.*?```", "", doc.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        if "://" in target:
            continue
        path = (doc.parent / target).resolve() if target else doc
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), f"{target}#{anchor}"


@pytest.mark.parametrize("doc", DOCS, ids=name_of)
def test_every_file_of_ours_that_a_document_names_exists(doc: Path) -> None:
    text = doc.read_text(encoding="utf-8")
    for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|yaml|md))`", text):
        places = (doc.parent, ROOT, ROOT / "pipeline", ROOT / "tests", ROOT / "tests" / "recorded")
        assert any((place / name).exists() for place in places), name


@pytest.mark.parametrize("readme", key_table.TABLES, ids=name_of)
def test_the_table_of_configuration_keys_is_up_to_date(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    told = key_table.with_table(text, key_table.TABLES[readme])
    assert told == text, "run: uv run python -m tests.support.key_table"


def test_the_map_of_the_code_names_every_room_in_its_order() -> None:
    text = (ROOT / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| \[(\w+)\]", text, re.MULTILINE)) == ROOMS


def test_the_changelog_has_the_versions_of_the_code() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| `(\w+_VERSION)` [^|]*\| (\d+) \|", text, re.MULTILINE))
    assert {name: int(value) for name, value in stated.items()} == {
        "SCHEMA_VERSION": SCHEMA_VERSION,
        "LOG_VERSION": LOG_VERSION,
        "CODE_VERSION": CODE_VERSION,
    }


def test_pre_commit_is_pinned_and_formats_as_the_check_does() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    revs = {hook["repo"].rpartition("/")[2]: hook["rev"].removeprefix("v") for hook in hooks}
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (ruff,) = [one for one in groups["dependency-groups"]["dev"] if str(one).startswith("ruff")]
    assert revs["ruff-pre-commit"] in SpecifierSet(ruff.removeprefix("ruff"))


@cache
def options_of(name: str) -> set[str]:
    """The options of a command, those of its subcommands included."""
    command = get_command(importlib.import_module(f"jobs.{name}").app)
    commands = [command, *getattr(command, "commands", {}).values()]
    parameters = [parameter for one in commands for parameter in one.params]
    return {"--help"}.union(*(one.opts + one.secondary_opts for one in parameters))


@pytest.mark.parametrize(
    "command", COMMANDS_NAMED, ids=lambda one: f"{name_of(one.doc)}:{one.name}"
)
def test_commands_options_and_keys_that_documents_name_exist(command: Command) -> None:
    assert command.name in COMMANDS
    options = {word.partition("=")[0] for word in command.arguments if word.startswith("-")}
    assert options <= options_of(command.name)
    words = command.arguments
    if words and words[0].endswith(".yaml"):
        load = load_finetune_config if command.name == "finetune" else load_config
        load(ROOT / words[0], [key for flag, key in pairwise(words) if flag == "--set"])


def test_every_command_of_a_document_is_run_or_says_what_it_needs() -> None:
    assert len(RUN) > 8
    unknown = [line for line in LINES if not line.startswith(RUNNABLE) and line not in NOT_RUN]
    assert unknown == []


@pytest.fixture(scope="module")
def clone(labelled_root: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with our configurations in it and the labelled demo corpus in out/demo."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(labelled_root, folder / "out" / "demo")
    runs = ROOT / "tests" / "recorded" / "code_1" / "root" / "_runs"  # the fixture leaves none
    shutil.copytree(runs, folder / "out" / "demo" / "_runs", dirs_exist_ok=True)
    return folder


def is_light(line: str) -> bool:
    """Whether a command may run in this process: it loads no model and handles no signals."""
    words = shlex.split(line, comments=True)
    return words[words.index("jobs") + 1] not in ("label", "convert", "finetune")


@pytest.mark.parametrize("line", [line for line in RUN if is_light(line)])
def test_a_command_of_a_document_runs_in_this_process(
    line: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    words = shlex.split(line, comments=True)
    done = CliRunner().invoke(app, words[words.index("jobs") + 1 :])
    assert done.exit_code == 0, done.output
    assert done.stdout


@pytest.mark.parametrize("line", [line for line in RUN if not is_light(line)])
def test_a_command_of_a_document_runs(line: str, clone: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            re.sub("^uv run (--no-dev )?python", lambda _: shlex.quote(sys.executable), line),
        ],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language in {"python", "sql"}])
def test_a_snippet_reads_the_tables(
    block: Block, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    if block.language == "python":
        code = compile(block.text, name_of(block.doc), "exec")
        if block.mark not in MARKS:
            exec(code, {})
        return
    # README's is plain DuckDB; the recipes of a room are for the views of `jobs query`.
    is_plain = block.doc == README
    with duckdb.connect() if is_plain else connect("out/demo") as connection:
        for statement in filter(str.strip, re.split(r";|^--.*$", block.text, flags=re.MULTILINE)):
            rows = connection.execute(statement).fetchall()
        assert rows or not is_plain  # of the demo no recording has one side only
