"""Constructor arguments of the actors of each stage. Knows constructors; loads no model itself."""

from functools import partial
from typing import Any

from pipeline.config import RunConfig
from pipeline.flow.telemetry import MeteredModel
from pipeline.stages.build import Stages


def segmenter_args(stages: Stages, config: RunConfig) -> tuple[Any, ...]:
    """Arguments of FindSegments."""
    return partial(stages.load_vad, "cpu"), config.segment


def labeller_args(stages: Stages, config: RunConfig, run_id: str) -> tuple[Any, ...]:
    """Arguments of LabelSegments."""
    return partial(MeteredModel, stages.load_model, run_id), config.label


def find_and_label_args(stages: Stages, config: RunConfig, run_id: str) -> tuple[Any, ...]:
    """Arguments of FindAndLabelSegments."""
    load_vad = partial(stages.load_vad, config.label.device)
    return load_vad, config.segment, *labeller_args(stages, config, run_id)
