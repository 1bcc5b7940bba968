"""The chain of stages and what each one costs. Ray is known here, to `watch` and to `alone`.

planned rows -> decode -> find segments -> label -> one bundle per row batch -> receipts

Ray restarts a dead worker for ever and gives it the same recording again. Here both are bounded: a
task that killed two workers is given up, and the flow goes on without its rows. Nobody notes which
ones (DataContext.max_errored_blocks drops them silently), so the caller compares plan and ledger
after the pass and hands the rest to `alone`, which knows who died of what.
"""

import logging
import math
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Started under `uv run`, Ray would pack the working directory and rebuild the environment for its
# workers; on one machine that is a waste. These are read when ray is imported or started.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # ray#57733: harmless lines that look bad
os.environ.setdefault("RAY_worker_niceness", "0")  # the default, 15, starves workers on a laptop
os.environ.setdefault("RAY_task_oom_retries", "2")  # the default is: for ever

import pyarrow as pa
import ray
import ray.data
from ray._private.log import PlainRayHandler
from ray.data import ActorPoolStrategy, DataContext
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.annotations import RayDeprecationWarning

from pipeline.config import RayConfig, RunConfig
from pipeline.flow.telemetry import MeteredModel
from pipeline.flow.watch import RESTARTS, StageState, Watch
from pipeline.models.files import resolve_vad
from pipeline.models.sensevoice.packing import group_by_seconds
from pipeline.planning.plan import guess_seconds
from pipeline.runs.recovery import PassEnded, RunStopped
from pipeline.stages.decode import decode_recordings, write_rows
from pipeline.stages.label import FindAndLabelSegments, FindSegments, LabelSegments
from pipeline.tables.bundles import RunInfo

if TYPE_CHECKING:
    from pipeline.models.sensevoice.model import SenseVoice
    from pipeline.models.vad.load import Vad

