"""The notebooks run from top to bottom, and are committed without outputs and without logic."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.demo import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAY_IMPORT = {
    "pipeline.tables",
    "pipeline.report.figures",
    "pipeline.report.card",
    "pipeline.report.scripts",
}

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_a_notebook_runs_from_top_to_bottom(
    path: Path, labelled_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("LABELS", labelled_root)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    assert len(shown) >= 4


def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    for cell in code_of(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


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
