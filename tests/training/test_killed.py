"""A fine-tuning whose process is killed (SIGKILL) goes on where its newest checkpoint is."""

import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.weights import load_weights
from pipeline.training.finetune import finetune
from pipeline.training.prepare import prepare
from pipeline.training.session import Listener
from pipeline.training.settings import load_finetune_config
from tests.support.demo import ROOT, run_command
from tests.training.conftest import WriteRows, rows_of_demo

CONFIG = ROOT / "configs" / "finetune.yaml"
N_STEPS = 4


def settings(output: Path, rows: str) -> list[str]:
    """With dropout, masks and prompts that chance decides."""
    return [
        *(f"output={output}", f"data.train={rows}", "data.max_clip_s=10", "batch_s=10"),
        *("epochs=9", f"max_steps={N_STEPS}", "checkpoint_every=1", "dropout=0.1", "lr=0.001"),
    ]


def command(told: list[str]) -> list[str]:
    keys = [part for setting in told for part in ("--set", setting)]
    return [sys.executable, "-m", "jobs", "finetune", str(CONFIG), "--no-ray", *keys]


def kill_after_its_first_checkpoint(words: list[str], checkpoints: Path) -> None:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, cwd=ROOT, stdout=quiet, stderr=quiet)
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("checkpoint-*.pt")):
        assert process.poll() is None, "it ended before its first checkpoint"
        assert time.monotonic() < deadline, "it writes no checkpoint"
        time.sleep(0.005)
    process.kill()
    process.wait()


def steps_of(messages: str) -> list[int]:
    return [int(step) for step in re.findall(rf"step (\d+)/{N_STEPS} ", messages)]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_weights(resolve_model(str(path)), torch.device("cpu"))


def test_a_process_that_was_killed_is_started_again_and_ends_with_the_same_weights(
    kills: None, write_rows: WriteRows, tmp_path: Path
) -> None:
    """As one that was not killed, to the bit; the second start repeats no step."""
    rows = write_rows(rows_of_demo()[:2])
    words = command(settings(tmp_path / "killed", rows))
    checkpoints = tmp_path / "killed.checkpoints"
    kill_after_its_first_checkpoint(words, checkpoints)
    assert not (tmp_path / "killed").exists()
    done = max(int(path.stem.partition("-")[2]) for path in checkpoints.glob("checkpoint-*.pt"))

    resumed = run_command(words)
    assert resumed.returncode == 0, resumed.stderr
    assert steps_of(resumed.stderr) == list(range(done + 1, N_STEPS + 1))
    assert not list(checkpoints.glob("*"))

    torch.set_num_threads(1)  # as the processes, which take it from the environment (tests)
    whole = prepare(load_finetune_config(CONFIG, settings(tmp_path / "whole", rows)))
    finetune(whole, Listener(lambda step: None, lambda step, scores: None))
    again, expected = weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole")
    assert all(torch.equal(again[name], value) for name, value in expected.items())
