"""What a fine-tuning needs, found and checked before it starts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.models.files import ModelFiles, resolve_model
from pipeline.models.sensevoice.decoding import load_vocabulary
from pipeline.storage.store import open_store
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.data import TrainingData, plan_epochs, read_data
from pipeline.training.loop import PlannedStep
from pipeline.training.model_directory import check_absent
from pipeline.training.settings import FinetuneConfig


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that the workers need."""

    config: FinetuneConfig
    start: ModelFiles
    data: TrainingData
    output: Path

    @property
    def identity(self) -> str:
        """A hash of all that decides the weights; checkpoints of another one do not fit."""
        places = {"output", "checkpoints", "checkpoint_every", "storage_options"}
        told = self.config.model_dump(exclude=places)
        rows = [(one.row, one.tokens, one.tags) for one in self.data.trained]
        return hashlib.sha256(repr((told, self.start.sha256, rows)).encode()).hexdigest()


def prepare(config: FinetuneConfig) -> Prepared:
    """Finds the model and reads all rows. Raises ConfigError, ModelError, StoreError."""
    output = check_absent(config.output)
    start = resolve_model(
        config.model,
        hub=config.hub,
        revision=config.model_revision,
        options=config.storage_options,
    )
    vocabulary = load_vocabulary(str(start.tokenizer))
    data = read_data(config.data, vocabulary, config.storage_options)
    return Prepared(config, start, data, output)


def plan_steps(prepared: Prepared, n_workers: int) -> list[PlannedStep]:
    """All steps of all epochs, up to `max_steps`."""
    config = prepared.config
    epochs = plan_epochs(prepared.data, config, n_workers * config.accumulate)
    steps = [(epoch, step) for epoch, steps in enumerate(epochs) for step in steps]
    return [PlannedStep(i, *one) for i, one in enumerate(steps[: config.max_steps])]


def open_checkpoints(prepared: Prepared) -> Checkpoints:
    """Where the state of an unfinished fine-tuning is."""
    config = prepared.config
    place = config.checkpoints or f"{prepared.output}.checkpoints"
    return Checkpoints(open_store(place, config.storage_options), prepared.identity)
