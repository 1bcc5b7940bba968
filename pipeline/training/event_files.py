"""Losses and scores as TensorBoard's event files. Optional: the library is in the extra `train`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.training.loop import StepReport
from pipeline.training.scores import SetScore
from pipeline.training.session import Listener

_log = logging.getLogger(__name__)


@contextmanager
def recording(listener: Listener, folder: Path | None) -> Iterator[Listener]:
    """A listener that also writes event files to a folder; the same one if there is none.

    Without the library, a warning says how to get it.
    """
    if folder is None:
        yield listener
        return
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        _log.warning("event_files needs a library: pip install 'sensevoice-pipeline[train]'")
        yield listener
        return

    def step(told: StepReport) -> None:
        values = {"loss": told.loss, "loss_text": told.ctc, "loss_tags": told.tags}
        for name, value in (values | {"lr": told.lr, "gradient": told.grad_norm}).items():
            writer.add_scalar(f"train/{name}", value, told.step)
        listener.step(told)

    def scores(steps: int, found: Sequence[SetScore]) -> None:
        for one in found:
            for name, value in one.metrics.items():
                if value is not None:
                    writer.add_scalar(f"{one.name}/{name}", value, steps)
        writer.flush()
        listener.scores(steps, found)

    with SummaryWriter(str(folder)) as writer:
        yield Listener(step, scores)