# Waveforms (int16) and features (float32, 80 every 10 ms) alike; a block of them is a row batch.
_BYTES_PER_S = 32_000
_MAX_BATCHES = 10_000  # in one pass: each is an object that the driver keeps track of
_BATCHES_PER_CPU = 4  # of a small corpus at least, so that nobody waits for the last one
_WRITE_CPUS = 0.25
_RETRIES = 1  # of one task whose worker died
_LOST_TASKS = 100  # given up for good, before a pass ends


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one bundle holds."""

    n_recordings: int
    n_errors: int
    errors: Sequence[str]  # error_type of each failed window
    example: str  # what the first of them says
    n_segments: int
    audio_s: float


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """A running Ray: the caller's own, the job's or `ray.address`'s, else one on this machine.

    Leaving it frees what actors held, those of a failed pass too, which Ray Data may leave behind.
    """
    if ray.is_initialized():
        yield
        return
    with _sigterm_kept():
        _start(config)
    try:
        yield
    finally:
        ray.shutdown()


def _start(config: RayConfig) -> None:
    address = config.address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _knock(address)
        with _native_stderr_closed():
            ray.init(address=address, **quiet)
    else:
        # Logical CPUs: at least what the actors hold, one decode task and one write beside them.
        n_segment_workers = 0 if config.segment_with_model else config.segment_workers
        needed = math.ceil(
            n_segment_workers * config.segment_cpus
            + config.label_workers * config.label_cpus
            + config.decode_cpus
            + _WRITE_CPUS
        )
        with _native_stderr_closed():
            ray.init(
                address="local",  # without it ray joins what `ray start` has left on this machine
                num_cpus=max(config.num_cpus or os.cpu_count() or 1, needed),
                object_store_memory=config.object_store_bytes,
                include_dashboard=False,
                **quiet,
            )


def _knock(address: str) -> None:
    """Ray itself waits for minutes, and says nothing, where nobody listens. Raises RunStopped."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return  # auto, ray://...: Ray knows where that is
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise RunStopped(
            f"ray.address {address}: no Ray answers ({error}); is its head up?"
        ) from error


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """ray.init takes SIGTERM over, with a handler that exits with code 15."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)


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
    on_progress: Callable[[Mapping[str, StageState]], None] = lambda stages: None,
    *,
    isolate: bool = False,
) -> Generator[Receipt]:
    """Run planned rows (schema.PLANNED) through the corridor; one receipt per bundle written.

    `on_progress` hears how far each stage is, by stage name. With `isolate` no worker holds two
    recordings at once. Recordings whose workers died are left out. Needs a Ray session. Raises
    PassEnded when workers keep dying, RunStopped when one cannot start or the code fails.
    """
    _prepare_context(on_progress, config.ray.batch_audio_s)
    with warnings.catch_warnings():  # max_restarts has no other name before ray 2.64
        warnings.simplefilter("ignore", RayDeprecationWarning)
        receipts = _chain(todo, config, run, isolate)
    try:
        for row in receipts.iter_rows():
            yield receipt_of(row)
    except (RayError, ExecutionTimeoutError) as error:
        raise explain(error) from error
    finally:
        Watch.release()


def _chain(todo: pa.Table, config: RunConfig, run: RunInfo, isolate: bool) -> ray.data.Dataset:
    resources = config.ray
    of_actors: dict[str, Any] = {"max_restarts": RESTARTS, "max_task_retries": _RETRIES}
    of_tasks: dict[str, Any] = {"max_retries": _RETRIES}
    in_flight = 1 if isolate else None  # what waits at a worker dies with it
    stage: type[FindAndLabelSegments | LabelSegments]
    windows = ray.data.from_arrow(_row_batches(todo, resources, isolate)).map_batches(
        decoder(config, run),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=resources.decode_cpus,
        **of_tasks,
    )
    rows, stage, made_of = windows, FindAndLabelSegments, hearer_args(config, run)
    if not resources.segment_with_model:
        stage, made_of = LabelSegments, labeller_args(config, run)
        rows = windows.map_batches(
            FindSegments,
            fn_constructor_args=segmenter_args(config),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=resources.segment_workers,
                max_size=max(resources.segment_workers, resources.segment_workers_max),
                max_tasks_in_flight_per_actor=in_flight,
            ),
            num_cpus=resources.segment_cpus,
            **of_actors,
        )
    # With GPUs `map_batches` wants a number of rows, whose audio may be seconds or hours. A whole
    # block, which is cut by its bytes, is what its developers' entrance lets through.
    return rows.map_batches_internal(
        stage,
        fn_constructor_args=made_of,
        batch_size=1 if isolate else None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=resources.label_workers,
            max_size=max(resources.label_workers, resources.label_workers_max),
            max_concurrent_calls_per_actor=1 if isolate else 2,
            max_tasks_in_flight_per_actor=in_flight,
        ),
        num_cpus=resources.label_cpus,
        num_gpus=resources.num_gpus,
        **of_actors,
    ).map_batches(
        partial(write_rows, root=config.output, options=config.storage_options, run=run),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=_WRITE_CPUS,
        **of_tasks,
    )


def _row_batches(todo: pa.Table, resources: RayConfig, isolate: bool) -> list[pa.Table]:
    """The planned rows in blocks of about `batch_audio_s`, as far as can be told before decoding.

    Each is one task for decoding, whose windows come out in blocks that are cut by their bytes.
    """
    if isolate:
        return [todo.slice(index, 1) for index in range(todo.num_rows)]
    n_cpus = ray.cluster_resources().get("CPU", 1.0)
    n_least = math.ceil(_BATCHES_PER_CPU * n_cpus)
    groups = group_by_seconds(
        guess_seconds(todo), resources.batch_audio_s, n_least=n_least, n_most=_MAX_BATCHES
    )
    return [todo.slice(group.start, group.stop - group.start) for group in groups]


def receipt_of(row: Mapping[str, Any]) -> Receipt:
    """A row of stages.write_rows."""
    return Receipt(**{field: row[field] for field in Receipt.__slots__})


def explain(error: Exception) -> Exception:
    """What Ray says, in one line: RunStopped for a fault of model or code, else PassEnded."""
    if isinstance(error, ActorDiedError) and error.actor_init_failed:
        return RunStopped(f"a worker cannot start: {last_line(error)}")
    if isinstance(error, RayTaskError):
        return RunStopped(f"a worker failed: {last_line(error)}")
    return PassEnded(f"{type(error).__name__}: {last_line(error)}")


def last_line(error: Exception) -> str:
    """The error itself: what a traceback from a worker ends with."""
    return str(error).strip().rpartition("\n")[2].strip()


def decoder(config: RunConfig, run: RunInfo) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """decode_recordings with all but the rows."""
    options = config.storage_options
    return partial(decode_recordings, config=config.audio, options=options, run_id=run.run_id)


def segmenter_args(config: RunConfig) -> tuple[Any, ...]:
    """What FindSegments is made of in a worker."""
    return partial(_load_vad, config), config.segment


def labeller_args(config: RunConfig, run: RunInfo) -> tuple[Any, ...]:
    """What LabelSegments is made of in a worker."""
    load = partial(_load_sensevoice, config, run.model_hash)
    return partial(MeteredModel, load, run.run_id), config.label


def hearer_args(config: RunConfig, run: RunInfo) -> tuple[Any, ...]:
    """What FindAndLabelSegments is made of in a worker."""
    device = config.label.device
    load = partial(_load_vad, config, device)
    return load, config.segment, *labeller_args(config, run)


def _load_vad(config: RunConfig, device: str = "cpu") -> "Vad":
    from pipeline.models.vad.load import load_vad

    name, _ = resolve_vad(config)
    return load_vad(name, config.segment, device)


def _load_sensevoice(config: RunConfig, model_hash: str) -> "SenseVoice":
    from pipeline.models.sensevoice.model import load_sensevoice

    return load_sensevoice(config, model_hash)


def _prepare_context(
    on_progress: Callable[[Mapping[str, StageState]], None], batch_audio_s: float
) -> None:
    """Settings of Ray Data; they are copied into a Dataset when it is made, hence before."""
    context = DataContext.get_current()
    context.target_max_block_size = max(1, int(batch_audio_s * _BYTES_PER_S))
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False

    Watch.listener = staticmethod(on_progress)
    context.custom_execution_callback_classes = [Watch]
    context.max_errored_blocks = _LOST_TASKS
    # A lost worker fills a screen; Ray keeps the same in its session's logs/ray-data/ray-data.log.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, PlainRayHandler):
            handler.setLevel(logging.CRITICAL)
