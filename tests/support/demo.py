"""The corpus and the model that the project ships, and where the workplace's larger ones lie."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.audio.windows import decode
from pipeline.config import AudioConfig, RunConfig, load_config
from pipeline.planning.plan import Plan
from pipeline.runs import execute as run
from pipeline.runs.progress import Outcome
from pipeline.stages.build import BuildStages, build_stages
from pipeline.stages.label import LabelSegments
from pipeline.stages.segment import FindSegments
from pipeline.tables.publisher import publish

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "demo"
MODEL = DEMO / "model"
AUDIO = DEMO / "audio"
SHARED = ROOT.parent / "shared"

ANYWHERE = "allowed_roots=[/, 's3://']"  # manifests of tests lie far from the audio they name

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared (full-size model, real speech) is not on this machine"
)

REFERENCES: list[dict[str, Any]] = [
    json.loads(line) for line in (AUDIO / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
]
SHORT = [row for row in REFERENCES if "ref_text" in row]
LONG = next(row for row in REFERENCES if "ref_segments" in row)
GOOD = [
    row for row in REFERENCES if row["recording_id"].partition("_")[0] not in ("long", "broken")
]

# How the references spell the labels of our tables.
_ABSTAIN = {"emo_unknown": "unknown", "event_unk": "unknown"}


# Other than configs/demo.yaml: the VAD sees short recordings, too, and words are where FunASR has
# them.
AS_TESTED = ("segment.whole_below_s=0", "label.word_times=peak")


def label_of(reference: str) -> str:
    name = reference.lower()
    return _ABSTAIN.get(name, name)


def demo_config(output: Path | str, *overrides: str) -> RunConfig:
    return load_config(
        ROOT / "configs" / "demo.yaml",
        [
            *(f"manifest={AUDIO / 'manifest.jsonl'}", f"model={MODEL}", f"output={output}"),
            # Tests name their lane.
            *(ANYWHERE, "ray.local=never", *AS_TESTED, *overrides),
        ],
    )


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSONL manifest of these rows, in `folder`."""
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def copies(n_copies: int) -> list[dict[str, Any]]:
    """Manifest rows: each short recording of the demo corpus `n_copies` times, with other ids."""
    return [
        {"audio": str(AUDIO / row["audio"]), "recording_id": f"{row['recording_id']}-{copy}"}
        for copy in range(n_copies)
        for row in GOOD
    ]


def execute(config: RunConfig, build: BuildStages | None = None) -> Outcome:
    return run.execute(config, lambda progress: None, build=build)


def label_here(config: RunConfig, build: BuildStages = build_stages) -> Plan:
    """The plan, the stages and the commit of a run, in this process: for tests of the rows.

    Runs on Ray and beside the driver start processes, each with torch, which takes seconds.
    """
    store, info = run.prepare(config)
    plan = run.plan_run(config, info, store)
    stages = build(config, info)
    find = FindSegments(partial(stages.load_vad, "cpu"), config.segment)
    label = LabelSegments(stages.load_model, config.label)
    if plan.n_todo:
        rows = [plan.todo.slice(index, 1) for index in range(plan.n_todo)]
        windows = pa.concat_tables(table for row in rows for table in stages.decode(row))
        stages.write(label(pa.concat_tables(find(windows))))
    publish(store, info)
    return plan


def label_command(output: Path, *overrides: str) -> list[str]:
    settings = [f"output={output}", "ray.local=never", *AS_TESTED, *overrides]
    if any(setting.startswith("manifest=") for setting in overrides):
        settings.insert(0, ANYWHERE)
    return [
        *(sys.executable, "-m", "jobs.label", str(ROOT / "configs" / "demo.yaml")),
        *(part for setting in settings for part in ("--set", setting)),
    ]


def run_command(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def waveform_of(path: Path) -> np.ndarray:
    """A whole file as int16 at 16 kHz, decoded as the pipeline does it."""
    windows = decode(str(path), AudioConfig(), {})
    return np.concatenate([window.waveform for window in windows])
