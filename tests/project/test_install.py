"""What is installed for whom: the wheel for readers of tables, the extra `label`, all extras.

The resolver and the packages come from uv's cache or the package index; without either the tests
are skipped.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import jobs.__main__ as commands
from tests.support.demo import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
RECORDED = ROOT / "tests" / "recorded" / "code_1" / "root"
# Have no wheels, but need no compiler either: without one, crcmod leaves out its C code.
PURE = {
    *("antlr4-python3-runtime", "crcmod", "jieba", "oss2", "pyspark", "sensevoice-pipeline"),
    "zhconv",
}
OFFLINE = ("error sending request", "failed to fetch", "network connectivity", "dns error")


def uv(*arguments: str | Path, cwd: Path) -> None:
    """Run uv. Skips the test where there is no uv, or no package index and nothing in the cache."""
    binary = shutil.which("uv")
    if not binary:
        pytest.skip("no uv on this machine")
    done = subprocess.run(
        [binary, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if done.returncode and any(text in done.stderr.lower() for text in OFFLINE):
        pytest.skip(f"uv cannot reach the package index: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr


def name_of(requirement: str) -> str:
    """`ray` of `ray[data,default]>=2.60`."""
    return requirement.replace("[", " ").replace(">", " ").split()[0].lower()


def test_the_command_names_every_module_of_the_extra_label() -> None:
    names = {name_of(requirement).replace("-", "_") for requirement in EXTRAS["label"]}
    assert names == set(commands.LABEL_MODULES)


def test_uv_run_without_options_installs_what_labels() -> None:
    assert PROJECT["dependency-groups"]["label"] == ["sensevoice-pipeline[label]"]
    assert "label" in PROJECT["tool"]["uv"]["default-groups"]
    assert "conflicts" not in PROJECT["tool"]["uv"]


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        *((name, "label") for name in commands.NEED_LABEL),
        *((name, "convert") for name in commands.NEED_CONVERT),
        *((name, "serve") for name in commands.NEED_SERVE),
        *((name, "explore") for name in commands.NEED_EXPLORE),
    ],
)
def test_a_command_without_its_libraries_says_how_to_install_them(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, f"{extra.upper()}_MODULES", ("a_library_of_ours",))
    done = CliRunner().invoke(commands.app, [name, "configs/demo.yaml"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"install the {extra} group: pip install 'sensevoice-pipeline[{extra}]'" in done.stderr
    assert "a_library_of_ours is not installed" in done.stderr


def test_another_missing_module_is_a_bug_and_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jobs.query", None)
    done = CliRunner().invoke(commands.app, ["query", "ROOT", "SELECT 1"])
    assert isinstance(done.exception, ModuleNotFoundError)


def test_all_extras_resolve_together_to_packages_without_a_compiler(
    patience: None, tmp_path: Path
) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    uv("lock", "--python", sys.executable, cwd=tmp_path)
    locked = tomllib.loads((tmp_path / "uv.lock").read_text(encoding="utf-8"))["package"]
    assert {package["name"] for package in locked if not package.get("wheels")} <= PURE
    wanted = {name_of(requirement) for extra in EXTRAS.values() for requirement in extra}
    assert wanted <= {package["name"] for package in locked}


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the project's wheel and its base packages only."""
    folder = tmp_path_factory.mktemp("light")
    uv("build", "--wheel", "--out-dir", folder, ROOT, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    uv("venv", "--python", sys.executable, folder / "venv", cwd=ROOT)
    python = folder / "venv" / "bin" / "python"
    # in ROOT, so that exclude-newer of pyproject.toml counts
    uv("pip", "install", "--python", python, wheel, cwd=ROOT)
    return python.parent


def run(light: Path, folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the light environment in a folder that has no code of ours."""
    program, *arguments = map(str, command)
    return subprocess.run(
        [light / program, *arguments],
        cwd=folder,
        env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of recorded tables in a foreign folder, beside a directory of audio."""
    (tmp_path / "corpus").mkdir()
    shutil.copy(ROOT / "configs" / "demo" / "audio" / "en_neutral.wav", tmp_path / "corpus")
    return Path(shutil.copytree(RECORDED, tmp_path / "labels"))


def test_the_light_install_has_no_library_that_labels(patience: None, light: Path) -> None:
    names = commands.LABEL_MODULES
    code = f"import importlib.util as u; print([name for name in {names} if u.find_spec(name)])"
    done = run(light, light, "python", "-c", code)
    assert done.stdout == "[]\n"


def test_the_light_install_connects_from_any_folder(
    patience: None, light: Path, root: Path
) -> None:
    code = (
        "from pipeline.tables import connect, open_snapshot\n"
        "n = connect('labels').sql('SELECT count(*) FROM segments').fetchall()[0][0]\n"
        "print(n, open_snapshot('labels').read('transcripts').num_rows)"
    )
    done = run(light, root.parent, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    n_joined, n_read = done.stdout.split()
    assert int(n_joined) == int(n_read) > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("query", "labels", "SELECT count(*) FROM segments", "--csv"),
        ("verify", "labels"),
        ("status", "labels"),
        ("report", "labels", "-o", "card.html"),
        ("export", "labels", "--format", "srt", "-o", "subtitles"),
        ("release", "labels", "-o", "frozen"),
        ("plan", "corpus"),
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_a_command_for_readers_runs_in_the_light_install(
    patience: None, light: Path, root: Path, arguments: tuple[str, ...]
) -> None:
    done = run(light, root.parent, "sensevoice-pipeline", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("name", ["label", "plan"])  # by its list, and by what it misses
def test_the_light_install_refuses_what_needs_more(
    patience: None, light: Path, root: Path, name: str
) -> None:
    config = {"manifest": "corpus", "output": "labels"}  # the model's hub needs a client
    (root.parent / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    done = run(light, root.parent, "sensevoice-pipeline", name, "run.yaml")
    assert done.returncode == 2
    assert "pip install 'sensevoice-pipeline[label]'" in done.stderr
    assert "Traceback" not in done.stderr
