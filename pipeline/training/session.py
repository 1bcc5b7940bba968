"""One worker's part of a fine-tuning: train, score on the way, and choose what is written.

The same with and without Ray. The first worker scores and stores; the others wait for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.models.sensevoice.decoding import load_vocabulary
from pipeline.models.sensevoice.module import load_module
from pipeline.training.averaging import holding
from pipeline.training.loop import PlannedStep, StepReport, Trainer, Worker
from pipeline.training.losses import LossForm
from pipeline.training.prepare import Prepared, open_checkpoints, plan_steps
from pipeline.training.scores import SetScore, mean_error, score_sets
from pipeline.training.selection import Choice, Selection, choose_mix
from pipeline.training.tensors import BatchReader
from pipeline.training.trainable import choose_trained, mixed, weights_of


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told of the progress, on the first worker."""

    step: Callable[[StepReport], None]
    scores: Callable[[int, Sequence[SetScore]], None]  # after so many steps; 0: the start


@dataclass(frozen=True, slots=True)
class Trained:
    """What the first worker has in the end."""

    weights: Mapping[str, Tensor]  # under FunASR's names
    n_steps: int
    losses: Sequence[StepReport]  # of the steps since the last start of the program
    choice: Choice | None  # None: there is no held-out set


class Session:
    """Loads the model and the newest checkpoint. Raises ModelError, ConfigError, StoreError."""

    def __init__(self, prepared: Prepared, worker: Worker, listener: Listener) -> None:
        config = prepared.config
        self._prepared, self._worker, self._listener = prepared, worker, listener
        self._vocabulary = load_vocabulary(str(prepared.start.tokenizer))
        self._reader = BatchReader(prepared.start, config.storage_options)
        self._module = load_module(prepared.start, worker.device, _dropout(prepared, worker))
        choose_trained(self._module, config.train, config.lora_rank, config.seed)
        self._steps = plan_steps(prepared)
        self._due = _due_steps(self._steps, config.evaluate_every)
        self._trainer = Trainer(
            *(self._module, prepared.data.trained, self._steps, self._reader),
            *(_form_of(prepared.start.config), config, worker),
        )
        self._checkpoints = open_checkpoints(prepared)
        self._selection = Selection(config.average, config.patience)
        self._losses: list[StepReport] = []

    def run(self) -> Trained | None:
        """Train what is left. The first worker returns what came of it, the others None.

        Raises RunStopped if the loss is not finite.
        """
        before = self._score(0) if self._worker.is_first else []
        if found := self._checkpoints.load_newest():
            step, state = found
            self._trainer.restore(step, state["trainer"])
            self._selection.restore(state["selection"])
        if not self._selection.is_over:
            self._trainer.run(self._report, self._after)
        if not self._worker.is_first:
            return None
        weights, choice = self._average(), None
        if self._prepared.data.valid:
            weights, choice = self._choose(weights, before)
        return Trained(weights, self._trainer.step, self._losses, choice)

    def _report(self, told: StepReport) -> None:
        self._losses.append(told)
        if self._worker.is_first:
            self._listener.step(told)

    def _after(self, step: int) -> bool:
        """Score and store where it is due; whether to stop."""
        is_over = False
        if self._prepared.data.valid and step in self._due:
            if self._worker.is_first:
                self._checkpoints.keep_weights(step, self._trainer.ema.values)
                with holding(self._trainer.trained, self._trainer.ema.values):
                    scores = self._score(step)
                self._selection.add(step, mean_error(scores))
            is_over = self._agree(self._selection.is_over)
        is_last = is_over or step == len(self._steps)
        if self._worker.is_first and (
            is_last or step % self._prepared.config.checkpoint_every == 0
        ):
            told = {"trainer": self._trainer.state(), "selection": self._selection.state()}
            self._checkpoints.save(step, told)
            self._checkpoints.drop_weights(but=self._selection.steps())
        return is_over

    def _agree(self, is_over: bool) -> bool:
        """What the first worker says, on all."""
        if self._worker.n_workers == 1:
            return is_over
        told = torch.tensor([float(is_over)], device=self._worker.device)
        torch.distributed.broadcast(told, src=0)
        return bool(told.item())

    def _score(self, step: int) -> list[SetScore]:
        scores = score_sets(
            *(self._module, self._prepared.data.valid, self._reader, self._vocabulary),
            self._prepared.config.batch_s,
        )
        if scores:
            self._listener.scores(step, scores)
        return scores

    def _average(self) -> dict[str, Tensor]:
        """The mean of the best weights on the way; without scores, those of the last step."""
        trainer = self._trainer
        if not self._selection.kept:
            with holding(trainer.trained, trainer.ema.values):
                return weights_of(self._module)
        mean: dict[str, Tensor] = {}
        for n, step in enumerate(self._selection.steps(), start=1):
            with holding(trainer.trained, self._checkpoints.kept_weights(step)):
                weights = weights_of(self._module)  # adapters are merged before the mean
            mean = mixed(mean, weights, 1 / n) if mean else weights
        return mean

    def _choose(
        self, new: Mapping[str, Tensor], before: Sequence[SetScore]
    ) -> tuple[dict[str, Tensor], Choice]:
        config, data = self._prepared.config, self._prepared.data
        start = load_module(self._prepared.start, self._worker.device)
        old = weights_of(start)
        tried = start  # its weights are replaced, `old` are copies

        def score(weights: Mapping[str, Tensor]) -> list[SetScore]:
            tried.load_state_dict(dict(weights))
            batch_s = config.batch_s
            return score_sets(tried, data.valid, self._reader, self._vocabulary, batch_s)

        return choose_mix(
            old, new, config.mix_with_start, score, before, config.gates.max_regression
        )


def _due_steps(steps: Sequence[PlannedStep], every: int | None) -> set[int]:
    """After how many steps there are scores: every so many, or at the end of each epoch."""
    last = len(steps)
    if every:
        return {*range(every, last + 1, every), last}
    ends = {one.number for one in steps if one.number and one.epoch != steps[one.number - 1].epoch}
    return {*ends, last}


def _form_of(config: Mapping[str, Any]) -> LossForm:
    conf = config.get("model_conf", {})
    return LossForm(
        per_tag=bool(conf.get("length_normalized_loss", False)),
        smoothing=float(conf.get("lsm_weight", 0.0)),
    )


def _dropout(prepared: Prepared, worker: Worker) -> float:
    given = prepared.config.dropout
    return given if given is not None else 0.1 * (worker.device.type == "cuda")
