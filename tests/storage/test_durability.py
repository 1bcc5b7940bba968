"""When a local write is safe: the file on disk before its name, the directory after it."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.store import LocalStore

Write = Callable[[LocalStore, str, bytes], object]
WRITES = pytest.mark.parametrize(
    ("write", "naming"), [(LocalStore.put, "replace"), (LocalStore.put_if_absent, "link")]
)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the store asks of the operating system, in order."""
    seen: list[str] = []

    def watch(name: str, describe: Callable[..., str]) -> None:
        function = getattr(os, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            seen.append(describe(*arguments))
            return function(*arguments, **options)

        monkeypatch.setattr(os, name, watched)

    def synced(descriptor: int) -> str:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        return (
            f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}"
            if (is_directory)
            else f"sync file of {os.fstat(descriptor).st_size} bytes"
        )

    watch("fsync", synced)
    for name in ("replace", "rename", "link"):
        watch(name, lambda source, target, name=name: f"{name} to {Path(target).name}")
    return seen


@WRITES
def test_a_file_is_synced_before_its_name_and_its_directory_after(
    tmp_path: Path, steps: list[str], write: Write, naming: str
) -> None:
    (tmp_path / "log").mkdir()
    write(LocalStore(str(tmp_path)), "log/1", b"four")
    assert steps == ["sync file of 4 bytes", f"{naming} to 1", "sync log"]
    assert (tmp_path / "log" / "1").read_bytes() == b"four"


@WRITES
def test_a_write_leaves_no_second_name(tmp_path: Path, write: Write, naming: str) -> None:
    write(LocalStore(str(tmp_path)), "log/1", b"four")
    assert [path.name for path in tmp_path.rglob("*")] == ["log", "1"]
    assert (tmp_path / "log" / "1").stat().st_nlink == 1
