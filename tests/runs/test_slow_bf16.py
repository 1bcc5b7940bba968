"""A precision that a CPU has no instructions for is warned of."""

import pytest

from pipeline.config import RunConfig
from pipeline.planning.machine import Machine
from pipeline.runs.execute import explain_slow_bf16

OLD, NEW = Machine(2, 1 << 30), Machine(2, 1 << 30, "amx_bf16")


@pytest.mark.parametrize(
    ("machine", "precision", "ray", "is_slow"),
    [
        (OLD, "bf16", {}, True),
        (NEW, "bf16", {}, False),
        (OLD, "int8", {}, False),
        (OLD, "auto", {}, False),
        (OLD, "bf16", {"num_gpus": 1}, False),
        (OLD, "bf16", {"address": "10.0.0.1:6379"}, False),  # its nodes may be others
    ],
)
def test_bf16_without_its_instructions_is_warned_of(
    machine: Machine, precision: str, ray: dict[str, object], is_slow: bool
) -> None:
    config = RunConfig.model_validate(
        {"manifest": "m", "output": "o", "label": {"precision": precision}, "ray": ray}
    )
    assert ("six times as long" in explain_slow_bf16(config, machine)) == is_slow
