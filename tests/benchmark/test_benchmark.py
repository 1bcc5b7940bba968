"""The benchmark's instruments: that they measure what they say, not how fast this machine is."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from jobs import benchmark
from pipeline.benchmark import contenders
from pipeline.benchmark.loop import STAGES, Cost, Loop, Stopwatch, peak_bytes, synthesise
from pipeline.benchmark.model import count_flops
from pipeline.benchmark.process_tree import watch_tree
from pipeline.config import RunConfig
from pipeline.manifest.read import read_manifest
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.model import SenseVoice
from pipeline.planning.costs import load_speeds
from pipeline.schema import LFR_STEP, N_PROMPT_FRAMES
from tests.support.demo import AUDIO, MODEL, SHORT

CLIPS = [AUDIO / row["audio"] for row in SHORT[:4]]


def spin(seconds: float) -> str:
    return f"import time\nwhile time.process_time() < {seconds}: pass"


def test_a_stopwatch_adds_up_what_a_stage_costs() -> None:
    stopwatch = Stopwatch()
    for _ in range(2):
        with stopwatch("sleep"):
            time.sleep(0.05)
    assert stopwatch.costs["sleep"].wall_s >= 0.1
    assert stopwatch.costs["sleep"].cpu_s < 0.05


def test_costs_can_be_taken_from_one_another() -> None:
    assert Cost(3.0, 5.0) - Cost(1.0, 2.0) == Cost(2.0, 3.0)


def test_what_child_processes_use_is_counted() -> None:
    with watch_tree(every_s=0.02) as tree:
        subprocess.run([sys.executable, "-c", spin(0.5)], check=True)
    assert tree.cpu_s() >= 0.4
    assert tree.peak_bytes > 1 << 20


def test_made_audio_is_as_long_as_asked(tmp_path: Path) -> None:
    files = read_manifest(str(synthesise(tmp_path, CLIPS, seconds=120)), {}).table["uri"]
    durations_s = [soundfile.info(file).duration for file in files.to_pylist()]
    assert len(durations_s) == 2
    assert min(durations_s) >= 60


def test_the_same_audio_is_made_every_time(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        synthesise(tmp_path / name, CLIPS, seconds=60)
        made.append((tmp_path / name / "00000.mp3").read_bytes())
    assert made[0] == made[1]


def test_the_bare_loop_accounts_for_its_stages_and_keeps_clips_with_their_text(
    tmp_path: Path,
) -> None:
    manifest = synthesise(tmp_path, CLIPS, seconds=60)
    config = RunConfig(
        manifest=str(manifest), output=str(tmp_path / "out"), model=str(MODEL), vad="silero"
    )
    result = Loop(config).walk(n_heard=3)
    assert list(result.stages) == list(STAGES)
    assert sum(cost.cpu_s for cost in result.stages.values()) <= result.total.cpu_s + 0.01
    assert 60 <= result.audio_s <= 66
    assert 0 < result.segment_s < result.audio_s
    assert len(result.heard) == 3
    assert all(heard.rich_text.startswith("<|") for heard in result.heard)
    assert all(heard.waveform.dtype == np.int16 for heard in result.heard)
    summary = contenders._summary({"clock": "cpu_s"}, [result])
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"device": "cpu", "results": {"ours fp32": summary}}))
    speeds = load_speeds(report)  # what jobs.plan makes of it
    assert speeds.label_core == pytest.approx(
        result.audio_s / (summary["stages_s"]["model"] + summary["stages_s"]["labels"])
    )


def test_planning_is_measured_from_files_to_the_rows_to_do(tmp_path: Path) -> None:
    """One row in a hundred is not in the ledger. Ten million rows: `jobs.benchmark planning`."""
    path = tmp_path / "cost.json"
    done = CliRunner().invoke(benchmark.app, ["planning", "--rows", "2000", "--json", str(path)])
    assert done.exit_code == 0, done.output
    cost = json.loads(path.read_text())
    assert (cost["n_manifest"], cost["n_ledger"], cost["n_todo"]) == (2000, 1980, 20)
    assert 0 < cost["peak_mib"] < 1024


def test_work_grows_with_the_corpus_and_memory_comes_to_rest(tmp_path: Path) -> None:
    """Counted, not timed: `jobs.benchmark speed --scale` has the seconds."""
    manifest = synthesise(tmp_path, CLIPS, seconds=60)
    files = [str(path) for path in manifest.parent.glob("*.mp3")]
    spec = {
        "model": str(MODEL),
        "vad": "silero",
        "work": str(tmp_path),
        "batch_s": 60,
        "threads": 1,
        "device": "cpu",
    }
    walks, peaks = [], []
    for factor in (1, 8, 32):
        config = contenders._config(spec, "fp32", files * factor, f"times-{factor}")
        resources = config.ray.model_copy(update={"batch_audio_s": 60})
        walks.append(Loop(config.model_copy(update={"ray": resources})).walk())
        peaks.append(peak_bytes())
    once, often, _ = walks
    assert often.audio_s == pytest.approx(8 * once.audio_s, rel=0.01)
    assert often.segment_s / often.audio_s == pytest.approx(once.segment_s / once.audio_s, rel=0.02)
    assert often.attention_fill == pytest.approx(once.attention_fill, rel=0.1)
    assert peaks[2] < 1.15 * peaks[1]  # four times the audio; allocators settle slowly


def test_of_a_gpu_all_but_decoding_is_asked(tmp_path: Path) -> None:
    spec = {"model": "m", "vad": "v", "work": str(tmp_path), "batch_s": None, "threads": 1}
    config = contenders._config(spec | {"device": "cuda"}, "bf16", [], "n")
    assert config.label.device == "cuda"
    assert config.ray.segment_with_model
    assert (config.ray.num_gpus, config.ray.label_cpus) == (1, 0)


def test_the_loop_may_hear_in_one_worker_as_on_a_gpu(tmp_path: Path) -> None:
    manifest = synthesise(tmp_path, CLIPS, seconds=60)
    results = []
    for together in (False, True):
        config = RunConfig.model_validate(
            {
                "manifest": str(manifest),
                "output": str(tmp_path / f"out-{together}"),
                "model": str(MODEL),
                "vad": "silero",
                "label": {"device": "cpu"},
                "ray": {"segment_with_model": together},
            }
        )
        results.append(Loop(config).walk(n_heard=100))
    apart, together_ = results
    assert [one.rich_text for one in apart.heard] == [one.rich_text for one in together_.heard]
    assert apart.segment_s == together_.segment_s > 0


@pytest.mark.parametrize("n_frames", [9, 150])
def test_flops_are_those_that_torch_counts(n_frames: int) -> None:
    """In bfloat16, and with short clips: torch does not know how to count oneDNN's product."""
    files = resolve_model(str(MODEL))
    model = SenseVoice(files, precision="bf16")
    n_tokens = len(model.vocabulary.pieces)
    with FlopCounterMode(display=False) as counter:
        model.transcribe([np.zeros((n_frames * LFR_STEP, 80), np.float32)], ["auto"], True)
    tags = 2 * 128 * (6 + 9 + 12)  # three frames are asked once more, for a kind of tag each
    counted = count_flops(files.config["encoder_conf"], n_tokens, [N_PROMPT_FRAMES + n_frames])
    assert counter.get_total_flops() == pytest.approx(counted + tags, rel=1e-4)


