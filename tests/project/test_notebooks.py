"""The notebooks run from top to bottom, and are committed with small outputs and without logic."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.demo import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAY_IMPORT = {
    "pipeline.tables",
    "pipeline.tables.reviews",  # to correct without a browser
    "pipeline.report.attention",
    "pipeline.report.card",
    "pipeline.report.charts",
    "pipeline.report.figures",
    "pipeline.report.scripts",
    "pipeline.report.sections",
}
MAX_BYTES = 200_000  # of a notebook with its outputs

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def kinds_of(cell: Any) -> list[str]:
    """What a cell shows: each media type, and the stream for printed text, in a fixed order."""
    kinds = {
        kind
        for output in cell["outputs"]
        for kind in (output.get("data") or {output.get("name", output["output_type"]): ""})
    }
    return sorted(kinds)


def copy_of_the_project(folder: Path, labelled_root: str) -> Path:
    """The folder `notebooks` of a project whose out/demo has the demo's labels; returns it."""
    for name in ("configs", "jobs", "pipeline"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(labelled_root, folder / "out" / "demo")
    (folder / "notebooks").mkdir()
    return folder / "notebooks"


def test_a_notebook_runs_and_shows_what_its_kept_outputs_show(
    path: Path, labelled_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.delenv("LABELS", raising=False)
    folder = copy_of_the_project(tmp_path, labelled_root)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(folder)}}
    ).execute()
    new = [kinds_of(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert new == [kinds_of(cell) for cell in code_of(path)]


def test_a_notebook_is_committed_with_small_outputs(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    assert sum(bool(cell["outputs"]) for cell in code_of(path)) >= 4
    assert any("image/svg+xml" in kinds_of(cell) for cell in code_of(path))
    for cell in code_of(path):
        assert cell["execution_count"] is None
        assert not {"error", "stderr"} & {*kinds_of(cell)}


def test_the_outputs_name_no_folder_of_a_machine(path: Path) -> None:
    text = json.dumps([cell["outputs"] for cell in code_of(path)])
    assert not {part for part in ("/home/", "/root/", "/tmp/", "/work/", "/Users/") if part in text}


def test_only_the_demo_is_written(path: Path) -> None:
    """A notebook that writes does not take another output from the environment."""
    source = "\n".join("".join(cell["source"]) for cell in code_of(path))
    writes = "jobs.label" in source or "open(" in source
    assert not (writes and "LABELS" in source)


def test_a_notebook_holds_no_logic(path: Path) -> None:
    source = "\n".join(
        line
        for cell in code_of(path)
        for line in "".join(cell["source"]).splitlines()
        if not line.startswith("%")
    )
    tree = ast.parse(source)
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if name and name.startswith("pipeline")} <= MAY_IMPORT
    logic = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If, ast.Try)
    assert not [node for node in ast.walk(tree) if isinstance(node, logic)]
