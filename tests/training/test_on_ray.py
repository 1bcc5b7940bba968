"""Ray Train: two workers take the steps of one, and a worker that dies costs no result."""

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import ray
import torch

from pipeline.errors import RunStopped
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.weights import load_weights
from pipeline.training.finetune import finetune
from pipeline.training.loop import StepReport
from pipeline.training.on_ray import finetune_on_ray
from pipeline.training.prepare import Prepared, prepare
from pipeline.training.scores import SetScore
from pipeline.training.session import Listener
from pipeline.training.settings import load_finetune_config
from tests.support.demo import ROOT
from tests.training.conftest import WriteRows, rows_of_demo


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.scores: list[tuple[int, Sequence[SetScore]]] = []
        self.listener = Listener(
            self.steps.append, lambda step, scores: self.scores.append((step, scores))
        )


@pytest.fixture
def settings(write_rows: WriteRows, tmp_path: Path) -> list[str]:
    train, held_out = write_rows(rows_of_demo()[:6]), write_rows(rows_of_demo(itn=True)[8:10])
    return [
        *(f"data.train={train}", f"data.valid={held_out}", "data.max_clip_s=10", "batch_s=12"),
        *("lr=0.001", "max_steps=3", "checkpoint_every=1", "mix_with_start=[1.0]"),
        *("ray.cpus=0.5", "gates.max_regression=9", "average=1"),
    ]


def weights_of(prepared: Prepared) -> dict[str, torch.Tensor]:
    return load_weights(resolve_model(str(prepared.output)), torch.device("cpu"))


def prepared_for(n_workers: int, settings: Sequence[str], output: Path) -> Prepared:
    more = [f"output={output}", f"ray.num_workers={n_workers}"]
    path = ROOT / "configs" / "finetune.yaml"
    return prepare(load_finetune_config(path, [*settings, *more]), n_workers)


def kill_a_worker() -> None:
    """SIGKILL to one of the two workers; they are children of this process."""
    for child in psutil.Process().children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:  # a process that an earlier test killed, and nobody has waited for
            continue
        if "RayTrainWorker" in " ".join(words):
            child.kill()
            return
    raise AssertionError("no worker of Ray Train is running")


def test_two_workers_of_ray_train_take_the_steps_of_one_though_one_of_them_is_killed(
    ray_session: None, kills: None, settings: list[str], tmp_path: Path
) -> None:
    one, two = Heard(), Heard()

    def kill_once(told: StepReport) -> None:
        two.steps.append(told)
        if len(two.steps) == 1:
            kill_a_worker()

    alone = prepared_for(1, [*settings, "accumulate=2"], tmp_path / "one")
    finetune(alone, one.listener)
    both = prepared_for(2, settings, tmp_path / "two")
    done = finetune_on_ray(both, Listener(kill_once, two.listener.scores))
    assert done.n_steps == 3
    assert [step for step, _ in two.scores].count(0) == 2  # it was started again
    by_step = {told.step: told for told in two.steps}
    for told in one.steps:
        assert by_step[told.step].loss == pytest.approx(told.loss, rel=1e-4)
        assert by_step[told.step].grad_norm == pytest.approx(told.grad_norm, rel=1e-3)
    first, second = weights_of(alone), weights_of(both)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-4
    assert not list((tmp_path / "two.checkpoints").glob("*"))


def test_workers_that_this_machine_cannot_have_are_refused(
    ray_session: None, settings: list[str], tmp_path: Path
) -> None:
    """Ray Train would wait for them for ever."""
    prepared = prepared_for(1, [*settings, "ray.use_gpu=true"], tmp_path / "new")
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(RunStopped, match=r"need 1 GPU \(the cluster has 0\)"):
        finetune_on_ray(prepared, Heard().listener)