def test_the_model_alone_is_held_against_the_devices_own_product(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    arguments = ["model", "--batch-s", "20", "--repeats", "1", "--device", "cpu"]
    done = CliRunner().invoke(benchmark.app, [*arguments, "--json", str(path)])
    assert done.exit_code == 0, done.output
    passes = json.loads(path.read_text())["passes"]
    assert [one["precision"] for one in passes] == ["fp32", "bf16", "int8"]
    assert all(one["audio_s"] == 20 and one["real_time"] > 0 for one in passes)
    assert all(0 < one["of_matmul"] < 1 for one in passes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model", "--precision", "fp8", "--device", "cpu"], "use fp32, bf16, int8 on cpu"),
        (["model", "--device", "tpu"], "'auto', 'cpu', 'cuda'"),
        (["speed", "--device", "auto"], "'cpu', 'cuda'"),
        pytest.param(
            ["model", "--device", "cuda"],
            "torch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_what_cannot_be_measured_is_named(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(benchmark.app, arguments)
    assert done.exit_code != 0
    assert said in done.output


def test_a_benchmark_of_nothing_says_why_and_fails(tmp_path: Path) -> None:
    arguments = ["speed", "--model", str(tmp_path), "--no-ray", "--peer", "none"]
    done = CliRunner().invoke(benchmark.app, [*arguments, "--precision", "fp32", "--seconds", "60"])
    assert done.exit_code == 1
    assert "ours fp32: " in done.output
    assert str(tmp_path) in done.output
