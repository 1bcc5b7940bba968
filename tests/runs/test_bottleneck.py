"""The advice after a run, from the busy seconds of its stages."""

from typing import Any

from pipeline.config import RunConfig
from pipeline.runs.bottleneck import find_bottleneck


def advice(segment_s: float, label_s: float, wall_s: float = 100.0, **ray: Any) -> str:
    config = RunConfig.model_validate({"manifest": "m", "output": "o", "ray": ray})
    return find_bottleneck({"segment": segment_s, "label": label_s}, wall_s, config)


def test_a_busy_model_on_a_cpu_asks_for_cores_or_a_lower_precision() -> None:
    assert "label.precision int8" in advice(segment_s=5, label_s=95)


def test_a_busy_model_on_a_gpu_asks_for_gpus_or_larger_batches() -> None:
    said = advice(segment_s=5, label_s=95, num_gpus=1)
    assert "add GPUs" in said
    assert "label.batch_s" in said


def test_busy_segment_workers_ask_for_more_workers() -> None:
    assert "raise ray.segment_workers (2 now)" in advice(
        segment_s=190, label_s=50, segment_workers=2
    )


def test_with_a_gpu_segments_may_be_found_on_it() -> None:
    assert "segment_with_model" in advice(segment_s=95, label_s=50, num_gpus=1)
    assert "segment_with_model" not in advice(segment_s=95, label_s=50)


def test_idle_workers_wait_for_audio() -> None:
    assert "waited for audio" in advice(segment_s=10, label_s=30)


def test_a_short_run_gives_no_advice() -> None:
    assert advice(segment_s=5, label_s=25, wall_s=30) == ""
