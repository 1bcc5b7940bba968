"""The chain of stages on Ray Data, with the resources of each stage. Knows nothing of publishing.

planned rows -> decode -> find segments -> label -> one bundle per row batch -> receipts

By default Ray restarts a dead worker without limit and gives it the same rows again. Here both are
limited: after two workers died of a task, its rows are skipped and the flow continues. Ray does not
report which rows (DataContext.max_errored_blocks drops them silently). So the caller compares plan
and ledger after the round and passes the missing recordings to `alone`, which can blame a crash on
one of them.
"""

import warnings
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.config import RayConfig, RunConfig
from pipeline.errors import RunStopped
from pipeline.flow.explain import explain, explain_no_progress
from pipeline.flow.monitor import RESTARTS, ExecutionMonitor, decode_batch, write_batch
from pipeline.flow.ray_internals import (
    NO_LIMIT,
    from_tables,
    label_blocks,
    monitored,
    quiet_data_logger,
)
from pipeline.flow.row_batches import cut_row_batches
from pipeline.flow.session import WRITE_CPUS, Shortage
from pipeline.flow.workers import find_and_label_args, labeller_args, segmenter_args
from pipeline.schema import SAMPLE_RATE
from pipeline.stages.build import Stages, build_stages
from pipeline.stages.label import FindAndLabelSegments, LabelSegments
from pipeline.stages.receipt import Receipt, StageStates, receipt_of
from pipeline.stages.segment import FindSegments
from pipeline.tables.run_records import RunInfo

# Of int16 waveforms. Float32 features have the same size: 4 * N_MELS * FRAMES_PER_S.
_BYTES_PER_S = 2 * SAMPLE_RATE
_RETRIES = 1  # of a task whose worker died
_LOST_TASKS = 100  # tasks that a round may skip before it ends


def label(
    todo: pa.Table,
    config: RunConfig,
    run: RunInfo,
    on_stages: Callable[[StageStates, str], None] = lambda stages, waits_for: None,
    *,
    isolate: bool = False,
    stages: Stages | None = None,
) -> Generator[Receipt]:
    """Run planned rows (schema.PLANNED) through all stages; one receipt per bundle written.

    `on_stages` is called with the state of each stage, and with what is waited for: what the
    workers need and the cluster lacks, or workers that are not ready ("" if nothing). With
    `isolate` no worker holds two recordings at once. Recordings whose workers died twice have no
    receipt. `stages` defaults to those that the configuration describes. Needs a Ray session.
    Raises RoundEnded when workers keep crashing, RunStopped when a worker cannot start or a stage
    raises.
    """
    stages = stages or build_stages(config, run)
    context = DataContext.get_current()
    _set_limits(context, config.ray)
    quiet_data_logger()
    shortage = Shortage(config.ray)
    monitor = ExecutionMonitor(lambda states, starting: on_stages(states, shortage.text(starting)))
    with monitored(context, monitor):
        with warnings.catch_warnings():  # ray below 2.64 has no replacement
            warnings.simplefilter("ignore", RayDeprecationWarning)
            receipts = _chain(todo, config, run.run_id, stages, isolate)
        try:
            for row in receipts.iter_rows():
                yield receipt_of(row)
        except ExecutionTimeoutError as error:
            raise RunStopped(explain_no_progress(config.ray.no_progress_s)) from error
        except RayError as error:
            raise explain(error) from error
        finally:
            monitor.release()


def _chain(
    todo: pa.Table, config: RunConfig, run_id: str, stages: Stages, isolate: bool
) -> ray.data.Dataset:
    resources = config.ray
    n_cpus = ray.cluster_resources().get("CPU", 1.0)
    batches = cut_row_batches(todo, resources.batch_audio_s, n_cpus, isolate=isolate)
    of_actors: dict[str, Any] = {"max_restarts": RESTARTS, "max_task_retries": _RETRIES}
    of_tasks: dict[str, Any] = {"max_retries": _RETRIES}
    of_blocks: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    windows = from_tables(batches).map_batches(
        partial(decode_batch, stages.decode),
        num_cpus=resources.decode_cpus,
        **of_blocks,
        **of_tasks,
    )
    rows = windows
    stage: type[FindAndLabelSegments | LabelSegments] = FindAndLabelSegments
    arguments = find_and_label_args(stages, config, run_id)
    if not resources.segment_with_model:
        stage, arguments = LabelSegments, labeller_args(stages, config, run_id)
        rows = windows.map_batches(
            FindSegments,
            fn_constructor_args=segmenter_args(stages, config),
            compute=_pool(resources.segment_workers, resources.segment_workers_max, isolate),
            num_cpus=resources.segment_cpus,
            **of_blocks,
            **of_actors,
        )
    return label_blocks(
        rows,
        stage,
        fn_constructor_args=arguments,
        batch_size=1 if isolate else None,
        batch_format="pyarrow",
        compute=_label_pool(resources, isolate),
        num_cpus=resources.label_cpus,
        num_gpus=resources.num_gpus,
        **of_actors,
    ).map_batches(partial(write_batch, stages.write), num_cpus=WRITE_CPUS, **of_blocks, **of_tasks)


def _pool(n_workers: int, n_most: int, isolate: bool, **options: Any) -> ActorPoolStrategy:
    return ActorPoolStrategy(
        min_size=n_workers,
        max_size=max(n_workers, n_most),
        max_tasks_in_flight_per_actor=1 if isolate else None,  # queued rows die with it
        **options,
    )


def _label_pool(resources: RayConfig, isolate: bool) -> ActorPoolStrategy:
    """The pool of the label stage: two calls at a time, so one unpacks rows while one runs."""
    n_calls = 1 if isolate else 2
    return _pool(
        resources.label_workers,
        resources.label_workers_max,
        isolate,
        max_concurrent_calls_per_actor=n_calls,
    )


def _set_limits(context: DataContext, resources: RayConfig) -> None:
    """Ray Data's settings. Set them before a Dataset is created, because it copies them."""
    context.target_max_block_size = max(1, int(resources.batch_audio_s * _BYTES_PER_S))
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.max_errored_blocks = _LOST_TASKS
    # Ray's default is 30 minutes. A wait for a node counts as no progress, and may take longer.
    context.execution_no_progress_timeout_s = resources.no_progress_s or NO_LIMIT
