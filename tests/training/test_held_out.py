"""What is made of the scores on held-out rows: the average of the best, and the gates.

The rows claim an emotion that the clips do not have, so that a few steps change the scores.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training.loop import Worker
from pipeline.training.prepare import Prepared, open_checkpoints, prepare
from pipeline.training.scores import SetScore, mean_error
from pipeline.training.session import Listener, Session, Trained
from pipeline.training.settings import load_finetune_config
from tests.support.demo import ROOT
from tests.training.conftest import WriteRows, rows_of_demo

Train = Callable[..., tuple[Prepared, Trained, dict[int, float]]]


def rows(language: str, emotion: str = "") -> list[dict[str, Any]]:
    """The speech of the demo corpus in a language, with another emotion than it has."""
    change = {"emo_target": f"<|{emotion}|>"} if emotion else {}
    return [
        {**row, **change} for row in rows_of_demo() if row["text_language"] == f"<|{language}|>"
    ]


@pytest.fixture
def train(write_rows: WriteRows, tmp_path: Path) -> Train:
    """Trains on some rows and scores after each step; the errors of all scores by step."""

    def run(
        trained: list[dict[str, Any]], held_out: dict[str, list[dict[str, Any]]], *more: str
    ) -> tuple[Prepared, Trained, dict[int, float]]:
        sets = {name: write_rows(those) for name, those in held_out.items()}
        settings = [
            *(f"output={tmp_path / 'new'}", f"data.train={write_rows(trained)}"),
            *(f"data.valid={sets}", "batch_s=30", "lr=0.001", "ema=0", "evaluate_every=1"),
            *("specaug.freq=0", "specaug.time=0", "mix_with_start=[1.0]", *more),
        ]
        prepared = prepare(load_finetune_config(ROOT / "configs" / "finetune.yaml", settings))
        errors: dict[int, float] = {}

        def told(step: int, scores: Sequence[SetScore]) -> None:
            errors[step] = mean_error(scores)

        trained_here = Session(prepared, Worker(), Listener(lambda step: None, told)).run()
        assert trained_here is not None
        return prepared, trained_here, errors

    return run


def test_what_is_written_is_the_mean_of_the_weights_of_the_best_scores(train: Train) -> None:
    wrong = rows("zh", "SAD")
    prepared, trained, errors = train(*(wrong[1:], {"zh": wrong[:1]}, "average=2", "max_steps=4"))
    best = sorted(range(1, len(errors)), key=lambda step: (errors[step], step))[:2]
    kept = [open_checkpoints(prepared).kept_weights(step) for step in best]
    assert trained.choice is not None
    assert trained.choice.chosen.share == 1.0
    assert any(not torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    for name, value in trained.weights.items():
        if name in kept[0]:
            mean = (kept[0][name] + kept[1][name]) / 2
            assert torch.allclose(value, mean, rtol=0, atol=1e-6), name


def test_a_model_that_got_worse_in_one_language_is_refused_though_the_mean_is_better(
    train: Train,
) -> None:
    """All speech becomes sad: right for the rows in Chinese, wrong for those in English."""
    wrong, right = rows("zh", "SAD"), rows("en")
    _, trained, _ = train(*(wrong[1:], {"zh": wrong[:1], "en": right}, "average=1", "max_steps=4"))
    assert trained.choice is not None
    start, new = trained.choice.candidates
    assert new.error < start.error
    assert {(worse.set_name, worse.metric) for worse in new.regressions} == {
        ("en", "emotion_error")
    }
    assert trained.choice.chosen is start
    assert not trained.choice.is_better
