"""One recording at a time, in workers that hold nothing else: who kills a worker is known by name.

The last resort of a run, after `flow`: everything but decoding, VAD and the model happens in the
driver, and nothing in parallel, so it is for few recordings.
"""

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from pipeline.config import RunConfig
from pipeline.flow import chain as flow
from pipeline.runs.recovery import CRASH, error_row
from pipeline.stages.decode import write_rows
from pipeline.stages.label import FindSegments, LabelSegments
from pipeline.tables.bundles import RunInfo

_TRIES = 2


def label_alone(todo: pa.Table, config: RunConfig, run: RunInfo) -> Generator[flow.Receipt]:
    """As flow.label, but a recording that kills its worker twice becomes an error row.

    Needs a Ray session. Raises RunStopped when a worker cannot start, StoreError when the output
    cannot be written.
    """
    lane = _Lane(config, run)
    for index in range(todo.num_rows):
        rows = lane.label(todo.slice(index, 1))
        written = write_rows(rows, root=config.output, options=config.storage_options, run=run)
        yield flow.receipt_of(written.to_pylist()[0])


class _Lane:
    """The stages without Ray Data, called one after the other; a worker that died is replaced."""

    def __init__(self, config: RunConfig, run: RunInfo) -> None:
        resources = config.ray
        task = ray.remote(num_cpus=resources.decode_cpus, max_retries=0, num_returns="streaming")
        segment = ray.remote(num_cpus=resources.segment_cpus)(FindSegments)
        label = ray.remote(num_cpus=resources.label_cpus, num_gpus=resources.num_gpus)(
            LabelSegments
        )
        self._decode: Callable[[pa.Table], Any] = partial(
            task(_stream).remote, flow.decoder(config, run)
        )
        self._start: dict[str, Callable[[], Any]] = {
            "segment": partial(segment.remote, *flow.segmenter_args(config)),
            "label": partial(label.remote, *flow.labeller_args(config, run)),
        }
        self._workers: dict[str, Any] = {}
        self._stage = ""

    def label(self, planned: pa.Table) -> pa.Table:
        """One planned row to its bundle rows."""
        kind = message = ""
        for _ in range(_TRIES):
            try:
                return pa.concat_tables(self._steps(planned))
            except RayTaskError as error:  # raised where no stage expects it
                kind, message = type(error.cause).__name__, flow.last_line(error)
                break
            except RayError as error:
                if isinstance(error, ActorDiedError) and error.actor_init_failed:
                    raise flow.explain(error) from error
                self._workers.pop(self._stage, None)
                kind, message = CRASH, " ".join(str(error).split())
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
