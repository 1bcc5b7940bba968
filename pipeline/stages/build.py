"""Build the stages of a run from its configuration. Models are loaded later, in the workers.

`Stages` is the only place where a run's parts can be replaced: with another model, another VAD, or
in tests with stages that crash. `runs.execute` and `flow.chain.label` take one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.models.files import resolve_vad
from pipeline.stages.decode import decode_recordings
from pipeline.stages.write import write_rows
from pipeline.storage.address import local_path
from pipeline.tables.run_records import RunInfo

if TYPE_CHECKING:  # torch takes seconds and 600 MB; only processes with a model import it
    from pipeline.models.sensevoice.model import Transcriber
    from pipeline.models.vad.load import Vad


@dataclass(frozen=True, slots=True)
class Stages:
    """The parts of a run's stages. All are sent to workers, so each must be picklable."""

    decode: Callable[[pa.Table], Iterator[pa.Table]]  # PLANNED rows to WINDOW rows
    load_vad: Callable[[str], "Vad"]  # takes a device: cpu, cuda or auto
    load_model: Callable[[], "Transcriber"]
    write: Callable[[pa.Table], pa.Table]  # BUNDLE rows to a receipt of one row


BuildStages = Callable[[RunConfig, RunInfo], Stages]


def build_stages(config: RunConfig, run: RunInfo) -> Stages:
    """The stages that a configuration describes."""
    config = with_absolute_paths(config)
    options = config.storage_options
    return Stages(
        decode=partial(
            decode_recordings,
            config=config.audio,
            options=options,
            run_id=run.run_id,
            measure=config.quality.measure,
        ),
        load_vad=partial(load_vad, config),
        load_model=partial(load_model, config, run.model_hash),
        write=partial(
            write_rows,
            root=config.output,
            options=options,
            run=run,
            patience_s=config.store_patience_s,
        ),
    )


def without_measures(config: RunConfig) -> RunConfig:
    """For stages whose rows become no tables: the meter takes seconds to load."""
    quality = config.quality.model_copy(update={"measure": False})
    return config.model_copy(update={"quality": quality})


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Local paths made absolute: the workers may be in another directory than the driver.

    Names that are no local path (URIs, hub ids, "silero") stay as they are.
    """
    paths = {
        name: str(Path(value).absolute())
        for name in ("model", "vad")
        if Path(value := getattr(config, name)).is_dir()
    }
    for name in ("manifest", "output"):
        value = local_path(getattr(config, name)) or getattr(config, name)  # file:/x is /x
        if "://" not in value:
            paths[name] = str(Path(value).expanduser().absolute())
    return config.model_copy(update=paths)


def load_vad(config: RunConfig, device: str = "cpu") -> "Vad":
    """Load the VAD of a run in this worker. Raises ModelError."""
    from pipeline.models.vad import load

    name, _ = resolve_vad(config)
    return load.load_vad(name, config.segment, device)


def load_model(config: RunConfig, model_hash: str) -> "Transcriber":
    """Load the SenseVoice model of a run in this worker. Raises ModelError.

    `model_hash` is the hash of the model that the driver planned with. A worker that finds other
    files under the same name must not label with them.
    """
    if config.label.backend == "onnxruntime":
        from pipeline.convert.backend import load_onnx

        return load_onnx(config, model_hash)
    from pipeline.models.sensevoice.model import load_sensevoice

    return load_sensevoice(config, model_hash)
