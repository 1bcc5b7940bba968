"""Checkpoints of a fine-tuning: nothing of them is left when it has ended."""

from pathlib import Path

from pipeline.storage.leftovers import unfinished
from pipeline.storage.store import open_store
from pipeline.training.checkpoints import Checkpoints


def test_what_a_killed_worker_had_not_finished_goes_with_the_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(open_store(str(tmp_path)), "identity")
    checkpoints.save(1, {})
    unfinished(tmp_path / "weights-000000001.pt").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("of somebody else")
    assert len(list(tmp_path.iterdir())) == 3
    checkpoints.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
