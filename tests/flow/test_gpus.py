"""GPUs that are asked for and are not there: refused on one machine, named on a cluster."""

import sys
from typing import Any

import pytest

from pipeline.config import RayConfig
from pipeline.errors import ConfigError
from pipeline.flow import gpus
from pipeline.flow.gpus import check_gpus
from pipeline.flow.session import explain_free, explain_shortage
from pipeline.runs.progress import Phase, Progress


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how many GPUs this machine seems to have; no Ray runs here."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    return lambda n_gpus: monkeypatch.setattr(gpus, "count_gpus", lambda: n_gpus)


@pytest.mark.parametrize(("num_gpus", "n_gpus"), [(1, 0), (0.5, 0), (2, 1)])
def test_a_gpu_that_this_machine_lacks_is_refused(
    num_gpus: float, n_gpus: int, machine: Any
) -> None:
    machine(n_gpus)
    with pytest.raises(ConfigError, match=r"ray.num_gpus=0 and ray.label_cpus=1"):
        check_gpus(RayConfig(num_gpus=num_gpus))


@pytest.mark.parametrize(("num_gpus", "n_gpus"), [(0, 0), (0.5, 1), (1, 8), (1, None)])
def test_a_gpu_that_is_there_or_may_be_there_is_not_refused(
    num_gpus: float, n_gpus: int | None, machine: Any
) -> None:
    machine(n_gpus)
    check_gpus(RayConfig(num_gpus=num_gpus))


def test_a_cluster_may_have_gpus_that_this_machine_lacks(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(0)
    check_gpus(RayConfig(num_gpus=1, address="10.0.0.1:6379"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_gpus(RayConfig(num_gpus=1))


@pytest.mark.parametrize(
    ("needed", "present", "text"),
    [
        ({"GPU": 2, "CPU": 4}, {"CPU": 16}, "2 GPUs (the cluster has 0)"),
        ({"GPU": 1, "CPU": 4}, {"GPU": 1, "CPU": 2}, "4 CPUs (the cluster has 2)"),
        ({"GPU": 1}, {}, "1 GPU (the cluster has 0)"),
        ({"GPU": 0, "CPU": 2}, {"CPU": 2}, ""),
    ],
)
def test_a_shortage_names_what_is_needed_and_what_is_there(
    needed: dict[str, float], present: dict[str, float], text: str
) -> None:
    assert explain_shortage(needed, present) == text


def test_what_is_free_is_told_of_what_is_needed() -> None:
    needed = {"GPU": 1.0, "CPU": 4.0}
    present = {"GPU": 2.0, "CPU": 16.0, "memory": 1e9}
    assert explain_free(needed, present, {"CPU": 3.0}) == "0 of 2 GPUs, 3 of 16 CPUs"
    assert explain_free({"GPU": 0.0, "CPU": 4.0}, present, {"CPU": 3.0}) == "3 of 16 CPUs"


def test_progress_says_what_is_waited_for_until_labels_come() -> None:
    progress = Progress("run-a", phase=Phase.LOADING_MODELS)
    assert progress.doing == "loading models"
    progress.waits_for = "1 GPU (the cluster has 0)"
    assert progress.doing == "waiting for 1 GPU (the cluster has 0)"
    progress.phase = Phase.LABELLING
    assert progress.doing == "labelling"
