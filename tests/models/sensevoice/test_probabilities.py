"""Every probability that the model gives, against FunASR's on the same clips."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from pipeline.models.features import log_mel
from pipeline.models.sensevoice.decoding import ClipOutput
from tests.models.sensevoice.test_model import demo_funasr, demo_model, generated, short_waveforms

# SenseVoice's own spelling of the tags, in the order of schema.LANGUAGES, EMOTIONS and EVENTS.
TAGS = {
    "language": "zh en yue ja ko nospeech",
    "emotion": "HAPPY SAD ANGRY NEUTRAL FEARFUL DISGUSTED SURPRISED OTHER EMO_UNKNOWN",
    "event": "Speech BGM Laughter Applause Cry Sneeze Breath Cough Sing Speech_Noise GBG Event_UNK",
}


class Compared(NamedTuple):
    """One clip: FunASR's log-probabilities (n_frames, n_tokens), and ours."""

    reference: torch.Tensor
    ours: ClipOutput


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    """FunASR's `generate` keeps only the tokens, so a wrapper of its CTC head keeps the rest."""
    funasr, model, seen = demo_funasr(), demo_model(), []
    log_softmax = funasr.model.ctc.log_softmax

    def keep(hidden: torch.Tensor) -> Any:
        seen.append(log_softmax(hidden))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(funasr.model.ctc, "log_softmax", keep)
        for waveform in short_waveforms():
            generated(funasr, waveform, True)
    clips = [log_mel(waveform) for waveform in short_waveforms()]
    ours = model.transcribe(clips, ["auto"] * len(clips), [True] * len(clips))
    return [Compared(theirs[0], our) for theirs, our in zip(seen, ours, strict=True)]


@pytest.mark.usefixtures("funasr")
def test_the_token_of_every_frame_is_funasrs(compared: list[Compared]) -> None:
    for reference, ours in compared:
        np.testing.assert_array_equal(ours.tokens, reference.argmax(dim=-1).numpy())


@pytest.mark.usefixtures("funasr")
def test_the_probability_of_every_frame_is_funasrs(compared: list[Compared]) -> None:
    for reference, ours in compared:
        theirs = reference.exp().amax(dim=-1).numpy()
        np.testing.assert_allclose(ours.probabilities, theirs, atol=1e-4)
    assert min(float(ours.probabilities.min()) for _, ours in compared) < 0.9  # they do differ


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize(("frame", "kind"), enumerate(TAGS))
def test_tags_have_funasrs_probabilities_at_their_frame(
    compared: list[Compared], frame: int, kind: str
) -> None:
    """A softmax over the tags of one kind, of the frame that FunASR writes that tag in."""
    tokenizer = demo_funasr().kwargs["tokenizer"].sp
    ids = [tokenizer.piece_to_id(f"<|{name}|>") for name in TAGS[kind].split()]
    for reference, ours in compared:
        theirs = reference[frame, ids].softmax(dim=-1).numpy()
        np.testing.assert_allclose(getattr(ours, kind), theirs, atol=1e-4)
