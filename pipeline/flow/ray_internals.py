"""Every private name of Ray that this project uses. Knows Ray's internals; decides nothing.

Written against ray 2.60 to 2.63 (see pyproject). tests/flow/test_ray_internals.py asserts that each
name exists. So an upgrade of Ray fails in that test, with the name, and not in the middle of a run.
"""

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray._private import ray_constants
from ray._private.log import PlainRayHandler
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators.actor_pool_map_operator import (
    _ACTOR_STATE_DEAD,
    ActorPoolMapOperator,
)
from ray.data.read_api import from_blocks
from ray.exceptions import ActorHandleNotFoundError

_MONITOR_KEY = "sensevoice_monitor"
NO_LIMIT = -1.0  # DataContext.execution_no_progress_timeout_s (NoProgressGuard): never ends a run


@dataclass(frozen=True, slots=True)
class OperatorState:
    """What Ray Data counts of one operator of an execution."""

    name: str  # "MapBatches(LabelSegments)"
    n_rows: int  # output rows so far
    busy_s: float  # time in the callable's code, summed over all workers
    n_workers: int  # actors alive, or tasks running
    actor_ids: frozenset[Any]  # of running and pending actors; empty for tasks
    all_dead: bool  # an actor pool whose actors are all dead, and none is pending
    n_pending: int = 0  # actors that wait for a node or load what they need


class Monitor(Protocol):
    """Called in the driver while a Dataset is executed. An exception ends the execution."""

    def on_start(self, executor: Any) -> None: ...
    def on_step(self, operators: list[OperatorState]) -> None: ...


_monitors: dict[str, Monitor] = {}  # by the key in the DataContext of their execution


@contextmanager
def monitored(context: DataContext, monitor: Monitor) -> Iterator[None]:
    """Call `monitor` for every Dataset that is created from this context inside the `with` block.

    Ray Data takes the class of a callback, creates the instance itself, and pickles the context for
    its workers. So the context contains only a key, and the monitor stays in this process.
    """
    key = uuid.uuid4().hex
    _monitors[key] = monitor
    context.set_config(_MONITOR_KEY, key)
    context.custom_execution_callback_classes = [_Callback]
    try:
        yield
    finally:
        del _monitors[key]
        context.remove_config(_MONITOR_KEY)
        context.custom_execution_callback_classes = []


class _Callback(ExecutionCallback):
    """Passes Ray Data's calls on to the monitor of this execution."""

    def before_execution_starts(self, executor: Any) -> None:
        if monitor := _monitor_of(executor):
            monitor.on_start(executor)

    def on_execution_step(self, executor: Any) -> None:
        if monitor := _monitor_of(executor):
            monitor.on_step([_state_of(operator) for operator in executor._topology])


def _monitor_of(executor: Any) -> Monitor | None:
    return _monitors.get(executor._data_context.get_config(_MONITOR_KEY, ""))


def _state_of(operator: Any) -> OperatorState:
    metrics = operator.metrics
    running: list[Any] = []
    pending: list[Any] = []
    if isinstance(operator, ActorPoolMapOperator):
        pool: Any = operator._actor_pool
        running, pending = list(pool._running_actors), list(pool._pending_actors.values())
    states = {actor._get_local_state() for actor in running}
    return OperatorState(
        name=operator.name,
        n_rows=metrics.rows_task_outputs_generated,
        busy_s=metrics.function_body_time_s or 0.0,
        n_workers=metrics.num_alive_actors or metrics.num_tasks_running,
        # Ids, because a handle would keep its actor alive.
        actor_ids=frozenset(actor._ray_actor_id for actor in running + pending),
        all_dead=states == {_ACTOR_STATE_DEAD} and not pending,
        n_pending=len(pending),
    )


def kill_actor(actor_id: Any) -> None:
    """End an actor by its id, without a handle; no error if it has ended already."""
    worker: Any = ray._private.worker.global_worker
    with suppress(ActorHandleNotFoundError):
        worker.core_worker.kill_actor(actor_id, True)


def from_tables(tables: list[pa.Table]) -> "ray.data.Dataset":
    """A Dataset of these blocks.

    `ray.data.from_arrow` would start a remote task for the schema of each. `from_blocks`, which Ray
    has for its own tests, looks at them in this process.
    """
    rows: ray.data.Dataset = from_blocks(tables)
    return rows


def label_blocks(rows: "ray.data.Dataset", stage: type, **options: Any) -> "ray.data.Dataset":
    """`Dataset.map_batches` without its check that a stage with GPUs sets `batch_size`.

    A batch here is a whole block, cut by its bytes, because a number of rows may be seconds or
    hours of audio. `map_batches` calls `map_batches_internal` after its checks; in ray 2.57 that
    had another name.
    """
    return rows.map_batches_internal(stage, **options)


def disable_uv_hook() -> None:
    """RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 for a process that imported ray before it was set."""
    if os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV") == "0":
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


def quiet_data_logger() -> None:
    """Write Ray Data's errors only to its log file (logs/ray-data/ray-data.log of the session).

    On a terminal the error of one lost worker would fill the screen.
    """
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        if isinstance(handler, PlainRayHandler):
            handler.setLevel(logging.CRITICAL)


@contextmanager
def native_stderr_closed() -> Iterator[None]:
    """Close stderr in the `with` block: Ray's C++ code always prints its log level (logging.cc)."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
