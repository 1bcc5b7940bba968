"""All commands in one: `python -m jobs` lists them, `python -m jobs label CONFIG` runs one.

Imports the module of a command only when the command runs, so the list needs no heavy library.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from pipeline import __version__
from pipeline.console.commands import Group, new_app

# In the order of use. Each text is the first line of the command's own --help.
COMMANDS = {
    "init": "Write a configuration for a corpus on this machine, and plan its run.",
    "label": "Label the recordings of a manifest that have no labels yet.",
    "plan": "Estimate the size and the cost of a run before it starts.",
    "transcribe": "Print the labels of single files, without tables.",
    "doctor": "Check that a store can hold tables, and say how to fix it.",
    "status": "Show the commits, the fingerprints, what waits and what failed.",
    "query": "Run one SQL statement on a snapshot of the tables.",
    "report": "Write an HTML page that describes a snapshot: the dataset card.",
    "explore": "Browse, play and correct the labels of one snapshot in a browser.",
    "serve": "Answer over HTTP with the labels of a run, batching across clients.",
    "export": "Write labelled segments in a format that other tools read.",
    "reviews": "Save what annotators corrected in Label Studio as reviews.",
    "evaluate": "Score the labels of a snapshot against references. Labels nothing.",
    "finetune": "Train a model further on rows with labels, and write a new model directory.",
    "diff": "Compare the labels of two models for the same recordings.",
    "verify": "Check every commit, every file and every row of the tables.",
    "quality": "Measure the audio of recordings that were labelled without it.",
    "compact": "Merge small files of the tables into larger ones, and reviews into theirs.",
    "vacuum": "Delete files that no recent snapshot needs.",
    "promote": "Make the labels of one fingerprint those that readers get.",
    "convert": "Write a model in files that other programs load: ONNX, TorchScript, torch.export.",
    "release": "Copy one snapshot into plain parquet files that never change.",
    "benchmark": "Measure the speed of labelling, of the model alone, of planning or of serving.",
}


# Commands that need the extra `label`, and so on.
NEED_LABEL = ("label", "transcribe", "finetune", "convert", "serve", "quality", "benchmark")
NEED_CONVERT = ("convert",)
NEED_SERVE = ("serve",)
NEED_EXPLORE = ("explore",)
# The modules that the extra `label` of pyproject.toml installs.
LABEL_MODULES = (
    *("ray", "torch", "torchaudio", "funasr", "modelscope", "huggingface_hub", "sentencepiece"),
    *("silero_vad", "numba", "psutil"),
)
CONVERT_MODULES = ("onnx", "onnxruntime")  # of the extra `convert`
SERVE_MODULES = ("fastapi", "uvicorn", "python_multipart", "websockets", "prometheus_client")
EXPLORE_MODULES = ("fastapi", "uvicorn")  # of the extra `explore`


def _extras() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of each extra, the commands that need it and its modules."""
    return {
        "label": (NEED_LABEL, LABEL_MODULES),
        "convert": (NEED_CONVERT, CONVERT_MODULES),
        "serve": (NEED_SERVE, SERVE_MODULES),
        "explore": (NEED_EXPLORE, EXPLORE_MODULES),
    }


class _ImportedWhenRun(Group):
    """Replaces the entry of a command in the list by the command itself when it is to run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)  # an unknown name ends here
        for extra, (commands, modules) in _extras().items():
            missing = [module for module in modules if name in commands and not find_spec(module)]
            if missing:
                _refuse(missing[0], extra)
        return name, get_command(import_module(f"jobs.{name}").app), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            extra = next((one for one, (_, known) in _extras().items() if module in known), None)
            if extra is None:
                raise
            _refuse(module, extra)


def _refuse(module: str, extra: str) -> NoReturn:
    """Say which library is missing and how to install it; exit code 2."""
    typer.echo(
        f"refused: {module} is not installed; install the {extra} group: "
        f"pip install 'sensevoice-pipeline[{extra}]'",
        err=True,
    )
    sys.exit(2)


app = new_app(_ImportedWhenRun, add_completion=True)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="print the version and exit"
        ),
    ] = False,
) -> None:
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
