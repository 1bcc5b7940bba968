"""Progress and dead-pool detection of a Ray Data execution. Knows stages, not what they do."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import RoundEnded
from pipeline.flow.ray_internals import OperatorState, kill_actor
from pipeline.stages.label import FindAndLabelSegments, LabelSegments
from pipeline.stages.receipt import StageState, StageStates
from pipeline.stages.segment import FindSegments

RESTARTS = 20  # of one actor; then it stays dead


def decode_batch(decode: Callable[[Any], Any], rows: Any) -> Any:
    """Decode one row batch. Ray Data names an operator after its callable: this is "decode"."""
    yield from decode(rows)


def write_batch(write: Callable[[Any], Any], rows: Any) -> Any:
    """Write one row batch. Ray Data names an operator after its callable: this is "write"."""
    return write(rows)


# Callable to stage. If the model's workers compute features and VAD too, there is no operator
# "segment", and "label" counts the time of both.
_STAGES: dict[Callable[..., Any], str] = {
    decode_batch: "decode",
    FindSegments: "segment",
    LabelSegments: "label",
    FindAndLabelSegments: "label",
    write_batch: "write",
}
_STAGE_OF = {f"({stage.__name__})": name for stage, name in _STAGES.items()}


def stage_of(operator: str) -> str:
    """The stage that an operator such as "MapBatches(LabelSegments)" belongs to; "" if none."""
    return next((stage for name, stage in _STAGE_OF.items() if name in operator), "")


@dataclass(slots=True)
class ExecutionMonitor:
    """Watches one execution of the flow.

    `on_stages` is called with the state of each stage, and with the workers of which none is ready,
    e.g. "workers of stages segment, label" ("" if each stage has one).
    """

    on_stages: Callable[[StageStates, str], None]
    executor: Any = None
    actor_ids: set[Any] = field(default_factory=set)
    _stepped: float = 0.0
    _worker_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def on_start(self, executor: Any) -> None:
        self.executor = executor
        self._stepped = time.monotonic()

    def on_step(self, operators: list[OperatorState]) -> None:
        """Report the state of each stage.

        Raises RoundEnded when all workers of a stage are dead, because Ray Data would wait for ever
        (ray#62746). A worker whose node is lost is not dead: it is pending until the cluster adds a
        node with the resources that it needs, or another worker releases them.
        """
        now = time.monotonic()
        elapsed_s, self._stepped = now - self._stepped, now
        states: dict[str, StageState] = {}
        for operator in operators:
            self.actor_ids |= operator.actor_ids
            if stage := stage_of(operator.name):
                self._worker_s[stage] += elapsed_s * operator.n_workers
                states[stage] = StageState(operator.n_rows, operator.busy_s, self._worker_s[stage])
        self.on_stages(states, _starting(operators))
        for operator in operators:
            if operator.all_dead:
                name = stage_of(operator.name) or operator.name
                raise RoundEnded(f"all workers of stage {name} died {RESTARTS} times")

    def release(self) -> None:
        """End the execution and its actors.

        Ray Data's threads continue when its output is no longer read. When an execution ends, Ray
        Data only drops its actor handles. References to the blocks of a lost task can keep an actor
        alive with its GPU, and the next round would wait for that GPU for ever.
        """
        if self.executor is not None:
            self.executor.shutdown(force=True)
            self.executor = None
        while self.actor_ids:
            kill_actor(self.actor_ids.pop())


def _starting(operators: list[OperatorState]) -> str:
    """The stages of which no worker is ready, in words: it loads a model, or has no place yet."""
    stages = [
        stage_of(one.name) or one.name for one in operators if one.n_pending and not one.n_workers
    ]
    if not stages:
        return ""
    return f"workers of stage{'s' if len(stages) > 1 else ''} {', '.join(stages)}"
