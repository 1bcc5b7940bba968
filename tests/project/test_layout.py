"""The architecture, held: imports point down, heavy libraries stay on their floor."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FLOORS = {
    "schema": 0,
    "config": 1,
    # floor 2 is everything that is not named here
    "attention": 3,
    "encoder": 3,
    "sensevoice": 3,
    "fsmn_vad": 3,
    "linear": 3,
    "vad_models": 3,
    "stages": 4,
    "model_stages": 4,
    "telemetry": 5,
    "watch": 5,
    "flow": 5,
    "alone": 5,
    "run": 6,
    "benchmarking": 7,
}
PURE = 2
HEAVY = {"ray": {"flow", "alone", "telemetry", "watch"}, "funasr": set()}
TORCH = {"attention", "benchmarking", "features", "encoder", "fsmn_vad", "linear", "model_stages"}
TORCH |= {"sensevoice", "vad_models"}

MODULES = sorted(path.stem for path in (ROOT / "pipeline").glob("*.py") if path.stem != "__init__")


def imports_of(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@cache
def siblings_of(module: str) -> set[str]:
    found = {
        name.split(".")[1]
        for name in imports_of(ROOT / "pipeline" / f"{module}.py")
        if name.startswith("pipeline.")
    }
    return found & set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    floor = FLOORS.get(module, PURE)
    too_high = [name for name in siblings_of(module) if FLOORS.get(name, PURE) > floor]
    assert not too_high


def test_there_is_no_import_cycle() -> None:
    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        for sibling in siblings_of(module):
            walk(sibling, (*path, module))

    for module in MODULES:
        walk(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_on_their_floor(module: str) -> None:
    used = {name.split(".")[0] for name in imports_of(ROOT / "pipeline" / f"{module}.py")}
    for library, homes in HEAVY.items():
        assert library not in used or module in homes
    assert "torch" not in used or module in TORCH


def test_the_library_knows_no_job() -> None:
    for module in MODULES:
        assert not any(
            name.split(".")[0] == "jobs" for name in imports_of(ROOT / "pipeline" / f"{module}.py")
        )


def test_every_test_that_the_readme_of_the_tests_names_is_there() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(test_\w+\.py)::(test_\w+)", text))
    assert len(named) > 30
    missing = [
        name
        for file, name in sorted(named)
        if f"def {name}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert missing == []
