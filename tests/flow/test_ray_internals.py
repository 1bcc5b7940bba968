"""Every private name of Ray that we use exists, so an upgrade of Ray fails here, by name."""

import inspect
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
from ray._private import ray_constants
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, DataContext, read_api
from ray.data._internal.execution.no_progress_guard import NoProgressGuard
from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from pipeline.config import RayConfig
from pipeline.errors import RoundEnded
from pipeline.flow.chain import _set_limits
from pipeline.flow.monitor import ExecutionMonitor, decode_batch, stage_of
from pipeline.flow.ray_internals import NO_LIMIT, OperatorState, monitored
from pipeline.stages.label import FindAndLabelSegments, LabelSegments
from pipeline.stages.receipt import StageStates
from pipeline.stages.segment import FindSegments


def test_a_dataset_maps_whole_blocks_in_a_stage_with_gpus() -> None:
    parameters = inspect.signature(ray.data.Dataset.map_batches_internal).parameters
    wanted = {"fn_constructor_args", "batch_size", "batch_format", "compute", "num_gpus"}
    assert wanted <= parameters.keys()


def test_an_execution_without_progress_can_wait_for_ever() -> None:
    assert NO_LIMIT == -1  # 0 is refused
    assert DataContext.execution_no_progress_timeout_s > 0  # Ray's default, which is replaced
    source = inspect.getsource(NoProgressGuard)
    assert "return self._timeout_s > 0" in source
    assert "self._data_context.execution_no_progress_timeout_s" in inspect.getsource(
        StreamingExecutor
    )


@pytest.mark.parametrize(("no_progress_s", "limit_s"), [(0.0, -1), (7200.0, 7200.0)])
def test_the_time_without_progress_is_a_key(no_progress_s: float, limit_s: float) -> None:
    context = DataContext()
    _set_limits(context, RayConfig(no_progress_s=no_progress_s))
    assert context.execution_no_progress_timeout_s == limit_s


def test_a_dataset_is_made_of_blocks_without_a_task_for_each() -> None:
    assert list(inspect.signature(read_api.from_blocks).parameters) == ["blocks"]


def test_the_uv_hook_is_a_constant_that_can_be_set() -> None:
    assert isinstance(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV, bool)


def test_an_actor_can_be_ended_by_its_id() -> None:
    import ray._raylet as raylet

    core_worker: Any = raylet
    assert callable(core_worker.CoreWorker.kill_actor)


def test_the_attributes_of_ray_objects_still_have_their_names() -> None:
    assert "self._topology" in inspect.getsource(StreamingExecutor)
    assert "self._data_context" in inspect.getsource(StreamingExecutor)
    assert "self._actor_pool" in inspect.getsource(ActorPoolMapOperator)
    pool = inspect.getmodule(ActorPoolMapOperator)
    assert pool is not None
    for name in ("_running_actors", "_pending_actors"):
        assert f"self.{name}" in inspect.getsource(pool)
    assert "_ray_actor_id" in inspect.getsource(ActorHandle)
    assert hasattr(ActorHandle, "_get_local_state")


class _Double:
    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch


class _Recorder:
    """A monitor that keeps every state that it gets."""

    def __init__(self) -> None:
        self.started = False
        self.steps: list[list[OperatorState]] = []

    def on_start(self, executor: Any) -> None:
        self.started = True

    def on_step(self, operators: list[OperatorState]) -> None:
        self.steps.append(operators)


def test_each_of_two_executions_calls_its_own_monitor(ray_session: None) -> None:
    recorders = [_Recorder(), _Recorder()]
    for n_rows, recorder in enumerate(recorders, start=3):
        with monitored(DataContext.get_current(), recorder):
            rows = ray.data.from_arrow(pa.table({"n": range(n_rows)})).map_batches(
                _Double, compute=ActorPoolStrategy(size=1), num_cpus=0.5, batch_format="pyarrow"
            )
            assert len(list(rows.iter_rows())) == n_rows
    for n_rows, recorder in enumerate(recorders, start=3):
        assert recorder.started
        seen = [one for step in recorder.steps for one in step if "_Double" in one.name]
        assert max(one.n_rows for one in seen) == n_rows
        assert max(one.n_workers for one in seen) == 1
        assert len({actor for one in seen for actor in one.actor_ids}) == 1
        assert not any(one.all_dead for one in seen)
        assert {one.n_pending for one in seen if not one.n_workers} >= {1}  # while it starts
        assert seen[-1].n_pending == 0
    assert DataContext.get_current().custom_execution_callback_classes == []


@pytest.mark.parametrize(
    ("operator", "stage"),
    [
        (f"MapBatches({decode_batch.__name__})", "decode"),
        (f"MapBatches({FindSegments.__name__})", "segment"),
        (f"MapBatches({LabelSegments.__name__})", "label"),
        (f"MapBatches({FindAndLabelSegments.__name__})", "label"),
        (f"Input->MapBatches({decode_batch.__name__})", "decode"),
        ("Input", ""),
    ],
)
def test_an_operator_belongs_to_a_stage_by_its_callable(operator: str, stage: str) -> None:
    assert stage_of(operator) == stage


def test_a_pool_whose_workers_are_all_dead_ends_the_round() -> None:
    seen: list[tuple[StageStates, str]] = []
    monitor = ExecutionMonitor(lambda states, starting: seen.append((states, starting)))
    monitor.on_start(None)
    dead = OperatorState("MapBatches(LabelSegments)", 3, 1.0, 0, frozenset(), all_dead=True)
    with pytest.raises(RoundEnded, match="all workers of stage label died 20 times"):
        monitor.on_step([dead])
    assert seen[0][0]["label"].n_rows == 3


def pool(stage: type, n_workers: int, n_pending: int) -> OperatorState:
    return OperatorState(
        f"MapBatches({stage.__name__})", 0, 0.0, n_workers, frozenset(), False, n_pending
    )


@pytest.mark.parametrize(
    ("segment", "label", "text"),
    [
        ((0, 1), (0, 2), "workers of stages segment, label"),
        ((1, 0), (0, 2), "workers of stage label"),
        ((1, 0), (1, 1), ""),  # one of two is ready
        ((0, 0), (0, 0), ""),  # nothing is started yet
    ],
)
def test_a_stage_of_which_no_worker_is_ready_is_named(
    segment: tuple[int, int], label: tuple[int, int], text: str
) -> None:
    seen: list[str] = []
    monitor = ExecutionMonitor(lambda states, starting: seen.append(starting))
    monitor.on_start(None)
    monitor.on_step([pool(FindSegments, *segment), pool(LabelSegments, *label)])
    assert seen == [text]
