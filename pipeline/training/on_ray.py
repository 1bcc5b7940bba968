"""The same fine-tuning on the workers of Ray Train. The only module of this room that knows Ray.

The first worker stores checkpoints, and at last the result, in the place that `checkpoints` names;
all workers start from the newest one, also after a failure. So Ray's own checkpoints are not used.
"""

import logging
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipeline.config import RayConfig
from pipeline.errors import ModelError, RunStopped, StoreError
from pipeline.flow.session import explain_shortage, ray_session
from pipeline.training.finetune import Finished, write
from pipeline.training.loop import StepReport, Worker
from pipeline.training.prepare import Prepared, find_start, open_checkpoints
from pipeline.training.scores import SetScore
from pipeline.training.session import Listener, Session, Trained
from pipeline.training.settings import WorkersConfig

_log = logging.getLogger(__name__)

_POLL_S = 0.2
_WAIT_S = 4 * 3600  # for the first worker, which scores while the others wait


@dataclass(frozen=True, slots=True)
class _Told:
    """What the first worker sends to the driver."""

    step: StepReport | None = None
    scores: tuple[int, list[SetScore]] | None = None
    trained: Trained | None = None  # without its weights, which are in the store
    error: str = ""


def finetune_on_ray(prepared: Prepared, listener: Listener) -> Finished:
    """Train on `ray.num_workers` workers and write the model in this process.

    A worker that dies costs the steps since the newest checkpoint, `ray.max_failures` times. Raises
    RunStopped, StoreError.
    """
    workers = prepared.config.ray
    n_cpus = math.ceil(workers.num_workers * workers.cpus)
    with ray_session(RayConfig(address=workers.address, num_cpus=max(n_cpus, os.cpu_count() or 1))):
        _check_resources(workers)
        from ray.util.queue import Queue

        mailbox = Queue(actor_options={"num_cpus": 0})
        last: list[_Told] = []
        with _listening(mailbox, listener, last):
            _fit(prepared, mailbox)
        mailbox.shutdown()
    for told in last:
        if told.error:
            raise RunStopped(told.error)
    ends = [told.trained for told in last if told.trained]
    if not ends:
        raise RunStopped("the workers ended without a result; read their logs in Ray's dashboard")
    return write(prepared, replace(ends[-1], weights=_result(prepared)))


def _check_resources(workers: WorkersConfig) -> None:
    """On this machine nothing more can come, so that Ray Train would wait for ever.

    A cluster may be growing: there a warning says what is waited for. Raises RunStopped.
    """
    import ray

    needed = {
        "CPU": workers.num_workers * workers.cpus,
        "GPU": float(workers.num_workers * workers.use_gpu),
    }
    short = explain_shortage(needed, ray.cluster_resources())
    if not short:
        return
    if workers.address or os.environ.get("RAY_ADDRESS"):
        _log.warning("waiting for %s", short)
        return
    raise RunStopped(
        f"ray: the workers need {short}; lower ray.num_workers, or set ray.use_gpu to false"
    )


def _result(prepared: Prepared) -> dict[str, torch.Tensor]:
    checkpoints = open_checkpoints(prepared)
    try:
        return checkpoints.get_result()
    except FileNotFoundError as error:
        raise StoreError(
            f"{checkpoints.store.root}: the result of the first worker is not there; set "
            "`checkpoints` to a place that all nodes see, such as s3://bucket/prefix"
        ) from error


def _fit(prepared: Prepared, mailbox: Any) -> None:
    """Run the workers to their end."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers = prepared.config.ray
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"prepared": prepared, "mailbox": mailbox},
            torch_config=TorchConfig(timeout_s=_WAIT_S),
            scaling_config=ScalingConfig(
                num_workers=workers.num_workers,
                use_gpu=workers.use_gpu,
                resources_per_worker={"CPU": workers.cpus}
                | ({"GPU": 1} if workers.use_gpu else {}),
            ),
            run_config=RunConfig(
                storage_path=folder,
                failure_config=FailureConfig(max_failures=workers.max_failures),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # of Ray Train, which wraps what the workers raised
            raise RunStopped(f"the workers of Ray Train failed: {error}") from error


@contextmanager
def _listening(mailbox: Any, listener: Listener, last: list[_Told]) -> Iterator[None]:
    """Pass on what the first worker sends, in a thread, until the end of the `with`."""
    is_over = threading.Event()

    def pass_on() -> None:
        while not is_over.is_set() or not mailbox.empty():
            for told in mailbox.get_nowait_batch(mailbox.qsize()):
                if told.step:
                    listener.step(told.step)
                elif told.scores:
                    listener.scores(*told.scores)
                else:
                    last.append(told)
            is_over.wait(_POLL_S)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _work(settings: dict[str, Any]) -> None:
    """What each worker does."""
    from ray.train import get_context
    from ray.train.torch import get_device

    prepared, mailbox = settings["prepared"], settings["mailbox"]
    context = get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), get_device())
    torch.set_num_threads(max(1, int(prepared.config.ray.cpus)))
    listener = Listener(
        lambda told: mailbox.put(_Told(step=told)),
        lambda step, scores: mailbox.put(_Told(scores=(step, list(scores)))),
    )
    here = _with_own_files(prepared)
    try:
        trained = Session(here, worker, listener).run()
    except RunStopped as error:  # the same on all workers; another attempt would end so, too
        if worker.is_first:
            mailbox.put(_Told(error=str(error)))
        return
    if trained is not None:
        open_checkpoints(here).put_result(trained.weights)
        mailbox.put(_Told(trained=replace(trained, weights={})))


def _with_own_files(prepared: Prepared) -> Prepared:
    """With the start model of this node. Raises ModelError if it is another one."""
    start = find_start(prepared.config)
    if start.sha256 != prepared.start.sha256:
        raise ModelError(
            f"model {prepared.config.model!r} is not the same on this node as on the driver; give "
            "every node the same files"
        )
    return replace(prepared, start=start)
