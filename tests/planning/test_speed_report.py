"""The report of `jobs benchmark speed`: its JSON, and the speeds that planning takes from it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.planning.costs import Speeds, load_speeds
from pipeline.planning.speed_report import (
    Failure,
    FunAsrSpeed,
    Least,
    LoopSpeed,
    Speed,
    SpeedReport,
    SpeedSettings,
    StageSeconds,
)

# As commit 21a289c wrote it, before there was a class for it; without funasr's result.
OLD_REPORT = """{
 "machine": {
  "cpu": "AMD EPYC",
  "cores": 2
 },
 "model": "configs/demo/model",
 "vad": "silero",
 "files": [
  "/tmp/sensevoice-benchmark-hq9i58hf/audio/00000.mp3"
 ],
 "device": "cpu",
 "clock": "cpu_s",
 "threads": 1,
 "repeats": 1,
 "batch_s": null,
 "clips": 20,
 "work": "/tmp/sensevoice-benchmark-hq9i58hf",
 "exact": "fp32",
 "results": {
  "ours fp32": {
   "audio_s": 64.0,
   "cpu_s": 0.097,
   "wall_s": 0.114,
   "least": {
    "cpu_s": 0.097,
    "wall_s": 0.114
   },
   "peak_bytes": 1040908288,
   "stages_s": {
    "decode": 0.016,
    "features": 0.008,
    "vad": 0.024,
    "model": 0.0625,
    "labels": 0.0015,
    "write": 0.004
   },
   "segment_s": 21.86,
   "n_segments": 10,
   "attention_fill": 0.7125
  },
  "sherpa-onnx": {
   "error": "sherpa_onnx, onnx not installed: uv sync --extra bench"
  }
 }
}
"""

SETTINGS = SpeedSettings(
    model="m",
    vad="silero",
    files=("/a.wav",),
    device="cpu",
    clock="cpu_s",
    threads=1,
    repeats=3,
    batch_s=60.0,
    clips=20,
    work="/tmp/x",
    exact="fp32",
)
LEAST = Least(cpu_s=100.0, wall_s=101.0)
STAGES_S = StageSeconds(decode=2.0, features=0.5, vad=3.5, model=90.0, labels=10.0, write=1.0)
OURS = LoopSpeed(
    audio_s=1000.0,
    cpu_s=107.0,
    wall_s=108.0,
    least=LEAST,
    peak_bytes=1 << 30,
    stages_s=STAGES_S,
    segment_s=600.0,
    n_segments=90,
    attention_fill=0.7,
)
RAY = Speed(audio_s=2000.0, cpu_s=220.0, wall_s=120.0, least=LEAST, peak_bytes=2 << 30)
FUNASR = FunAsrSpeed(
    audio_s=1000.0,
    cpu_s=300.0,
    wall_s=300.0,
    least=LEAST,
    peak_bytes=1 << 30,
    n_compared=20,
    n_equal=20,
    vad="",
)
REPORT = SpeedReport(
    machine={"cpu": "AMD EPYC", "cores": 2},
    settings=SETTINGS,
    results={
        "ours bf16": replace(OURS, stages_s=replace(STAGES_S, model=40.0)),
        "ours fp32": OURS,
        "ours int8": Failure("no int8 here"),
        "ray": RAY,
        "funasr": FUNASR,
        "scale 2": OURS,
    },
)


def write(path: Path, report: SpeedReport) -> Path:
    path.write_text(report.to_json(), encoding="utf-8")
    return path


def test_a_report_is_read_as_it_was_written() -> None:
    read = SpeedReport.from_json(REPORT.to_json())
    assert read == REPORT
    assert {name: type(result) for name, result in read.results.items()} == {
        name: type(result) for name, result in REPORT.results.items()
    }


def test_an_old_report_has_the_same_keys_and_layout() -> None:
    report = SpeedReport.from_json(OLD_REPORT)
    assert isinstance(report.results["sherpa-onnx"], Failure)
    assert report.to_json() == OLD_REPORT


def test_unknown_keys_of_a_report_are_ignored() -> None:
    facts = json.loads(OLD_REPORT)
    facts["future"] = facts["results"]["ours fp32"]["future"] = 1
    assert SpeedReport.from_json(json.dumps(facts)) == SpeedReport.from_json(OLD_REPORT)


def test_only_successful_loops_count_as_ours() -> None:
    assert list(REPORT.ours) == ["bf16", "fp32"]


@pytest.mark.parametrize(
    ("settings", "speeds"),
    [
        (SETTINGS, Speeds(decode=500, segment=250, label_core=10)),
        (
            replace(SETTINGS, device="cuda", clock="wall_s"),
            Speeds(decode=500, label_gpu=1000 / 104),
        ),
    ],
    ids=["cpu", "cuda"],
)
def test_a_report_replaces_the_default_speeds(
    settings: SpeedSettings, speeds: Speeds, tmp_path: Path
) -> None:
    path = write(tmp_path / "benchmark.json", replace(REPORT, settings=settings))
    assert load_speeds(path) == speeds


def test_without_fp32_the_first_precision_gives_the_speeds(tmp_path: Path) -> None:
    results = {name: result for name, result in REPORT.results.items() if name != "ours fp32"}
    path = write(tmp_path / "benchmark.json", replace(REPORT, results=results))
    assert load_speeds(path).label_core == 1000 / 50


def without(*keys: str) -> str:
    facts = json.loads(OLD_REPORT)
    inner = facts
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return json.dumps(facts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "report: Input should be a valid dictionary"),
        ("{}", "results: Input should be a valid dictionary"),
        ("no json", "Expecting value"),
        (without("device"), "settings.device: Field required"),
        (without("results", "ours fp32"), 'no successful result named "ours PRECISION"'),
        (without("results", "ours fp32", "stages_s", "vad"), "ours fp32.stages_s.vad: Field"),
        (OLD_REPORT.replace('"decode": 0.016', '"decode": 0'), "division by zero"),
    ],
)
def test_a_file_without_speeds_is_refused_with_its_reason(
    text: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "benchmark.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"benchmark\.json: no speeds in it") as refusal:
        load_speeds(path)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_report_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_speeds(tmp_path / "benchmark.json")
