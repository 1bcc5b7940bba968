"""The benchmark measures what it says it measures. Nothing here depends on the machine's speed."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from jobs import benchmark
from pipeline.audio.windows import decode
from pipeline.benchmark import start_up
from pipeline.benchmark.clips import Place, write_clips
from pipeline.benchmark.contenders import list_contenders, make_config, summarise_loops
from pipeline.benchmark.corpus import synthesise
from pipeline.benchmark.loop import STAGES, Cost, Loop, Stopwatch
from pipeline.benchmark.model import count_flops
from pipeline.benchmark.process_tree import peak_bytes, watch_tree
from pipeline.config import AudioConfig, RunConfig
from pipeline.maintenance.verify import verify
from pipeline.manifest.read import read_manifest
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.model import SenseVoice
from pipeline.planning.costs import load_speeds
from pipeline.planning.speed_report import SpeedReport, SpeedSettings
from pipeline.schema import LFR_STEP, N_PROMPT_FRAMES, SAMPLE_RATE
from pipeline.storage.store import open_store
from tests.support.demo import AUDIO, MODEL, SHORT, run_command
from tests.support.s3_server import S3

CLIPS = [AUDIO / row["audio"] for row in SHORT[:4]]


def spin(seconds: float) -> str:
    return f"import time\nwhile time.process_time() < {seconds}: pass"


def settings_in(work: Path) -> SpeedSettings:
    return SpeedSettings(
        model=str(MODEL),
        vad="silero",
        files=(),
        device="cpu",
        clock="cpu_s",
        threads=1,
        repeats=1,
        batch_s=60.0,
        clips=20,
        work=str(work),
        exact="fp32",
    )


def test_a_stopwatch_adds_up_what_a_stage_costs() -> None:
    stopwatch = Stopwatch()
    for _ in range(2):
        with stopwatch("sleep"):
            time.sleep(0.05)
    assert stopwatch.costs["sleep"].wall_s >= 0.1
    assert stopwatch.costs["sleep"].cpu_s < 0.05


def test_the_difference_of_two_costs_is_a_cost() -> None:
    assert Cost(3.0, 5.0) - Cost(1.0, 2.0) == Cost(2.0, 3.0)


def test_cpu_and_memory_of_child_processes_are_counted() -> None:
    with watch_tree(every_s=0.02) as tree:
        subprocess.run([sys.executable, "-c", spin(0.5)], check=True)
    assert tree.cpu_s() >= 0.4
    assert tree.peak_bytes > 1 << 20


# A process and two children, each with the same 128 MiB. A read of a page makes it resident.
SHARED_MEMORY = """
import mmap, os, signal
from pipeline.benchmark.process_tree import ProcessTree
shared = mmap.mmap(-1, 128 << 20)
shared[::4096]
ready, write_end = os.pipe()
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        shared[::4096]
        os.write(write_end, b"x")
        signal.pause()
    children.append(child)
    os.read(ready, 1)
print(ProcessTree().peak_bytes >> 20)
for child in children:
    os.kill(child, signal.SIGKILL)
