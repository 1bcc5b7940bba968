"""`init` and `plan`: a configuration for a corpus, what it costs, and what would fail."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.__main__ import app
from pipeline.config import RayConfig, describe_fields, load_config
from pipeline.planning.costs import MachineHours, Prices, wall_hours
from pipeline.planning.machine import Machine, available_cores, this_machine
from pipeline.planning.suggest import suggest, to_yaml
from pipeline.planning.survey import Estimate, Survey
from tests.support.demo import AUDIO

GIB = 1 << 30


def invoke(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, arguments)


def survey(seconds: float = 3.6e6, longest_s: float = 600.0) -> Survey:
    size = Estimate(seconds, seconds, seconds)
    nothing = Estimate(0.0, 0.0, 0.0)
    return Survey(200, size, nothing, longest_s, 60.0, {}, {}, {})


def values(machine: Machine, found: Survey) -> dict[str, object]:
    settings = suggest("/data", "/labels", machine, found, {})
    return {one.key: one.value for one in settings if not one.only_shown}


def test_a_config_is_written_and_planned(tmp_path: Path) -> None:
    target = tmp_path / "my.yaml"
    done = invoke("init", str(AUDIO), "-o", str(target), "--price", "0.05")
    assert done.exit_code == 0, done.output
    config = load_config(target)
    assert config.manifest == str(AUDIO)
    assert Path(config.output).is_absolute()
    for text in (f"wrote {target}", "20 recordings", "core-seconds", "wall time", "price"):
        assert text in done.stdout
    assert f"jobs label {target}" in done.stdout
    lines = target.read_text(encoding="utf-8").splitlines()
    keys = [line for line in lines if line[0] != "#" and not line.endswith(":")]
    assert all(" # " in line for line in keys)
    assert list(tmp_path.iterdir()) == [target]


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "my.yaml"
    target.write_text("mine")
    done = invoke("init", str(AUDIO), "-o", str(target))
    assert (done.exit_code, target.read_text()) == (2, "mine")
    assert "exists; name another file" in done.stderr


def test_a_corpus_that_cannot_be_read_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    done = invoke("init", str(tmp_path / "none.csv"), "-o", str(tmp_path / "my.yaml"), "--json")
    assert done.exit_code == 2
    assert "none.csv" in json.loads(done.stdout)["error"]
    assert list(tmp_path.iterdir()) == []


def test_storage_options_and_tables_are_written(tmp_path: Path) -> None:
    target = tmp_path / "my.yaml"
    flags = ["--tables", "s3://bucket/labels", "--set", "endpoint_url=http://127.0.0.1:1"]
    done = invoke("init", str(AUDIO), "-o", str(target), *flags, "--json")
    config = load_config(target)
    assert config.output == "s3://bucket/labels"
    assert config.storage_options == {"endpoint_url": "http://127.0.0.1:1"}
    facts = json.loads(done.stdout)
    assert (facts["config"], facts["n_todo"], facts["price"]) == (str(target), 20, None)


def test_workers_fit_the_cores_and_the_memory() -> None:
    big = values(Machine(64, 256 * GIB), survey())
    assert (big["ray.label_workers"], big["ray.segment_workers"]) == (60, 3)
    tight = values(Machine(64, 16 * GIB), survey())
    assert tight["ray.label_workers"] == 4
    small = values(Machine(2, 4 * GIB), survey())
    assert (small["ray.label_workers"], small["ray.segment_workers"]) == (1, 1)


def test_a_machine_with_gpus_uses_them() -> None:
    found = values(Machine(8, 64 * GIB, n_gpus=2), survey())
    assert (found["ray.num_gpus"], found["ray.label_workers"], found["ray.label_cpus"]) == (1, 2, 0)
    assert found["ray.segment_workers"] == 4


def test_workers_share_a_gpu_where_there_are_cores_for_them() -> None:
    found = values(Machine(32, 128 * GIB, n_gpus=2), survey())
    assert (found["ray.num_gpus"], found["ray.label_workers"]) == (0.25, 8)
    assert values(Machine(10, 64 * GIB, n_gpus=1), survey())["ray.num_gpus"] == 0.5


def test_a_cpu_gets_the_engine_that_was_faster_on_its_kind() -> None:
    """ONNX Runtime in int8 as a comment where there is no AVX-512, with how to try it."""
    old, new, other, gpu = (
        {one.key: one for one in suggest("/data", "/labels", machine, survey(), {})}
        for machine in (
            Machine(8, 32 * GIB, vectors="AVX2"),
            Machine(8, 32 * GIB, vectors="AVX-512"),
            Machine(8, 32 * GIB),
            Machine(8, 32 * GIB, vectors="AVX2", n_gpus=1),
        )
    )
    engine, precision = old["label.backend"], old["label.precision"]
    assert (engine.value, precision.value) == ("onnxruntime", "int8")
    assert engine.only_shown and precision.only_shown
    assert "python -m jobs convert iic/SenseVoiceSmall -o out/onnx --int8" in engine.reason
    assert (new["label.backend"].value, new["label.backend"].only_shown) == ("torch", False)
    assert not {"label.backend", "label.precision"} & (other.keys() | gpu.keys())


def test_the_suggested_engine_is_a_config_once_its_comments_are_removed(tmp_path: Path) -> None:
    text = to_yaml(suggest("/d", "/l", Machine(8, GIB, vectors="AVX2"), survey(), {}), "title")
    path = tmp_path / "run.yaml"
    path.write_text(text.replace("  # ", "  "), encoding="utf-8")
    label = load_config(path).label
    assert (label.backend, label.precision) == ("onnxruntime", "int8")


def test_a_small_corpus_gets_small_pieces_of_work() -> None:
    assert values(Machine(2, 8 * GIB), survey(seconds=159))["ray.batch_audio_s"] == 40
    assert values(Machine(2, 8 * GIB), survey())["ray.batch_audio_s"] == 600


@pytest.mark.parametrize(
    "machine",
    [
        Machine(8, 32 * GIB, "amx_bf16", "AVX-512"),
        Machine(8, 32 * GIB, vectors="AVX2"),
        Machine(8, GIB, n_gpus=1),
    ],
)
def test_a_suggestion_is_a_config_with_known_keys(machine: Machine, tmp_path: Path) -> None:
    settings = suggest("/data: 1 # x", "s3://b/l", machine, survey(longest_s=8), {"anon": True})
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(settings, "title"), encoding="utf-8")
    config = load_config(path)
    assert (config.manifest, config.label.backend) == ("/data: 1 # x", "torch")
    assert {one.key for one in settings} <= {key for key, _, _ in describe_fields()}
    assert ("# precision: bf16" in path.read_text()) == bool(machine.bf16)


def test_a_container_has_the_cores_of_its_quota(tmp_path: Path) -> None:
    all_cores = available_cores(tmp_path)
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert available_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert available_cores(tmp_path) == all_cores
    assert this_machine().memory_bytes > 1 << 28


def test_the_slowest_stage_decides_the_time_on_the_clock() -> None:
    cost = MachineHours(2.0, 4.0, 100.0, 0.0)
    assert wall_hours(cost, RayConfig(label_workers=10)) == 10
    assert wall_hours(cost, RayConfig(label_workers=10), n_cores=4) == 26.5
    assert wall_hours(cost, RayConfig(label_workers=50)) == 4
    on_gpu = MachineHours(2.0, 4.0, 0.0, 10.0)
    shared = RayConfig(num_gpus=0.5, label_workers=2, label_cpus=0, segment_workers=9)
    assert wall_hours(on_gpu, shared) == 10


def test_a_price_needs_all_its_parts() -> None:
    on_gpu = MachineHours(2.0, 4.0, 0.0, 10.0)
    assert Prices(0.5, 2.0).of(on_gpu) == 23
    assert Prices(0.5).of(on_gpu) is None
    assert Prices(0.5).of(MachineHours(2.0, 4.0, 100.0, 0.0)) == 53


# --------------------------------------------------------------------------- plan


def test_a_plan_shows_an_example_of_each_error_with_its_remedy(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("audio,language\n/etc/passwd,\nnope.wav,\na.wav,english\n")
    done = invoke("plan", str(manifest))
    assert done.exit_code == 1
    for text in (
        "NotAllowed 1, e.g. /etc/passwd: ",
        "-> Add the directory or bucket to allowed_roots.",
        f"FileMissing 1, e.g. {tmp_path}/nope.wav",
        "BadLanguage 1",
        "unreadable  100.0%\n",
        "Most recordings would fail",
    ):
        assert text in done.stdout
    facts = json.loads(invoke("plan", str(manifest), "--json").stdout)
    assert facts["examples"].keys() == {"NotAllowed", "FileMissing", "BadLanguage"}


def test_a_plan_of_readable_audio_has_exit_code_0(tmp_path: Path) -> None:
    done = invoke("plan", str(AUDIO), "--price", "1", "--json")
    facts = json.loads(done.stdout)
    assert (done.exit_code, facts["wall_h"]) == (0, None)
    assert facts["price"] == pytest.approx(
        facts["decode_core_h"]
        + facts["segment_core_h"]
        + facts["label_core_h"]
        + facts["recordings_core_h"]
    )
