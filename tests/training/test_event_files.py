"""Event files hold what the listener is told, and the listener is told all the same."""

import logging
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from pipeline.training.event_files import recording
from pipeline.training.loop import StepReport
from pipeline.training.scores import SetScore
from pipeline.training.session import Listener

TOLD = StepReport(3, 10, 1.5, 1.25, 0.25, 1e-4, 2.0)
SCORES = [SetScore("phone", 50, {"mixed_error_rate": 0.25, "event_error": None})]


def values_of(folder: Path) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of a TFRecord file: length, its checksum, the message, its checksum."""
    (path,) = folder.iterdir()
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        yield from ((one.tag, event.step, one.simple_value) for one in event.summary.value)
        data = data[16 + length :]


def test_losses_and_scores_are_written_for_tensorboard(tmp_path: Path) -> None:
    steps: list[StepReport] = []
    listener = Listener(steps.append, lambda step, scores: None)
    with recording(listener, tmp_path / "events") as both:
        both.step(TOLD)
        both.scores(3, SCORES)
    found = {tag: (step, value) for tag, step, value in values_of(tmp_path / "events")}
    assert found["train/loss"] == (3, 1.5)
    assert found["train/loss_text"] == (3, 1.25)
    assert found["phone/mixed_error_rate"] == (3, 0.25)
    assert "phone/event_error" not in found
    assert steps == [TOLD]


def test_without_the_library_a_warning_names_it_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    listener = Listener(lambda told: None, lambda step, scores: None)
    with caplog.at_level(logging.WARNING), recording(listener, tmp_path / "events") as same:
        assert same is listener
    assert "sensevoice-pipeline[train]" in caplog.text