"""


def test_memory_that_processes_share_is_counted_once() -> None:
    done = run_command([sys.executable, "-c", SHARED_MEMORY])
    assert done.returncode == 0, done.stderr
    assert 128 < int(done.stdout) < 256


def test_contenders_run_in_the_order_that_peers_need() -> None:
    """FunASR and sherpa-onnx take the clips that the first of ours has kept."""
    names = list_contenders(["fp32", "int8"], ["sherpa-onnx", "funasr"], ray=True, scale=True)
    assert names[:5] == ["ours fp32", "ours int8", "funasr", "sherpa-onnx", "ray"]
    assert names[5:] == ["scale 1", "scale 2", "scale 4", "scale 8"]
    assert list_contenders(["bf16"], ["none"], ray=False, scale=False) == ["ours bf16"]
    assert list_contenders(["fp32", "bf16"], ["onnxruntime"], ray=False, scale=False) == [
        *("ours fp32", "ours bf16", "onnxruntime fp32")
    ]


def test_synthesised_audio_has_the_requested_length(tmp_path: Path) -> None:
    files = read_manifest(str(synthesise(tmp_path, CLIPS, seconds=120)), {}).table["uri"]
    durations_s = [soundfile.info(file).duration for file in files.to_pylist()]
    assert len(durations_s) == 2
    assert min(durations_s) >= 60


def test_the_same_audio_is_synthesised_every_time(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        synthesise(tmp_path / name, CLIPS, seconds=60)
        made.append((tmp_path / name / "00000.mp3").read_bytes())
    assert made[0] == made[1]


def test_the_loop_measures_each_stage_and_keeps_clips_with_their_text(tmp_path: Path) -> None:
    manifest = synthesise(tmp_path, CLIPS, seconds=60)
    config = RunConfig(
        manifest=str(manifest), output=str(tmp_path / "out"), model=str(MODEL), vad="silero"
    )
    result = Loop(config).run(n_kept_clips=3)
    assert list(result.stages) == list(STAGES)
    assert sum(cost.cpu_s for cost in result.stages.values()) <= result.total.cpu_s + 0.01
    assert 60 <= result.audio_s <= 66
    assert 0 < result.segment_s < result.audio_s
    assert len(result.kept_clips) == 3
    assert all(clip.rich_text.startswith("<|") for clip in result.kept_clips)
    assert all(clip.waveform.dtype == np.int16 for clip in result.kept_clips)
    settings = settings_in(tmp_path)
    speed = summarise_loops(settings, [result])
    path = tmp_path / "report.json"
    path.write_text(SpeedReport({}, settings, {"ours fp32": speed}).to_json())
    speeds = load_speeds(path)  # as jobs.plan reads it
    label_s = speed.stages_s.model + speed.stages_s.labels
    assert speeds.label_core == pytest.approx(result.audio_s / label_s)


def test_planning_is_measured_from_files_to_the_rows_to_do(tmp_path: Path) -> None:
    """One row in a hundred is not in the ledger. By default the command takes 10 million rows."""
    path = tmp_path / "cost.json"
    done = CliRunner().invoke(benchmark.app, ["planning", "--rows", "2000", "--json", str(path)])
    assert done.exit_code == 0, done.output
    cost = json.loads(path.read_text())
    assert (cost["n_manifest"], cost["n_ledger"], cost["n_todo"]) == (2000, 1980, 20)
    assert 0 < cost["peak_mib"] < 1024


@pytest.mark.usefixtures("patience")
def test_work_grows_with_the_corpus_and_memory_stops_growing(tmp_path: Path) -> None:
    """By counts, not by time; `jobs benchmark speed --scale` measures the time."""
    manifest = synthesise(tmp_path, CLIPS, seconds=60)
    files = [str(path) for path in manifest.parent.glob("*.mp3")]
    results, peaks = [], []
    for factor in (1, 8, 32):
        config = make_config(settings_in(tmp_path), "fp32", files * factor, f"times-{factor}")
        resources = config.ray.model_copy(update={"batch_audio_s": 60})
        results.append(Loop(config.model_copy(update={"ray": resources})).run())
        peaks.append(peak_bytes())
    once, often, _ = results
    assert often.audio_s == pytest.approx(8 * once.audio_s, rel=0.01)
    assert often.segment_s / often.audio_s == pytest.approx(once.segment_s / once.audio_s, rel=0.02)
    assert often.attention_fill == pytest.approx(once.attention_fill, rel=0.1)
    assert peaks[2] < 1.15 * peaks[1]  # for four times the audio; allocators still grow a little


def test_with_a_gpu_only_decoding_runs_on_the_cpu(tmp_path: Path) -> None:
    config = make_config(replace(settings_in(tmp_path), device="cuda"), "bf16", [], "n")
    assert config.label.device == "cuda"
    assert config.ray.segment_with_model
    assert (config.ray.num_gpus, config.ray.label_cpus) == (1, 0)


def test_one_worker_for_vad_and_model_gives_the_same_texts_as_two(tmp_path: Path) -> None:
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
        results.append(Loop(config).run(n_kept_clips=100))
    two_workers, one_worker = results
    texts, same_texts = ([clip.rich_text for clip in one.kept_clips] for one in results)
    assert texts == same_texts
    assert two_workers.segment_s == one_worker.segment_s > 0


@pytest.mark.parametrize("n_frames", [9, 150])
def test_counted_operations_equal_those_that_torch_counts(n_frames: int) -> None:
    """In bfloat16 and with short clips: torch cannot count oneDNN's matrix product of float32."""
    files = resolve_model(str(MODEL))
    model = SenseVoice(files, precision="bf16")
    n_tokens = len(model.vocabulary.pieces)
    with FlopCounterMode(display=False) as counter:
        model.transcribe([np.zeros((n_frames * LFR_STEP, 80), np.float32)], ["auto"], [True])
    tags = 2 * 128 * (6 + 9 + 12)  # three frames also go through the head of one kind of tag each
    counted = count_flops(files.config["encoder_conf"], n_tokens, [N_PROMPT_FRAMES + n_frames])
    assert counter.get_total_flops() == pytest.approx(counted + tags, rel=1e-4)


