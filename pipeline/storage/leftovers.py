"""Names of unfinished local files and directories, and deleting what a dead writer left of them.

Knows nothing of their content. An unfinished file is `.NAME.{32 hex digits}.tmp`, beside the file
that it becomes. An unfinished directory has such a name, too, and holds the file MARK until it is
complete. So files of other programs are left alone, also `.draft.tmp` and `.cache.tmp/`.
"""

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

MARK = ".unfinished"

_NAME = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def unfinished(path: Path) -> Path:
    """A new name beside `path` for what will become `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def make_unfinished_directory(path: Path) -> Path:
    """A new directory beside `path`; `finish_directory` gives it the name `path`."""
    staging = unfinished(path)
    staging.mkdir(parents=True)
    (staging / MARK).touch()
    return staging


def finish_directory(staging: Path, path: Path) -> None:
    """Rename a complete directory; replaces an empty one. OSError if `path` has files."""
    (staging / MARK).unlink(missing_ok=True)
    staging.replace(path)


def sweep(root: Path, older_s: float) -> int:
    """Delete unfinished files and directories below `root` in which nothing changed for `older_s`.

    Returns how many. Does not follow links.
    """
    n_deleted = 0
    for path in list(_unfinished_below(root)):
        if time.time() - _changed_s(path) <= older_s:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        n_deleted += 1
    return n_deleted


def _unfinished_below(root: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(root):
        ours = [
            name
            for name in folders
            if _NAME.fullmatch(name) and Path(directory, name, MARK).is_file()
        ]
        folders[:] = [name for name in folders if name not in ours]
        yield from (Path(directory, name) for name in ours)
        paths = (Path(directory, name) for name in files if _NAME.fullmatch(name))
        yield from (path for path in paths if not path.is_symlink() and path.is_file())


def _changed_s(path: Path) -> float:
    """When the path, or anything in it, was last changed; now, if it has just gone."""
    inside = (Path(directory, name) for directory, folders, files in os.walk(path)
              for name in (*folders, *files))  # fmt: skip
    try:
        return max(one.lstat().st_mtime for one in (path, *inside))
    except FileNotFoundError:  # its writer finished in the meantime
        return time.time()
