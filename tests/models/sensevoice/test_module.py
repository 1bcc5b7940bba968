"""The padded module beside the packed encoder and FunASR's own class, with the same weights."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.encoder import Encoder
from pipeline.models.sensevoice.module import SenseVoiceModule, load_module, positions
from pipeline.models.sensevoice.weights import load_weights
from tests.support.demo import MODEL

# LFR frames of each clip: one, short, long beside short, so that most of a batch is padding.
D_MODEL = 128  # output_size of the demo model
SHAPES = [[5], [1], [37], [100, 80], [3, 60, 200], [600, 17]]


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    n = len(lengths)
    speech = torch.randn(n, max(lengths), 560, generator=generator)
    languages = torch.tensor([0, 3, 4, 7, 11, 12], dtype=torch.int32)[:n]
    textnorm = torch.tensor([14, 15, 14, 15], dtype=torch.int32)[:n]
    return speech, torch.tensor(lengths, dtype=torch.int32), languages, textnorm


@cache
def module() -> SenseVoiceModule:
    return load_module(resolve_model(str(MODEL)))


@cache
def packed() -> Encoder:
    files = resolve_model(str(MODEL))
    weights = load_weights(files, torch.device("cpu"))
    return Encoder(weights, files.config["encoder_conf"], torch.device("cpu"))


@pytest.mark.parametrize("lengths", SHAPES, ids=str)
@torch.inference_mode()
def test_logits_equal_those_of_the_packed_encoder(lengths: list[int]) -> None:
    speech, speech_lengths, language, textnorm = batch(lengths)
    logits, out_lengths = module()(speech, speech_lengths, language, textnorm)
    assert out_lengths.tolist() == [length + 4 for length in lengths]
    prompted = module().prompted(speech, language, textnorm)
    # The packed encoder gets scaled frames with their positions.
    x = prompted * D_MODEL**0.5 + positions(prompted.shape[1], 560, prompted)
    clips = [x[i, :length] for i, length in enumerate(out_lengths.tolist())]
    expected = packed().logits(packed().encode(torch.cat(clips), out_lengths.tolist()))
    got = torch.cat([logits[i, :length] for i, length in enumerate(out_lengths.tolist())])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert torch.equal(got.argmax(-1), expected.argmax(-1))


@torch.inference_mode()
def test_values_after_the_end_of_a_clip_change_nothing() -> None:
    speech, *rest = batch([3, 60, 200])
    before = speech.clone()
    clean, _ = module()(speech, *rest)
    noisy = speech.clone()
    noisy[0, 3:] = 1e3
    dirty, _ = module()(noisy, *rest)
    torch.testing.assert_close(clean[0, :7], dirty[0, :7])
    assert torch.equal(speech, before)  # nothing is changed in place


def test_its_parameters_have_the_names_in_the_weights_file() -> None:
    state = load_weights(resolve_model(str(MODEL)), torch.device("cpu"))
    assert module().state_dict().keys() == state.keys()


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize("lengths", SHAPES, ids=str)
@torch.inference_mode()
def test_logits_equal_those_of_funasr(lengths: list[int]) -> None:
    theirs = funasr_model()
    speech, speech_lengths, language, textnorm = batch(lengths)
    prompted = module().prompted(speech, language, textnorm)
    # FunASR changes its input in place
    hidden, out_lengths = theirs.encoder(prompted.clone(), speech_lengths + 4)
    expected = theirs.ctc.ctc_lo(hidden)
    logits, ours = module()(speech, speech_lengths, language, textnorm)
    assert ours.tolist() == out_lengths.tolist()
    for i, length in enumerate(ours.tolist()):
        torch.testing.assert_close(logits[i, :length], expected[i, :length], atol=1e-4, rtol=0)


@pytest.mark.usefixtures("funasr")
def test_every_parameter_gets_the_gradient_of_funasr() -> None:
    theirs, ours = funasr_model(), load_module(resolve_model(str(MODEL)))
    speech, speech_lengths, language, textnorm = batch([3, 20])
    prompted = ours.prompted(speech, language, textnorm).detach()
    lengths = speech_lengths + 4
    hidden = theirs.encoder(prompted.clone(), lengths)[0]
    pairs = []
    for network, out in ((theirs, hidden), (ours, ours.encoder(prompted.clone(), lengths))):
        network.zero_grad()
        logits = network.ctc.ctc_lo(out)
        torch.stack([logits[0, :7].square().mean(), logits[1].square().mean()]).sum().backward()
        pairs.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    expected, got = pairs
    assert got.keys() == expected.keys() == dict(ours.named_parameters()).keys() - {"embed.weight"}
    for name, gradient in got.items():
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], atol=1e-4 * largest, rtol=1e-3)


@cache
def funasr_model() -> Any:
    from funasr import AutoModel

    with torch.inference_mode(False):  # else the weights of whoever asks first have no gradients
        loaded = AutoModel(model=str(MODEL), device="cpu", disable_update=True, disable_pbar=True)
    return loaded.model


def test_the_prompt_is_trained_too() -> None:
    network = load_module(resolve_model(str(MODEL)), dropout=0.1).train()
    logits, _ = network(*batch([3, 20]))
    logits.mean().backward()
    gradient = network.embed.weight.grad
    assert gradient is not None
    assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) == {0, 1, 2, 3, 14, 15}


def test_a_missing_weight_is_refused(tmp_path: Path) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    state = torch.load(model / "model.pt", weights_only=True)
    del state["encoder.encoders.2.feed_forward.w_1.bias"]
    torch.save(state, model / "model.pt")
    with pytest.raises(ModelError, match=r"has no 'encoder.encoders.2.feed_forward.w_1.bias'"):
        load_module(resolve_model(str(model)))


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    config = model / "config.yaml"
    config.write_text(config.read_text().replace("linear_units: 512", "linear_units: 256"))
    with pytest.raises(ModelError, match=r"does not fit its config\.yaml"):
        load_module(resolve_model(str(model)))
