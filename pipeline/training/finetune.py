"""One fine-tuning, from checked rows to a model directory. Prints nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pipeline import __version__
from pipeline.models.device import pick_device
from pipeline.training.data import report_on
from pipeline.training.loop import StepReport, Worker
from pipeline.training.model_directory import write_model
from pipeline.training.prepare import Prepared, open_checkpoints
from pipeline.training.scores import SetScore
from pipeline.training.selection import Choice
from pipeline.training.session import Listener, Session, Trained


@dataclass(frozen=True, slots=True)
class Finished:
    """What was written, and how it came about."""

    output: str
    n_steps: int
    losses: Sequence[StepReport]  # since the last start of the program
    choice: Choice | None  # None: there was no held-out set, so nothing was scored

    @property
    def is_better(self) -> bool:
        """Whether the new model is another one than the start, as far as it was scored."""
        return self.choice is None or self.choice.is_better


def finetune(prepared: Prepared, listener: Listener) -> Finished:
    """Train in this process and write the model. Resumes from the newest checkpoint.

    Raises RunStopped if the loss is not finite, ConfigError for checkpoints of another fine-tuning.
    """
    trained = Session(prepared, Worker(device=pick_device(prepared.config.device)), listener).run()
    assert trained is not None  # this is the first worker
    return write(prepared, trained)


def write(prepared: Prepared, trained: Trained) -> Finished:
    """Write the model directory, then delete the checkpoints."""
    options, facts = prepared.config.storage_options, facts_of(prepared, trained)
    write_model(prepared.output, options, prepared.start, trained.weights, facts)
    open_checkpoints(prepared).clear()
    return Finished(prepared.output, trained.n_steps, trained.losses, trained.choice)


def facts_of(prepared: Prepared, trained: Trained) -> dict[str, Any]:
    """finetune.json: where the model comes from. No storage options: they may hold a credential."""
    return {
        "program": f"sensevoice-pipeline {__version__}",
        "torch": torch.__version__,
        "start_sha256": prepared.start.sha256,
        "config": prepared.config.model_dump(mode="json", exclude={"storage_options"}),
        "identity": prepared.identity,
        "n_steps": trained.n_steps,
        "loss": {"first": _loss(trained.losses[:1]), "last": _loss(trained.losses[-1:])},
        "scores": scores_of(trained.choice) if trained.choice else None,
        "data": [asdict(one) for one in report_on(prepared.data)],
        "dropped": {
            part.name: [asdict(row) for row in part.dropped] for part in prepared.data.parts
        },
    }


def scores_of(choice: Choice) -> dict[str, Any]:
    """Before and after, per set, and all mixes that were tried."""
    return {
        "share_of_new_weights": choice.chosen.share,
        "is_better": choice.is_better,
        "before": _by_set(choice.candidates[0].scores),
        "after": _by_set(choice.chosen.scores),
        "tried": [
            {
                "share": one.share,
                "error": one.error,
                "sets": _by_set(one.scores),
                "regressions": [asdict(worse) for worse in one.regressions],
            }
            for one in choice.candidates
        ],
    }


def _by_set(scores: Sequence[SetScore]) -> Mapping[str, Any]:
    return {one.name: {"n_clips": one.n_clips, **one.metrics} for one in scores}


def _loss(told: Sequence[StepReport]) -> float | None:
    return told[0].loss if told else None