@pytest.mark.usefixtures("patience")
def test_the_model_alone_is_compared_with_a_matrix_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # of the converted model
    path = tmp_path / "cost.json"
    arguments = ["model", "--batch-s", "20", "--repeats", "1", "--device", "cpu", "--onnxruntime"]
    done = CliRunner().invoke(benchmark.app, [*arguments, "--json", str(path)])
    assert done.exit_code == 0, done.output
    report = json.loads(path.read_text())
    passes = report["passes"]
    one_clip = [(one["clip_s"], one["published_ms"]) for one in report["latencies"]]
    assert one_clip == [(3, 63), (5, 67), (10, 70)] * 5
    kinds = [(one["backend"], one["precision"]) for one in report["latencies"][::3]]
    assert kinds == [
        *(("torch", precision) for precision in ("fp32", "bf16", "int8")),
        *(("onnxruntime", precision) for precision in ("fp32", "int8")),
    ]
    assert all(one["wall_ms"] > 0 for one in report["latencies"])
    assert [one["precision"] for one in passes] == ["fp32", "bf16", "int8"]
    assert all(one["audio_s"] == 20 and one["real_time"] > 0 for one in passes)
    assert all(0 < one["of_matmul"] < 1 for one in passes)


@pytest.mark.parametrize(
    ("arguments", "reason"),
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
def test_an_option_that_cannot_be_measured_is_refused(arguments: list[str], reason: str) -> None:
    done = CliRunner().invoke(benchmark.app, arguments)
    assert done.exit_code != 0
    assert reason in done.output


@pytest.mark.usefixtures("patience")
def test_pages_of_the_explorer_are_measured_over_a_whole_output(tmp_path: Path) -> None:
    arguments = ["explore", "--segments", "2000", "--repeats", "1", "--folder", str(tmp_path)]
    done = CliRunner().invoke(benchmark.app, [*arguments, "--json", str(tmp_path / "pages.json")])
    assert done.exit_code == 0, done.output
    pages = [row["page"] for row in json.loads((tmp_path / "pages.json").read_text())]
    assert pages[:3] == ["open", "first page", "next page"]
    verdict = verify(open_store(str(tmp_path / "labels")))
    assert (verdict.problems, verdict.n_segments) == ([], 2000)


@pytest.mark.usefixtures("patience")
def test_a_service_is_measured_for_many_clients_and_for_one(tmp_path: Path) -> None:
    path = tmp_path / "loads.json"
    few = ["--clients", "8", "--requests", "16", "--set", "segment.whole_below_s=30"]
    done = CliRunner().invoke(benchmark.app, ["serve", *few, "--json", str(path)])
    assert done.exit_code == 0, done.output
    assert "8 clients to one" in done.output
    idle = re.search(r"ours, one at a time: (\S+) times the seconds in which", done.output)
    assert idle
    assert float(idle[1]) > 1
    one, many = json.loads(path.read_text())["loads"]
    assert (one["n_clients"], many["n_clients"]) == (1, 8)
    for load in (one, many):
        assert (load["n_requests"], load["n_failed"], load["n_clips"]) == (16, 0, 16)
        assert 0 < load["p50_s"] <= load["p95_s"] <= load["p99_s"] <= load["wall_s"]
        assert load["rtfx"] == pytest.approx(load["audio_s"] / load["wall_s"])
        assert 0 < load["model_s"] < load["wall_s"]
        assert load["cpu_s"] > 0
    assert one["clips_per_batch"] == 1 < many["clips_per_batch"]
    gain = many["requests_per_core_s"] / one["requests_per_core_s"]
    assert many["to_one_client"]["requests_per_core_s"] == pytest.approx(gain)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--set", "model=/no/model"], "the service did not start: refused: "),
        (["--audio", str(AUDIO / "broken_empty.wav")], "refused: "),
    ],
)
def test_a_service_that_cannot_be_measured_is_told(arguments: list[str], reason: str) -> None:
    done = CliRunner().invoke(benchmark.app, ["serve", "--requests", "1", *arguments])
    assert done.exit_code == 2
    assert reason in done.output


