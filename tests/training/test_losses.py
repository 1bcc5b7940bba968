"""The loss is FunASR's own, and masks do what they say."""

from typing import Any

import pytest
import torch

from pipeline.models.files import ModelFiles
from pipeline.models.sensevoice.decoding import Vocabulary
from pipeline.models.sensevoice.module import load_module
from pipeline.training.data import read_data
from pipeline.training.examples import MASKED, Example
from pipeline.training.losses import Divisors, LossForm, ctc_loss, tag_loss, total_loss
from pipeline.training.settings import DataConfig
from pipeline.training.tensors import Batch, BatchReader
from tests.support.demo import MODEL
from tests.training.conftest import WriteRows, rows_of_demo


def backwards(text: str) -> str:
    """By words, or by characters where there are no blanks: what is in the vocabulary stays so."""
    return " ".join(reversed(text.split())) if " " in text else text[::-1]


@pytest.fixture
def examples(write_rows: WriteRows, vocabulary: Vocabulary) -> list[Example]:
    """Speech and sounds with wrong texts, with and without ITN, some labels not known."""
    rows = [*rows_of_demo()[:4], *rows_of_demo(itn=True)[10:14]]
    rows[1]["emo_target"] = ""
    rows[5]["event_target"] = None
    rows[3]["emo_target"] = "<|ANGRY|>"  # it is neutral
    for row in rows:
        row["target"] = backwards(row["target"])
    return [*read_data(DataConfig(train=write_rows(rows)), vocabulary, {}).train.examples]


def read(examples: list[Example], start: ModelFiles) -> Batch:
    return BatchReader(start, {}).read(dict(enumerate(examples)))


def losses_of(start: ModelFiles, batch: Batch, form: LossForm) -> tuple[float, float, float]:
    """CTC, tags and their sum, as one step of one batch."""
    with torch.no_grad():
        logits, lengths = load_module(start)(
            batch.speech, batch.lengths, batch.language, batch.textnorm
        )
        ctc = ctc_loss(logits, lengths, batch.targets, batch.target_lengths, batch.has_text)
        tags = tag_loss(logits, batch.tags, form.smoothing)
    divisors = Divisors(len(batch.lengths), int((batch.tags != MASKED).sum()))
    parts = (
        total_loss(ctc, tags * 0, form, divisors),
        total_loss(ctc * 0, tags, form, divisors),
        total_loss(ctc, tags, form, divisors),
    )
    return float(parts[0]), float(parts[1]), float(parts[2])


@pytest.mark.parametrize(("per_tag", "smoothing"), [(True, 0.0), (False, 0.0), (True, 0.1)])
def test_the_loss_equals_funasrs_own(
    funasr: Any, start: ModelFiles, examples: list[Example], per_tag: bool, smoothing: float
) -> None:
    """SenseVoiceSmall.forward on the same batch, with labels that are not known among them.

    The texts are reversed. For those that the model writes, the loss of a frame is near 0 and hangs
    on the last bits of its logits: float32 cannot give it to 1e-6.
    """
    theirs = funasr.AutoModel(model=str(MODEL), device="cpu", disable_update=True).model.eval()
    theirs.criterion_att.normalize_length = per_tag
    theirs.criterion_att.confidence = 1 - smoothing
    theirs.criterion_att.smoothing = smoothing
    batch = read(examples, start)
    # FunASR's text is padded with -1, the tags come first; torch.rand draws its prompts.
    texts = [[*one.tags, *one.tokens] for one in examples]
    width = max(map(len, texts))
    padded = torch.tensor([[*text, *[-1] * (width - len(text))] for text in texts])
    torch.manual_seed(3)
    draws = [float(torch.rand(1)) > 0.2 for _ in examples]
    prompts = [
        one.language_prompt if draw else 0 for one, draw in zip(examples, draws, strict=True)
    ]
    torch.manual_seed(3)
    loss, stats, _ = theirs(
        speech=batch.speech.clone(),
        speech_lengths=batch.lengths.clone(),
        text=padded,
        text_lengths=torch.tensor([len(text) for text in texts]),
    )
    ours = losses_of(
        start, batch._replace(language=torch.tensor(prompts)), LossForm(per_tag, smoothing)
    )
    assert ours[0] == pytest.approx(float(stats["loss_ctc"]), rel=1e-6)
    assert ours[1] == pytest.approx(float(stats["loss_rich"]), rel=1e-6)
    assert ours[2] == pytest.approx(float(loss.detach()), rel=1e-6)


def test_a_masked_label_changes_no_loss(start: ModelFiles, examples: list[Example]) -> None:
    """Whatever the label is: happy or angry where it is not known gives the same."""
    form = LossForm(per_tag=False, smoothing=0.0)
    batch = read(examples, start)
    before = losses_of(start, batch, form)[1]
    tags = batch.tags.clone()
    tags[0, 1] = MASKED
    after = losses_of(start, batch._replace(tags=tags), form)[1]
    alone = torch.full_like(tags, MASKED)
    alone[0, 1] = batch.tags[0, 1]
    lost = losses_of(start, batch._replace(tags=alone), form)[1]
    assert lost > 0
    assert after == pytest.approx(before - lost, abs=1e-6)


def test_a_text_that_is_not_known_adds_nothing(start: ModelFiles, examples: list[Example]) -> None:
    batch = read(examples, start)
    form = LossForm(per_tag=True, smoothing=0.0)
    without = batch._replace(has_text=torch.zeros_like(batch.has_text))
    assert losses_of(start, without, form)[0] == 0
    assert losses_of(start, batch, form)[0] > 0


def test_a_target_with_the_blank_would_make_the_loss_negative() -> None:
    """Why unknown characters are refused (FunASR#2016): their id is the blank's."""
    logits = torch.zeros(1, 14, 5)
    logits[..., 0] = 5.0
    lengths, has_text = torch.tensor([14]), torch.ones(1)
    for target, is_negative in (([0, 0, 0], True), ([1, 2, 3], False)):
        loss = ctc_loss(logits, lengths, torch.tensor(target), torch.tensor([3]), has_text)
        assert (float(loss) < 0) == is_negative
