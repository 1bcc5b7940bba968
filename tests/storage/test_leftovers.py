"""What dead writers leave is deleted, and nothing else."""

import os
from pathlib import Path

from pipeline.storage.leftovers import MARK, finish_directory, make_unfinished_directory, sweep
from pipeline.storage.store import LocalStore

OURS = f".c00000001-x.parquet.{'a1' * 16}.tmp"


def make_old(*paths: Path) -> None:
    for top in paths:
        for path in [*top.rglob("*"), top]:
            os.utime(path, (0, 0))


def test_an_old_unfinished_file_is_deleted(tmp_path: Path) -> None:
    (tmp_path / OURS).write_bytes(b"torn")
    assert LocalStore(str(tmp_path)).sweep(3600) == 0
    make_old(tmp_path / OURS)
    assert LocalStore(str(tmp_path)).sweep(3600) == 1
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_programs_stay(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("x")
    names = [".draft.tmp", ".x.tmp", f"x.{'a' * 32}.tmp", f".x.{'g' * 32}.tmp", ".notes.2024.tmp"]
    for name in names:
        (tmp_path / name).write_text("mine")
    (tmp_path / OURS).symlink_to(target)
    (tmp_path / ".cache.tmp").mkdir()
    (tmp_path / ".cache.tmp" / "file").write_text("mine")
    foreign = tmp_path / f".x.{'b' * 32}.tmp"
    foreign.mkdir()
    (foreign / "file").write_text("mine")
    make_old(*[path for path in tmp_path.iterdir() if not path.is_symlink()])
    before = sorted(tmp_path.rglob("*"))
    assert sweep(tmp_path, 3600) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_that_a_dead_writer_left_is_deleted_when_all_in_it_is_old(
    tmp_path: Path,
) -> None:
    staging = make_unfinished_directory(tmp_path / "export")
    (staging / "audio").mkdir()
    clip = staging / "audio" / "a.wav"
    clip.write_bytes(b"RIFF")
    make_old(staging)
    os.utime(clip)
    assert sweep(tmp_path, 3600) == 0, "its writer is at work"
    make_old(staging)
    assert sweep(tmp_path, 3600) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_complete_directory_has_no_mark(tmp_path: Path) -> None:
    staging = make_unfinished_directory(tmp_path / "export")
    (staging / "file").touch()
    finish_directory(staging, tmp_path / "export")
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["file"]
    assert MARK == ".unfinished"
