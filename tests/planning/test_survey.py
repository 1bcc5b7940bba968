"""Estimates for a plan from a sample: probes, intervals, machine hours, and the plan command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from jobs import plan as plan_job
from pipeline.config import AudioConfig
from pipeline.manifest.read import read_manifest
from pipeline.planning import survey as preflight
from pipeline.planning.costs import Prices, Speeds, estimate_cost
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.survey import probe_row, ratio_estimate, survey_todo, wilson
from pipeline.schema import SAMPLE_RATE, TABLES
from tests.support.demo import AS_TESTED, AUDIO, ROOT


def plan_of(manifest: Path) -> Plan:
    empty = TABLES["recordings"].empty_table()
    return make_plan(read_manifest(str(manifest), {}), empty, "", {})


def row_of(path: Path, **changes: Any) -> dict[str, Any]:
    size = path.stat().st_size if path.exists() else 0
    row = {
        "uri": str(path),
        "offset_s": 0.0,
        "length_s": 0.0,
        "channel": 0,
        "bytes": size,
        "start": 0,
        "error_type": "",
    }
    return row | changes


def write_noise(path: Path, seconds: float) -> Path:
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE))
    soundfile.write(path, noise, SAMPLE_RATE)
    return path


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_the_duration_is_read_from_the_head_of_a_file(name: str, tmp_path: Path) -> None:
    probe = probe_row(row_of(write_noise(tmp_path / name, 40.0)), AudioConfig(), {})
    assert probe.duration_s == pytest.approx(40, rel=0.02)
    assert probe.error == ""


def test_a_stream_without_a_duration_is_estimated_by_its_bytes(tmp_path: Path) -> None:
    import av

    path = tmp_path / "stream.aac"  # ADTS frames, no header
    with av.open(str(path), "w", format="adts") as out:
        stream = out.add_stream("aac", rate=48_000, layout="mono", bit_rate=160_000)
        noise = np.random.default_rng(0).normal(0, 0.1, 20 * 48_000).astype(np.float32)
        for start in range(0, noise.size, 1024):
            frame = av.AudioFrame.from_ndarray(noise[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate = 48_000
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    path.write_bytes(9 * path.read_bytes())
    probe = probe_row(row_of(path), AudioConfig(), {})
    assert path.stat().st_size > 2 << 20
    assert probe.duration_s == pytest.approx(180, rel=0.1)


def test_a_recording_within_a_file_has_its_own_length(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "a.wav", 10.0)
    stretch = probe_row(row_of(path, offset_s=4.0, length_s=2.5), AudioConfig(), {})
    rest = probe_row(row_of(path, offset_s=4.0), AudioConfig(), {})
    assert (stretch.duration_s, rest.duration_s) == (2.5, 6.0)


def test_an_unreadable_file_has_the_error_type_of_the_tables(tmp_path: Path) -> None:
    (tmp_path / "page.mp3").write_text("<!doctype html><html></html>")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "noise.wav").write_bytes(b"RIFF" + bytes(range(1, 200)))
    names = ("page.mp3", "empty.wav", "noise.wav", "lost.wav")
    kinds = [probe_row(row_of(tmp_path / name), AudioConfig(), {}).error for name in names]
    assert kinds == ["NotAudio", "EmptyFile", "Undecodable", "FileMissing"]


def test_the_share_interval_covers_the_truth_19_times_in_20() -> None:
    rng = np.random.default_rng(1)
    for share in (0.01, 0.2):
        hits = [wilson(int(rng.binomial(200, share)), 200) for _ in range(1000)]
        covered = sum(hit.low <= share <= hit.high for hit in hits)
        assert covered > 920
    assert wilson(0, 200).high < 0.02


def test_the_hours_interval_covers_the_truth_19_times_in_20() -> None:
    rng = np.random.default_rng(2)
    seconds = rng.lognormal(2.0, 1.0, 5000)
    sizes = seconds * rng.choice([2_000, 4_000, 32_000], 5000)  # bytes per second of three codecs
    covered = 0
    for _ in range(300):
        chosen = rng.permutation(5000)[:200]
        got = ratio_estimate(
            sizes[chosen].tolist(), seconds[chosen].tolist(), float(sizes.sum()), 5000
        )
        covered += got.low <= seconds.sum() <= got.high
    assert covered > 300 * 0.85  # a little less than 95 %, because the sizes are skewed


def test_a_sample_of_the_whole_plan_has_no_interval() -> None:
    found = survey_todo(plan_of(AUDIO / "manifest.jsonl").todo, AudioConfig(), {})
    assert found.n_sampled == 20
    assert found.seconds.low == found.seconds.value == found.seconds.high
    assert found.seconds.value == pytest.approx(158.6, rel=0.02)
    assert found.errors == {"EmptyFile": 1}  # broken_truncated breaks late


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    todo = plan_of(AUDIO / "manifest.jsonl").todo
    first, again, other = (
        survey_todo(todo, AudioConfig(), {}, n_sampled=8, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_machine_hours_follow_from_the_speeds() -> None:
    speeds = Speeds(decode=500, segment=250, label_core=10, label_gpu=1000)
    on_cores = estimate_cost(3600_000, speeds, on_gpu=False)
    on_gpu = estimate_cost(3600_000, speeds, on_gpu=True)
    assert (on_cores.decode_core_h, on_cores.segment_core_h, on_cores.label_core_h) == (2, 4, 100)
    assert (on_gpu.label_core_h, on_gpu.label_gpu_h) == (0, 1)


def test_many_short_recordings_cost_more_than_few_long_ones() -> None:
    """2 ms each: a million clips of 2 s have 0.56 core-hours more than their audio."""
    few = estimate_cost(2e6, Speeds(), on_gpu=True, n_recordings=100)
    many = estimate_cost(2e6, Speeds(), on_gpu=True, n_recordings=1_000_000)
    assert many.recordings_core_h == pytest.approx(2 * 1e6 / 1000 / 3600)
    assert many.core_h - few.core_h == pytest.approx(2 * 999_900 / 1000 / 3600)
    assert Prices(1.0, 0.0).of(many) == pytest.approx(many.core_h)


def plan_command(*arguments: str) -> Result:
    return CliRunner().invoke(plan_job.app, arguments)


def test_the_command_answers_for_a_config_and_for_a_manifest(tmp_path: Path) -> None:
    done = plan_command(str(ROOT / "configs" / "demo.yaml"), "--set", f"output={tmp_path}")
    assert done.exit_code == 0, done.stderr
    for text in ("20 recordings in the manifest", "20 to do", "159 s", "unreadable  5.0%\n"):
        assert text in done.stdout
    counted = plan_command(str(AUDIO / "manifest.jsonl"), "--json", "--gpu", "--sample", "5")
    facts = json.loads(counted.stdout)
    assert (facts["n_todo"], facts["n_sampled"], facts["label_core_h"]) == (20, 5, 0)
    assert facts["label_gpu_h"] > 0


def test_what_is_in_the_tables_already_is_not_counted(labelled_root: str) -> None:
    settings = (
        *(f"output={labelled_root}", f"manifest={AUDIO / 'manifest.jsonl'}"),
        *AS_TESTED,
    )
    flags = [part for setting in settings for part in ("--set", setting)]
    done = plan_command(str(ROOT / "configs" / "demo.yaml"), *flags, "--json")
    facts = json.loads(done.stdout)
    assert (facts["n_done"], facts["n_todo"], facts["n_errors_kept"]) == (20, 0, 2)
    assert facts["seconds"]["value"] == 0


def test_a_wrong_manifest_is_refused_in_one_line(tmp_path: Path) -> None:
    done = plan_command(str(tmp_path / "none.jsonl"))
    assert done.exit_code == 2
    assert "none.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_sample_size_gives_the_precision_that_it_claims() -> None:
    share = wilson(preflight.N_SAMPLED // 20, preflight.N_SAMPLED)
    assert share.high - share.low < 0.065
