"""How far a pass is, and whether it can still end. Looks into Ray Data, which tells nobody else."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators.actor_pool_map_operator import (
    _ACTOR_STATE_DEAD,
    ActorPoolMapOperator,
)
from ray.exceptions import ActorHandleNotFoundError

from pipeline.runs.recovery import PassEnded

RESTARTS = 20  # of one actor; then it stays dead
# FindAndLabelSegments is told as LabelSegments: the model is what takes its time.
_STAGES = ("decode_recordings", "FindSegments", "LabelSegments", "write_rows")


@dataclass(frozen=True, slots=True)
class StageState:
    """How far a stage is, as Ray Data counts it."""

    n_rows: int  # put out so far
    # In the stage's own code, all its workers together. Of LabelSegments it counts the wait of the
    # second of two calls for the first, so a busy worker may show up to twice its time.
    busy_s: float
    worker_s: float  # all its workers (actors alive, or tasks running) have lived, together


class Watch(ExecutionCallback):
    """How far each stage is; Ray Data tells it to nobody else.

    The class travels to the workers with the DataContext, hence by name: what it tells and to whom
    is an attribute of the class, set in the driver alone.
    """

    listener: ClassVar[Callable[[Mapping[str, StageState]], None]] = staticmethod(
        lambda stages: None
    )
    executor: ClassVar[Any] = None  # of the pass under way
    actors: ClassVar[set[Any]] = set()  # ids; a handle would keep its actor alive

    def before_execution_starts(self, executor: Any) -> None:
        type(self).executor = executor
        self._stepped = time.monotonic()
        self._worker_s: Counter[str] = Counter()

    def on_execution_step(self, executor: Any) -> None:
        now = time.monotonic()
        elapsed_s, self._stepped = now - self._stepped, now
        stages = {
            stage: self._state(stage, operator.metrics, elapsed_s)
            for operator in executor._topology
            for stage in _STAGES
            if stage in operator.name
        }
        type(self).listener(stages)
        for operator in executor._topology:
            if isinstance(operator, ActorPoolMapOperator):
                self._look_at(operator.name, operator._actor_pool)

    def _state(self, stage: str, metrics: Any, elapsed_s: float) -> StageState:
        n_workers = metrics.num_alive_actors or metrics.num_tasks_running
        self._worker_s[stage] += elapsed_s * n_workers
        return StageState(
            n_rows=metrics.rows_task_outputs_generated,
            busy_s=metrics.function_body_time_s or 0.0,
            worker_s=self._worker_s[stage],
        )

    def _look_at(self, name: str, pool: Any) -> None:
        """Note who works there; raise when all are dead: Ray Data waits for ever (ray#62746).

        A worker whose node is gone is not dead: it waits for another with the GPU that it wants,
        which the cluster may add, or a worker that has nothing left to do give up.
        """
        running, pending = list(pool._running_actors), list(pool._pending_actors.values())
        type(self).actors.update(actor._ray_actor_id for actor in running + pending)
        states = {actor._get_local_state() for actor in running}
        if states == {_ACTOR_STATE_DEAD} and not pending:
            raise PassEnded(f"all workers of {name} died {RESTARTS} times")

    @classmethod
    def release(cls) -> None:
        """End a pass and its actors.

        Of a pass that nobody reads on, Ray Data's threads go on; of one that is over, it only drops
        its handles, and what still refers to the blocks of a lost task keeps an actor, and its GPU,
        from the next pass. That would wait for them for ever.
        """
        if cls.executor is not None:
            cls.executor.shutdown(force=True)
            cls.executor = None
        worker: Any = ray._private.worker.global_worker
        while cls.actors:
            with suppress(ActorHandleNotFoundError):  # it has gone by itself
                worker.core_worker.kill_actor(cls.actors.pop(), True)
