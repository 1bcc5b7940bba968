"""What the stages of a run are made of. Loads a model only when it is called in a worker.

`Stages` is the one seam between a run and its parts: another model, another VAD or a test that
kills workers gives its own to `runs.execute` or `flow.label`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.models.files import resolve_vad
from pipeline.stages.decode import decode_recordings
from pipeline.stages.write import write_rows
from pipeline.tables.run_records import RunInfo

if TYPE_CHECKING:  # torch takes seconds and 600 MB: only where a model is built
    from pipeline.models.sensevoice.model import Transcriber
    from pipeline.models.vad.load import Vad


@dataclass(frozen=True, slots=True)
class Stages:
    """The parts of a run's stages. All travel to workers, so each must be picklable."""

    decode: Callable[[pa.Table], Iterator[pa.Table]]  # PLANNED rows to WINDOW rows
    load_vad: Callable[[str], "Vad"]  # takes a device: cpu, cuda or auto
    load_model: Callable[[], "Transcriber"]
    write: Callable[[pa.Table], pa.Table]  # BUNDLE rows to a receipt of one row


BuildStages = Callable[[RunConfig, RunInfo], Stages]


def build_stages(config: RunConfig, run: RunInfo) -> Stages:
    """The stages that a configuration describes."""
    options = config.storage_options
    return Stages(
        decode=partial(decode_recordings, config=config.audio, options=options, run_id=run.run_id),
        load_vad=partial(load_vad, config),
        load_model=partial(load_model, config, run.model_hash),
        write=partial(write_rows, root=config.output, options=options, run=run),
    )


def load_vad(config: RunConfig, device: str = "cpu") -> "Vad":
    """The VAD of a run, on this worker. Raises ModelError."""
    from pipeline.models.vad import load

    name, _ = resolve_vad(config)
    return load.load_vad(name, config.segment, device)


def load_model(config: RunConfig, model_hash: str) -> "Transcriber":
    """The SenseVoice model of a run, on this worker. Raises ModelError.

    `model_hash` is what the driver planned with: a worker that finds other files under the same
    name must not label with them.
    """
    from pipeline.models.sensevoice.model import load_sensevoice

    return load_sensevoice(config, model_hash)
