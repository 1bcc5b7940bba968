"""What is kept, when training stops, and what the gates allow."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models.files import ModelFiles
from pipeline.models.sensevoice.module import load_module
from pipeline.training.averaging import Ema, holding
from pipeline.training.scores import SetScore
from pipeline.training.selection import Choice, Selection, choose_mix
from pipeline.training.trainable import LoraLinear, choose_trained, trained_of, weights_of


def scores(new: float, old: float) -> list[SetScore]:
    """Errors on a set of the new domain, and on one of what the model knew."""
    return [
        SetScore("new", 50, {"mixed_error_rate": new, "event_error": None}),
        SetScore("old", 17, {"mixed_error_rate": old, "event_error": None}),
    ]


def choose(by_share: Mapping[float, Sequence[SetScore]], most: float) -> tuple[float, Choice]:
    """`new` weights are 1 and the start's 0, so a weight is the share of its mix."""

    def score(weights: Mapping[str, Tensor]) -> Sequence[SetScore]:
        return by_share[round(float(weights["w"]), 3)]

    start, new = {"w": torch.zeros(())}, {"w": torch.ones(())}
    weights, choice = choose_mix(start, new, (0.3, 0.7, 1.0), score, scores(0.4, 0.0), most)
    return round(float(weights["w"]), 3), choice


FORGETS = {0.3: scores(0.3, 0.0), 0.7: scores(0.2, 0.05), 1.0: scores(0.1, 0.3)}


def test_the_best_mix_that_the_gates_allow_is_chosen() -> None:
    share, choice = choose(FORGETS, most=0.02)
    assert share == choice.chosen.share == 0.3
    assert choice.is_better
    refused = {
        one.share: [worse.set_name for worse in one.regressions] for one in choice.candidates
    }
    assert refused == {0.0: [], 0.3: [], 0.7: ["old"], 1.0: ["old"]}


def test_a_wider_gate_allows_more_new_weights() -> None:
    assert choose(FORGETS, most=0.06)[0] == 0.7


def test_the_start_is_kept_if_no_mix_is_allowed_or_better() -> None:
    worse = dict.fromkeys((0.3, 0.7, 1.0), scores(0.1, 0.9))
    share, choice = choose(worse, most=0.02)
    assert (share, choice.is_better) == (0.0, False)
    same = dict.fromkeys((0.3, 0.7, 1.0), scores(0.4, 0.0))
    assert choose(same, most=0.02)[0] == 0.0


def test_training_stops_after_some_evaluations_that_were_not_the_best() -> None:
    selection = Selection(n_kept=2, patience=2)
    for step, error in ((1, 0.5), (2, 0.3), (3, 0.4)):
        selection.add(step, error)
        assert not selection.is_over
    again = Selection(n_kept=2, patience=2)
    again.restore(selection.state())
    again.add(4, 0.35)
    assert again.is_over
    assert again.steps() == [2, 4]


def test_merged_lora_equals_unmerged(start: ModelFiles) -> None:
    module = load_module(start)
    names = set(module.state_dict())
    choose_trained(module, "lora", rank=4, seed=0)
    trained = trained_of(module)
    assert trained
    assert all(name.endswith((".lora_a", ".lora_b")) for name in trained)
    n_layers = sum(isinstance(layer, LoraLinear) for layer in module.modules())
    assert n_layers == 4 * 8
    inputs = (
        torch.randn(2, 20, 560),
        torch.tensor([20, 9]),
        torch.tensor([0, 4]),
        torch.tensor([14, 15]),
    )
    with torch.no_grad():
        before = module(*inputs)[0]
        assert torch.equal(before, load_module(start)(*inputs)[0])  # they begin as nothing
        for value in trained.values():
            value.normal_(std=0.05)
        unmerged = module(*inputs)[0]
        weights = weights_of(module)
        assert set(weights) == names
        merged = load_module(start)
        merged.load_state_dict(weights)
        after = merged(*inputs)[0]
    assert float((before - unmerged).abs().max()) > 0.1
    assert torch.allclose(after, unmerged, atol=2e-4)


@pytest.mark.parametrize(
    ("what", "prefixes"),
    [
        ("head", {"ctc"}),
        ("top:1", {"ctc", "encoder.tp_norm", "encoder.tp_encoders.1"}),
        (
            "top:3",
            {"ctc", "encoder.tp_norm", "encoder.tp_encoders.1", "encoder.tp_encoders.0"}
            | {"encoder.encoders.4"},
        ),
    ],
)
def test_only_the_chosen_layers_are_trained(
    start: ModelFiles, what: str, prefixes: set[str]
) -> None:
    module = load_module(start)
    choose_trained(module, what, rank=4, seed=0)
    found = trained_of(module)
    assert all(name.startswith(tuple(prefixes)) for name in found)
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in found), prefix


def test_layers_that_the_model_does_not_have_are_refused(start: ModelFiles) -> None:
    """FunASR freezes nothing if a prefix is misspelt."""
    with pytest.raises(ConfigError, match="N from 1 to 8"):
        choose_trained(load_module(start), "top:9", rank=4, seed=0)


def test_an_average_follows_and_is_held_for_a_time_only() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    ema = Ema({"w": weight}, decay=0.999)
    with torch.no_grad():
        weight.fill_(1.0)
    ema.update(0)  # 1 / 10 stays
    assert torch.allclose(ema.values["w"], torch.full((3,), 0.9))
    with holding({"w": weight}, ema.values):
        assert torch.equal(weight, ema.values["w"])
    assert torch.equal(weight, torch.ones(3))
