"""`label.align: text`: the manifest's words, placed in time; a changed text is new work."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.runs.execute import plan_run, prepare
from pipeline.tables import Snapshot, open_snapshot
from tests.support.demo import AUDIO, GOOD, demo_config, execute, write_manifest

SPOKEN = [row for row in GOOD if row.get("ref_text")][:3]


def config_for(folder: Path, rows: list[dict[str, Any]], *overrides: str) -> Any:
    manifest = write_manifest(folder, rows)
    settings = ("ray.local=always", f"manifest={manifest}", "segment.whole_below_s=30")
    return demo_config(folder / "out", *settings, *overrides)


def rows_of(snapshot: Snapshot, table: str) -> dict[str, Any]:
    return {row["recording_id"]: row for row in snapshot.read(table).to_pylist()}


@pytest.mark.usefixtures("patience")
def test_the_text_of_the_manifest_is_placed_and_a_bad_one_is_a_row(tmp_path: Path) -> None:
    recognised = tmp_path / "recognised"
    recognised.mkdir()
    rows = [
        {"recording_id": row["recording_id"], "audio": str(AUDIO / row["audio"])} for row in SPOKEN
    ]
    execute(config_for(recognised, rows))
    said = rows_of(open_snapshot(str(recognised / "out")), "transcripts")

    given = [row | {"text": said[row["recording_id"]]["text"]} for row in rows]
    given.append(rows[0] | {"recording_id": "long", "text": "two zero " * 200})
    given.append(rows[0] | {"recording_id": "none"})
    config = config_for(tmp_path, given, "label.align=text")
    outcome = execute(config)
    snapshot = open_snapshot(str(tmp_path / "out"))
    assert outcome.progress.n_errors == 2
    placed = rows_of(snapshot, "transcripts")
    # Given what it would say, the model says it in the same places.
    for name, row in placed.items():
        assert row["text"] == said[name]["text"]
        for ours, theirs in zip(row["words"], said[name]["words"], strict=True):
            assert ours["start_s"] == pytest.approx(theirs["start_s"], abs=0.13)
    recordings = rows_of(snapshot, "recordings")
    assert "needs" in recordings["long"]["error_message"]
    assert "is empty" in recordings["none"]["error_message"]
    for name in ("long", "none"):
        row = recordings[name]
        assert (row["error_stage"], row["error_type"]) == ("label", "BadText")
        spent_s = row["labelled_s"] + row["silence_s"] + row["failed_s"]
        assert spent_s == pytest.approx(row["duration_s"])

    assert outcome.run.fingerprint != prepare(config_for(recognised, rows))[1].fingerprint
    _, run = prepare(config)
    assert plan_run(config, run).n_todo == 0
    given[0]["text"] = "zero"
    again = config_for(tmp_path, given, "label.align=text")
    assert plan_run(again, run).todo["recording_id"].to_pylist() == [rows[0]["recording_id"]]
