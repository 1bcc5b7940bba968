"""The chain of stages and what each one costs: the only module that imports ray.

planned rows -> decode -> find segments -> label -> one bundle per row batch -> receipts
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

# Started under `uv run`, Ray would pack the working directory and rebuild the environment for its
# workers; on one machine that is a waste. These are read when ray is imported or started.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # ray#57733: harmless lines that look bad
os.environ.setdefault("RAY_worker_niceness", "0")  # the default, 15, starves workers on a laptop

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.bundles import RunInfo
from pipeline.config import RayConfig, RunConfig
from pipeline.model_files import resolve_vad
from pipeline.stages import FindSegments, LabelSegments, decode_recordings, write_rows

if TYPE_CHECKING:
    from pipeline.sensevoice import SenseVoice
    from pipeline.vad_models import Vad

_BLOCK_BYTES = 32 << 20  # a 30-minute window is 58 MB; smaller blocks keep the stream fine-grained
_MAX_BLOCKS = 10_000
_WRITE_CPUS = 0.25
_STAGES = ("decode_recordings", "FindSegments", "LabelSegments", "write_rows")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one bundle holds."""

    n_recordings: int
    n_errors: int
    n_segments: int
    audio_s: float


class _Watch(ExecutionCallback):
    """How far each stage is; Ray Data tells it to nobody else.

    The class travels to the workers with the DataContext, hence by name: what it tells and to whom
    is an attribute of the class, set in the driver alone.
    """

    listener: ClassVar[Callable[[Mapping[str, int]], None]] = staticmethod(lambda rows_done: None)

    def on_execution_step(self, executor: Any) -> None:
        rows = {
            stage: operator.metrics.rows_task_outputs_generated
            for operator in executor._topology
            for stage in _STAGES
            if stage in operator.name
        }
        type(self).listener(rows)


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """A running Ray: the caller's own, the job's or `ray.address`'s, else one on this machine."""
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        with _native_stderr_closed():
            ray.init(address=address, **quiet)
    else:
        # Logical CPUs: at least what the actors hold, one decode task and one write beside them.
        needed = math.ceil(
            config.segment_workers * config.segment_cpus
            + config.label_workers * config.label_cpus
            + config.decode_cpus
            + _WRITE_CPUS
        )
        with _native_stderr_closed():
            ray.init(
                num_cpus=max(config.num_cpus or os.cpu_count() or 1, needed),
                object_store_memory=config.object_store_bytes,
                include_dashboard=False,
                **quiet,
            )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Ray's C++ side announces its log level (logging.cc), whatever that level is."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def label(
    todo: pa.Table,
    config: RunConfig,
    run: RunInfo,
    on_progress: Callable[[Mapping[str, int]], None] = lambda rows_done: None,
) -> Iterator[Receipt]:
    """Run planned rows (schema.PLANNED) through the corridor; one receipt per bundle written.

    `on_progress` hears how many rows each stage has put out, by stage name. Needs a Ray session.
    """
    _prepare_context(on_progress)
    options = config.storage_options
    n_blocks = min(math.ceil(todo.num_rows / 4), _MAX_BLOCKS)
    resources = config.ray
    receipts = (
        ray.data.from_arrow(todo, override_num_blocks=max(1, n_blocks))
        .map_batches(
            partial(decode_recordings, config=config.audio, options=options, run_id=run.run_id),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=resources.decode_cpus,
        )
        .map_batches(
            FindSegments,
            fn_constructor_args=(partial(_load_vad, config), config.segment),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=resources.segment_workers),
            num_cpus=resources.segment_cpus,
        )
        .map_batches(
            LabelSegments,
            fn_constructor_args=(partial(_load_sensevoice, config, run.model_hash), config.label),
            batch_size=resources.rows_per_batch,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=resources.label_workers, max_concurrent_calls_per_actor=2
            ),
            num_cpus=resources.label_cpus,
            num_gpus=resources.num_gpus,
        )
        .map_batches(
            partial(write_rows, root=config.output, options=options, run=run),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_WRITE_CPUS,
        )
    )
    for row in receipts.iter_rows():
        yield Receipt(row["n_recordings"], row["n_errors"], row["n_segments"], row["audio_s"])


def _load_vad(config: RunConfig) -> "Vad":
    from pipeline.vad_models import load_vad

    name, _ = resolve_vad(config)
    return load_vad(name, config.segment)


def _load_sensevoice(config: RunConfig, model_hash: str) -> "SenseVoice":
    from pipeline.sensevoice import load_sensevoice

    return load_sensevoice(config, model_hash)


def _prepare_context(on_progress: Callable[[Mapping[str, int]], None]) -> None:
    """Settings of Ray Data; they are copied into a Dataset when it is made, hence before."""
    context = DataContext.get_current()
    context.target_max_block_size = _BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False

    _Watch.listener = staticmethod(on_progress)
    context.custom_execution_callback_classes = [_Watch]
    logging.getLogger("ray.data").setLevel(logging.ERROR)
