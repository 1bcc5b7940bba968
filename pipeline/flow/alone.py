"""Last resort: one recording per call, so a crash can be blamed on that recording.

Recordings are processed one after the other, and all but decoding, VAD and the model runs in the
driver. So it is for few recordings.
"""

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from pipeline.config import RunConfig
from pipeline.errors import ErrorType
from pipeline.flow.explain import explain, last_line
from pipeline.flow.workers import labeller_args, segmenter_args
from pipeline.stages.build import Stages, build_stages
from pipeline.stages.error_rows import error_row
from pipeline.stages.label import LabelSegments
from pipeline.stages.receipt import Receipt, receipt_of
from pipeline.stages.segment import FindSegments
from pipeline.tables.run_records import RunInfo

_TRIES = 2


def label_alone(
    todo: pa.Table, config: RunConfig, run: RunInfo, *, stages: Stages | None = None
) -> Generator[Receipt]:
    """As chain.label, but a recording whose worker dies twice becomes an error row.

    Needs a Ray session. Raises RunStopped when a worker cannot start.
    """
    stages = stages or build_stages(config, run)
    workers = _Workers(stages, config, run.run_id)
    for index in range(todo.num_rows):
        rows = workers.label(todo.slice(index, 1))
        yield receipt_of(stages.write(rows).to_pylist()[0])


class _Workers:
    """The stages as plain Ray tasks and actors; an actor that died is replaced."""

    def __init__(self, stages: Stages, config: RunConfig, run_id: str) -> None:
        resources = config.ray
        task = ray.remote(num_cpus=resources.decode_cpus, max_retries=0, num_returns="streaming")
        segment = ray.remote(num_cpus=resources.segment_cpus)(FindSegments)
        label = ray.remote(num_cpus=resources.label_cpus, num_gpus=resources.num_gpus)(
            LabelSegments
        )
        self._decode: Callable[[pa.Table], Any] = partial(task(_stream).remote, stages.decode)
        self._start: dict[str, Callable[[], Any]] = {
            "segment": partial(segment.remote, *segmenter_args(stages, config)),
            "label": partial(label.remote, *labeller_args(stages, config, run_id)),
        }
        self._workers: dict[str, Any] = {}
        self._stage = ""

    def label(self, planned: pa.Table) -> pa.Table:
        """One planned row to its bundle rows."""
        kind = message = ""
        for _ in range(_TRIES):
            try:
                return pa.concat_tables(self._steps(planned))
            except RayTaskError as error:  # an exception that no stage turns into a row
                kind, message = type(error.cause).__name__, last_line(error)
                break
            except RayError as error:
                if isinstance(error, ActorDiedError) and error.actor_init_failed:
                    raise explain(error) from error
                self._workers.pop(self._stage, None)
                kind, message = ErrorType.WORKER_CRASH.value, " ".join(str(error).split())
        row = planned.to_pylist(maps_as_pydicts="strict")[0]
        return error_row(row, self._stage, kind, message)

    def _steps(self, planned: pa.Table) -> Iterator[pa.Table]:
        self._stage = "decode"
        for window in self._decode(planned):
            rows = ray.get(window)
            for stage in self._start:
                rows = self._call(stage, rows)
            yield rows
            self._stage = "decode"

    def _call(self, stage: str, rows: pa.Table) -> pa.Table:
        self._stage = stage
        if stage not in self._workers:
            self._workers[stage] = self._start[stage]()
        return ray.get(self._workers[stage].__ray_call__.remote(_apply, rows))


def _stream(stage: Callable[[pa.Table], Iterator[pa.Table]], rows: pa.Table) -> Iterator[pa.Table]:
    yield from stage(rows)


def _apply(stage: FindSegments | LabelSegments, rows: pa.Table) -> pa.Table:
    done = stage(rows)
    return done if isinstance(done, pa.Table) else pa.concat_tables(done)
