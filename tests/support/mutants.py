"""Plant one fault at a time in a copy of the project, and see whether its tests notice it.

`mutants.toml` lists the faults: a place in a file, what stands there instead, and the tests that
must then fail. A mutant that survives is a promise that no test guards.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[2]
_LIST = Path(__file__).with_suffix(".toml")
_LIMIT_S = 600  # a fault may make a loop endless: that is noticed, too


class MutantError(Exception):
    """The list does not fit the code, or the tests fail without any mutant."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `old`, which occurs exactly once in `path`, becomes `new`."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]  # arguments of pytest

    def apply(self, text: str) -> str:
        """The text of the file with the fault. Raises MutantError if `old` is not there once."""
        if (n := text.count(self.old)) != 1:
            raise MutantError(f"{self.name}: {self.old!r} occurs {n} times in {self.path}")
        return text.replace(self.old, self.new)


def load_mutants() -> list[Mutant]:
    """All mutants of the list, in its order."""
    groups = tomllib.loads(_LIST.read_text(encoding="utf-8"))["file"]
    return [
        Mutant(name, group["path"], old, new, tuple(own or group["tests"]))
        for group in groups
        for name, old, new, *own in group["mutants"]
    ]


def copy_project(target: Path) -> None:
    """Copy the files that git has or would take, as they are now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in (name for name in listed.split("\0") if (ROOT / name).is_file()):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def find_failure(project: Path, tests: Sequence[str]) -> str:
    """The first test that fails; "" if all pass. Raises MutantError if pytest cannot run them."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # Compiled files would hide a change within one second that keeps the length.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"no end after {_LIMIT_S} s"
    if done.returncode > 2:  # 0: all pass; 1: one fails; 2: the fault breaks an import
        raise MutantError(f"pytest {' '.join(tests)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = (line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR")))
    return next(failed, "a failure") if done.returncode else ""


def plant(mutants: Sequence[Mutant], project: Path) -> list[Mutant]:
    """Plant each mutant in turn and say what became of it; the survivors."""
    survivors: list[Mutant] = []
    sound: set[tuple[str, ...]] = set()
    for number, mutant in enumerate(mutants, 1):
        started = time.monotonic()
        path = project / mutant.path
        text = path.read_text(encoding="utf-8")
        if mutant.tests not in sound and (failure := find_failure(project, mutant.tests)):
            raise MutantError(f"without any mutant: {failure}")  # it would kill all of them
        sound.add(mutant.tests)
        path.write_text(mutant.apply(text), encoding="utf-8")
        failure = find_failure(project, mutant.tests)
        path.write_text(text, encoding="utf-8")
        survivors += [] if failure else [mutant]
        spent_s = time.monotonic() - started
        state = f"killed by {failure}" if failure else "SURVIVED"
        typer.echo(f"{number}/{len(mutants)} {mutant.name}, {spent_s:.0f} s: {state}")
    return survivors


def main(
    only: Annotated[list[str] | None, typer.Option(help="names that begin so (repeatable)")] = None,
) -> None:
    """Plant every mutant of the list; exit with 1 if one survives. Takes about half an hour."""
    mutants = [one for one in load_mutants() if one.name.startswith(tuple(only or [""]))]
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        survivors = plant(mutants, Path(folder))
    for mutant in survivors:
        typer.echo(f"survived: {mutant.name} in {mutant.path}")
    typer.echo(f"{len(mutants) - len(survivors)} of {len(mutants)} killed")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    typer.run(main)
