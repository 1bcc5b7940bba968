"""All commands in one: `python -m jobs` lists them, `python -m jobs label CONFIG` runs one.

Imports the module of a command only when the command runs, so the list needs no heavy library.
"""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.console.commands import new_app

# In the order of use. Each text is the first line of the command's own --help.
COMMANDS = {
    "label": "Label the recordings of a manifest that have no labels yet.",
    "plan": "Estimate the size and the cost of a run before it starts.",
    "doctor": "Check that a store can hold tables, and say how to fix it.",
    "query": "Run one SQL statement on the newest snapshot of the tables.",
    "report": "Write an HTML page that describes a snapshot: the dataset card.",
    "export": "Write labelled segments in a format that other tools read.",
    "diff": "Compare the labels of two models for the same recordings.",
    "verify": "Check every commit, every file and every row of the tables.",
    "compact": "Merge small files of the tables into larger ones.",
    "vacuum": "Delete files that no recent snapshot needs.",
    "release": "Copy one snapshot into plain parquet files that never change.",
    "benchmark": "Measure the speed of labelling, of the model alone, or of planning.",
}


class _ImportedWhenRun(TyperGroup):
    """Replaces the entry of a command in the list by the command itself when it is to run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)  # an unknown name ends here
        return name, get_command(import_module(f"jobs.{name}").app), rest


app = new_app(_ImportedWhenRun)


@app.callback(invoke_without_command=True)
def main(ctx: typer.Context) -> None:
    """Label speech corpora with SenseVoice, and work with the labels.

    `python -m jobs COMMAND --help` describes one command.
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _entry() -> None:
    """An entry of the list. It never runs: _ImportedWhenRun runs the command instead."""


for _name, _text in COMMANDS.items():
    app.command(_name, short_help=_text)(_entry)

if __name__ == "__main__":
    app()
