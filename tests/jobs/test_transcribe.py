"""`transcribe`: the labels of single files are those of the tables."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from typer.testing import CliRunner, Result

from jobs.__main__ import app
from pipeline.config import RunConfig
from pipeline.runs.execute import plan_run, prepare
from pipeline.stages.build import build_stages
from pipeline.stages.label import LabelSegments
from pipeline.stages.segment import FindSegments
from pipeline.tables import Snapshot, open_snapshot
from pipeline.tables.publisher import publish
from tests.support.demo import AUDIO, MODEL, ROOT, demo_config, waveform_of, write_manifest

NAMES = ("en_sad", "zh_angry")
FILES = [str(next(AUDIO.glob(f"{name}.*"))) for name in NAMES]
TOY = ("--model", str(MODEL), "--vad", "silero")


def invoke(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["transcribe", *arguments])


@pytest.fixture(scope="module")
def files() -> list[dict[str, Any]]:
    """What the command prints as JSON for two files of the demo corpus and one that is broken."""
    config = str(ROOT / "configs" / "demo.yaml")
    done = invoke(*FILES, str(AUDIO / "broken_empty.wav"), "--config", config, "--json")
    assert done.exit_code == 3, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["files"]
    return found


def label_without_ray(config: RunConfig) -> Snapshot:
    """The tables of a configuration, by the stages of a run one after the other."""
    store, info = prepare(config)
    stages = build_stages(config, info)
    find = FindSegments(partial(stages.load_vad, "cpu"), config.segment)
    label = LabelSegments(stages.load_model, config.label)
    for window in stages.decode(plan_run(config, info).todo):
        stages.write(pa.concat_tables(label(found) for found in find(window)))
    publish(store, info, make_current=True)
    return open_snapshot(config.output)


def texts_of(snapshot: Snapshot, names: tuple[str, ...] = NAMES) -> dict[str, list[str]]:
    rows = snapshot.read("transcripts").sort_by("segment_id").to_pylist()
    return {name: [row["text"] for row in rows if row["recording_id"] == name] for name in names}


def test_the_texts_are_those_of_the_tables(files: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [{"audio": file, "recording_id": name} for file, name in zip(FILES, NAMES, strict=True)]
    manifest = write_manifest(tmp_path, rows)
    snapshot = label_without_ray(demo_config(tmp_path / "out", f"manifest={manifest}"))
    printed = [[segment["text"] for segment in one["segments"]] for one in files[:2]]
    assert printed == list(texts_of(snapshot).values())
    assert all("".join(texts) for texts in printed)


def test_the_texts_are_those_of_a_run_on_ray(
    files: list[dict[str, Any]], labelled: Snapshot
) -> None:
    printed = [[segment["text"] for segment in one["segments"]] for one in files[:2]]
    assert printed == list(texts_of(labelled).values())


def test_a_segment_without_text_has_no_confidence() -> None:
    """It is null in the tables, too: a 0 would count in every mean."""
    config = str(ROOT / "configs" / "demo.yaml")  # short clips go to the model whole
    file = str(AUDIO / "event_applause.opus")
    (printed,) = json.loads(invoke(file, "--config", config, "--json").stdout)["files"]
    (segment,) = printed["segments"]
    assert (segment["text"], segment["confidence"]) == ("", None)
    shown = invoke(file, "--config", config).stdout
    assert "[applause]" in shown
    assert "0.00 " not in shown.partition("nospeech")[2]


def test_json_has_the_labels_and_the_error_columns(files: list[dict[str, Any]]) -> None:
    good, _, broken = files
    assert good["segments"][0]["emotion"] == "sad"
    assert (good["error_stage"], broken["error_stage"]) == ("", "decode")
    assert (broken["error_type"], broken["segments"]) == ("EmptyFile", [])


def test_a_failed_file_is_an_error_with_advice_and_exit_code_3(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.wav")
    done = invoke(FILES[0], missing, *TOY)
    assert done.exit_code == 3
    assert f"{missing}: decode: FileMissing: " in done.stderr
    assert "-> Check the paths in the manifest" in done.stderr
    assert "en       sad" in done.stdout


def test_captions_of_one_file_are_printed() -> None:
    srt, vtt = (invoke(FILES[0], flag, *TOY) for flag in ("--srt", "--vtt"))
    assert srt.stdout.startswith("1\n00:00:0")
    assert vtt.stdout.startswith("WEBVTT\n\nen_sad-000000\n00:00:0")
    assert (srt.exit_code, srt.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([*FILES, "--srt"], "captions are printed for one FILE"),
        ([FILES[0], "--srt", "--json"], "choose one of"),
        ([FILES[0], "--model", "./nowhere"], "no such directory"),
        ([FILES[0], "--language", "english", *TOY], "did you mean 'en'"),
    ],
)
def test_a_wrong_command_is_refused(arguments: list[str], reason: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert reason in done.stderr


def test_a_model_that_cannot_be_fetched_is_refused_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    done = invoke(FILES[0])
    assert done.exit_code == 2
    assert "--model configs/demo/model --vad silero" in done.stderr


def test_a_call_has_the_channel_of_each_segment(tmp_path: Path) -> None:
    samples = [waveform_of(Path(file)) for file in FILES]
    length = max(map(len, samples))
    path = tmp_path / "call.wav"
    both = [np.pad(one, (0, length - len(one))) for one in samples]
    soundfile.write(path, np.stack(both, axis=1), 16_000)
    config = str(ROOT / "configs" / "demo.yaml")
    split = ("--set", "audio.channels=split", "--set", "segment.whole_below_s=0")
    done = invoke(str(path), "--config", config, *split, "--json")
    (file,) = json.loads(done.stdout)["files"]
    assert {one["channel"] for one in file["segments"]} == {1, 2}
    assert file["duration_s"] == pytest.approx(length / 16_000)
    done = invoke(str(path), "--config", config, *split, "--srt")
    assert "\nChannel 1: " in done.stdout
    assert "\nChannel 2: " in done.stdout
