"""What a fine-tuning needs, found and checked before it starts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.models.files import ModelFiles, resolve_model
from pipeline.models.sensevoice.decoding import load_vocabulary
from pipeline.storage.address import is_uri
from pipeline.storage.store import open_store
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.data import TrainingData, plan_epochs, read_data
from pipeline.training.loop import PlannedStep
from pipeline.training.model_directory import check_absent
from pipeline.training.settings import FinetuneConfig

# Keys that do not decide the weights, or of which something else is told.
_NO_PART = {
    *("model", "output", "checkpoints", "checkpoint_every", "storage_options", "device"),
    *("event_files", "ray", "accumulate"),
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that the workers need."""

    config: FinetuneConfig
    start: ModelFiles
    data: TrainingData
    output: str  # absolute path or URI
    n_workers: int

    @property
    def identity(self) -> str:
        """A hash of all that decides the weights; checkpoints of another one do not fit."""
        told = self.config.model_dump(exclude=_NO_PART)
        rows = [(one.row, one.tokens, one.tags) for one in self.data.trained]
        parts = told, self.n_per_step, self.start.sha256, rows
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def n_per_step(self) -> int:
        """Batches of a step, on all workers."""
        return self.n_workers * self.config.accumulate


def find_start(config: FinetuneConfig) -> ModelFiles:
    """The files of the start model on this machine. Raises ModelError."""
    return resolve_model(
        config.model,
        hub=config.hub,
        revision=config.model_revision,
        options=config.storage_options,
    )


def prepare(config: FinetuneConfig, n_workers: int = 1) -> Prepared:
    """Finds the model and reads all rows. Raises ConfigError, ModelError, StoreError."""
    output = check_absent(config.output, config.storage_options)
    start = find_start(config)
    vocabulary = load_vocabulary(str(start.tokenizer))
    data = read_data(config.data, vocabulary, config.storage_options)
    return Prepared(_absolute(config, output), start, data, output, n_workers)


def _absolute(config: FinetuneConfig, output: str) -> FinetuneConfig:
    """Without paths that are relative to the working directory: workers have another one."""
    model = Path(config.model).expanduser()
    place = config.checkpoints or f"{output}.checkpoints"
    return config.model_copy(
        update={
            "model": str(model.resolve()) if model.is_dir() else config.model,
            "checkpoints": place if is_uri(place) else str(Path(place).expanduser().absolute()),
        }
    )


def plan_steps(prepared: Prepared) -> list[PlannedStep]:
    """All steps of all epochs, up to `max_steps`."""
    config = prepared.config
    epochs = plan_epochs(prepared.data, config, prepared.n_per_step)
    steps = [(epoch, step) for epoch, steps in enumerate(epochs) for step in steps]
    return [PlannedStep(i, *one) for i, one in enumerate(steps[: config.max_steps])]


def open_checkpoints(prepared: Prepared) -> Checkpoints:
    """Where the state of an unfinished fine-tuning is."""
    config = prepared.config
    store = open_store(config.checkpoints, config.storage_options)
    return Checkpoints(store, prepared.identity)