@pytest.mark.usefixtures("patience")
def test_a_benchmark_without_results_fails_with_the_reason(tmp_path: Path) -> None:
    arguments = ["speed", "--model", str(tmp_path), "--no-ray", "--peer", "none"]
    done = CliRunner().invoke(benchmark.app, [*arguments, "--precision", "fp32", "--seconds", "60"])
    assert done.exit_code == 1
    assert "ours fp32: " in done.output
    assert str(tmp_path) in done.output


def test_start_up_is_told_of_commands_that_label_nothing() -> None:
    """The demo on Ray takes half a minute; its lines are those of the benchmark itself."""
    told = start_up._measure("help", [sys.executable, "-c", spin(0.1)])
    assert (told.name, told.first_row_s) == ("help", 0.0)
    assert told.cpu_s > 0
    assert start_up.as_rows([told])[0][0] == "help"


def test_the_cost_of_short_recordings_is_measured_for_each_codec(tmp_path: Path) -> None:
    path = tmp_path / "clips.json"
    arguments = ["speed", "--clip-s", "0.3", "--recordings", "16", "--vad", "none", "--no-ray"]
    done = CliRunner().invoke(benchmark.app, [*arguments, "--json", str(path)])
    assert done.exit_code == 0, done.output
    costs = json.loads(path.read_text())["costs"]
    assert [(one["codec"], one["n_recordings"]) for one in costs] == [
        *(("wav", 16), ("flac", 16), ("mp3", 16), ("opus", 16))
    ]
    for one in costs:
        assert 0 < sum(one["stages_ms"].values()) <= one["cpu_ms"]
        assert one["n_bundles"] == 1  # 16 times 0.3 s
        assert one["publish_ms"] > 0


@pytest.mark.parametrize("codec", ["wav", "flac", "mp3", "opus"])
def test_made_clips_are_different_recordings_of_their_length(codec: str, s3: S3) -> None:
    place = Place(s3.new_bucket(), s3.storage_options)
    files = write_clips(place, f"1s.{codec}", codec, 1.0, 5)
    waveforms = [
        np.concatenate([window.waveform for window in decode(file, AudioConfig(), place.options)])
        for file in files
    ]
    assert all(len(one) == pytest.approx(SAMPLE_RATE, abs=1200) for one in waveforms)
    assert len({one.tobytes() for one in waveforms}) == 5


def test_shards_take_few_requests_where_loose_clips_take_many(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        benchmark.app,
        ["shards", "--clips", "40", "--latency-ms", "0", "--json", str(tmp_path / "x.json")],
    )
    assert done.exit_code == 0, done.output
    loose, shards = json.loads((tmp_path / "x.json").read_text())
    assert (loose["n_clips"], shards["n_clips"]) == (40, 40)
    assert (loose["n_objects"], shards["n_objects"]) == (40, 1)
    assert loose["n_requests"] == 3 * 40  # version, bytes, and whether the version is the same
    assert shards["n_requests"] <= 20
