"""The architecture: rooms import downwards, heavy libraries have a home, facts have one place."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from pipeline.errors import ErrorType

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipeline"

# Every room may import those before it, and the ground: schema, config, errors, arrow.
ROOMS = (
    "storage",
    "archives",
    "manifest",
    "audio",
    "models",
    "convert",
    "planning",
    "tables",
    "stages",
    "flow",
    "runs",
    "maintenance",
    "report",
    "export",
    "evaluation",
    "training",
    "web",
    "serving",
    "explorer",
    "benchmark",
    "console",
)
GROUND = {"schema", "config", "errors", "arrow"}
APART = {("flow", "planning"), ("maintenance", "runs"), ("benchmark", "report")}  # never meet
# Which rooms, or modules, may import a library, at the top or inside a function. None: any.
HOMES = {
    "torch": {"models", "convert", "training", "benchmark"},
    "torchaudio": {"models/sensevoice/alignment"},
    "funasr": {"benchmark"},
    "onnx": {"convert"},
    "onnxruntime": {"models", "convert"},
    "sherpa_onnx": {"benchmark"},
    "sentencepiece": {"models", "convert"},
    "silero_vad": {"models"},
    "numba": {"audio", "models"},
    "ray": {"flow", "training", "serving/ray_serve"},  # one process serves without Ray
    "av": {"audio"},
    "soundfile": {"audio", "export", "benchmark"},
    "soxr": {"audio"},
    "duckdb": {
        "manifest",
        "tables",
        "maintenance",
        "report",
        "export",
        "evaluation",
        "training",
        "explorer",
        "console",
    },
    "jinja2": {"report"},
    "fastapi": {"serving", "explorer"},
    "prometheus_client": {"serving"},
    "uvicorn": {"web"},
    "rich": {"benchmark", "console"},
    "typer": {"benchmark", "console"},
    "psutil": {"benchmark"},
}

MODULES = sorted(PIPELINE.rglob("*.py"))
names = [str(path.relative_to(PIPELINE)) for path in MODULES]


def room_of(path: Path) -> str:
    return path.relative_to(PIPELINE).parts[0].removesuffix(".py")


@cache
def imports_of(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rooms_used(path: Path) -> set[str]:
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("pipeline.")}
    return (used & {*ROOMS, *GROUND}) - {room_of(path)}


def test_every_folder_is_a_room_in_the_order() -> None:
    folders = {path.parent.name for path in PIPELINE.glob("*/__init__.py")}
    assert folders == set(ROOMS)
    assert {path.stem for path in PIPELINE.glob("*.py")} == {"__init__", *GROUND}


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room in GROUND:
        assert rooms_used(path) <= GROUND
    elif room in ROOMS:
        below = {*ROOMS[: ROOMS.index(room)], *GROUND}
        assert rooms_used(path) <= below
        assert not {other for one, other in APART if one == room} & rooms_used(path)


def test_there_is_no_circle_of_modules() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}

    def walk(module: str, path: tuple[str, ...], done: set[str]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module in done:
            return
        for name in imports_of(modules[module]) & modules.keys():
            walk(name, (*path, module), done)
        done.add(module)

    done: set[str] = set()
    for module in modules:
        walk(module, (), done)


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_heavy_libraries_have_a_home(path: Path) -> None:
    used = {name.split(".")[0] for name in imports_of(path)}
    homes = {room_of(path), path.relative_to(PIPELINE).with_suffix("").as_posix()}
    homeless = {lib for lib in used & HOMES.keys() if not homes & HOMES[lib]}
    assert homeless == set()


def test_a_room_says_what_it_does_and_imports_nothing() -> None:
    for path in PIPELINE.rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        if path.parent.name != "tables":  # the public face: connect, open_snapshot, Snapshot
            rest = [node for node in tree.body[1:] if not isinstance(node, ast.Assign)]
            assert rest == [], path


def test_the_library_knows_no_job() -> None:
    for path in MODULES:
        assert not any(name.split(".")[0] == "jobs" for name in imports_of(path)), path


def strings_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "jobs").glob("*.py"))], ids=str)
def test_an_error_type_is_written_in_one_place(path: Path) -> None:
    """A mistyped one would silently count as one that a retry may mend."""
    if path.name != "errors.py":
        assert strings_of(path) & {kind.value for kind in ErrorType} == set()


def test_every_error_type_says_what_to_do() -> None:
    for kind in ErrorType:
        assert kind.advice, kind
        assert not kind.advice.endswith("."), kind
    assert len({kind.value for kind in ErrorType}) == len(ErrorType)


def test_every_test_that_the_readme_of_the_tests_names_is_there() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"([\w/]*test_\w+\.py)::(test_\w+)", text))
    assert len(named) > 30
    missing = [
        name
        for file, name in sorted(named)
        if f"def {name}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert missing == []
