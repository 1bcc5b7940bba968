"""The training loop: the same on one worker or several, with or without Ray, which it knows not.

The step, and nothing that ran before it, decides what is drawn by chance and which rate applies. So
a run that was killed and resumes from a checkpoint ends with the same weights, bit for bit, on one
worker.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import RunStopped
from pipeline.training.averaging import Ema
from pipeline.training.batches import PlannedBatch, Step
from pipeline.training.examples import Example
from pipeline.training.losses import Divisors, LossForm, ctc_loss, tag_loss, total_loss
from pipeline.training.settings import FinetuneConfig
from pipeline.training.tensors import Batch, BatchReader, Draw, numbered
from pipeline.training.trainable import trained_of


@dataclass(frozen=True, slots=True)
class Worker:
    """Which of the workers this process is."""

    rank: int = 0
    n_workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step: its batches on all workers, and the seed of its epoch."""

    number: int  # from 0
    epoch: int
    batches: Step


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step was like, over all workers."""

    step: int  # steps done
    n_steps: int
    loss: float
    ctc: float
    tags: float
    lr: float
    grad_norm: float


class Trainer:
    """A module in training, its optimiser, and how many steps are done."""

    def __init__(
        self,
        module: nn.Module,
        examples: Sequence[Example],
        steps: Sequence[PlannedStep],
        reader: BatchReader,
        form: LossForm,
        config: FinetuneConfig,
        worker: Worker,
    ) -> None:
        self.module, self.step = module, 0
        self.trained = trained_of(module)
        self.ema = Ema(self.trained, config.ema)
        self._examples, self._steps, self._reader = examples, steps, reader
        self._form, self._config, self._worker = form, config, worker
        self._network = DistributedDataParallel(module) if worker.n_workers > 1 else module
        self._optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=config.peak_lr,
            weight_decay=config.weight_decay,
        )
        self._autocast = config.precision == "bf16" or (
            config.precision == "auto" and worker.device.type == "cuda"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; weights that are not trained are those of the start."""
        return {
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "ema": self.ema.values,
            "optimizer": self._optimizer.state_dict(),
        }

    @torch.no_grad()
    def restore(self, step: int, state: Mapping[str, Any]) -> None:
        for name, value in self.trained.items():
            value.copy_(state["trained"][name])
        self.ema.load(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = step

    def run(self, report: Callable[[StepReport], None], after: Callable[[int], bool]) -> None:
        """All steps that are left, until `after` (steps done -> whether to stop) says so.

        All workers call it, and it must answer the same on all. Raises RunStopped for a loss that
        no model can have.
        """
        self.module.train()
        for planned in self._steps[self.step :]:
            told = self._take(planned)
            self.step = planned.number + 1
            self.ema.update(self.step)
            report(told)
            if after(self.step):
                return

    def _take(self, planned: PlannedStep) -> StepReport:
        """One step of the optimiser."""
        config, worker = self._config, self._worker
        torch.manual_seed(_seed_of(config.seed, planned.number, worker.rank))  # dropout
        rate = rate_at(planned.number, len(self._steps), config.warmup_share) * config.peak_lr
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        sums = self._gradients(planned)
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), config.grad_clip))
        self._check(sums, norm, planned)
        self._optimizer.step()
        loss, ctc, tags = sums.tolist()
        return StepReport(planned.number + 1, len(self._steps), loss, ctc, tags, rate, norm)

    def _gradients(self, planned: PlannedStep) -> Tensor:
        """Leaves the gradient of the whole step in the parameters; its losses, float32 (3,)."""
        divisors = self._divisors(planned.batches)
        n_workers = self._worker.n_workers
        mine = planned.batches[self._worker.rank :: n_workers]
        sums = torch.zeros(3, device=self._worker.device)
        for place, (batch, counts) in enumerate(self._read(planned, mine)):
            with self._synchronised(is_last=place == len(mine) - 1):
                ctc, tags = self._losses(batch)
                loss = total_loss(ctc, tags, self._form, divisors)
                # DDP divides the sum of the workers' gradients by their number.
                (loss * (n_workers * counts)).backward()
            share = ctc / divisors.n_clips
            sums += torch.stack([loss, share, loss - share]).detach() * counts
        if n_workers > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        device = self._worker.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._autocast):
            logits, lengths = self._network(
                batch.speech, batch.lengths, batch.language, batch.textnorm
            )
        ctc = ctc_loss(logits, lengths, batch.targets, batch.target_lengths, batch.has_text)
        return ctc, tag_loss(logits, batch.tags, self._form.smoothing)

    def _read(
        self, planned: PlannedStep, mine: Sequence[PlannedBatch]
    ) -> Iterator[tuple[Batch, bool]]:
        config = self._config
        draw = Draw((config.seed, planned.epoch), config.language_prompt_share, config.specaug)
        for batch in mine:
            read = self._reader.read(numbered(self._examples, batch.members), draw)
            yield read.to(self._worker.device), batch.counts

    def _divisors(self, batches: Step) -> Divisors:
        members = [i for batch in batches if batch.counts for i in batch.members]
        return Divisors(len(members), sum(self._examples[i].n_tags for i in members))

    def _synchronised(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """DDP adds up the workers' gradients after the last batch of a step only."""
        if is_last or not isinstance(self._network, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._network.no_sync()

    def _check(self, sums: Tensor, norm: float, planned: PlannedStep) -> None:
        ctc = float(sums[1])
        if math.isfinite(float(sums[0])) and math.isfinite(norm) and ctc >= 0:
            return
        keys = [self._examples[i].row.key for batch in planned.batches for i in batch.members]
        raise RunStopped(
            f"step {planned.number + 1}: the CTC loss is {ctc:g} and the norm of the gradient "
            f"{norm:g}; lower lr, or look at these clips: {', '.join(keys[:5])}"
            + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        )


def _seed_of(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def rate_at(step: int, n_steps: int, warmup_share: float) -> float:
    """The learning rate of a step (from 0), as a share of the peak: a rise, then a half cosine.

    The rise is a share of all steps: FunASR's 25,000 steps outlast most fine-tunings.
    """
    n_warmup = max(1, math.ceil(n_steps * warmup_share))
    if step < n_warmup:
        return (step + 1) / n_warmup
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    return 0.5 * (1 + math.cos(math.pi * done))
