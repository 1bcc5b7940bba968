"""Our model batches against FunASR's own `AutoModel.generate`, with the same weights."""

import logging
import random
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import Precision, RunConfig, label_precision
from pipeline.errors import BatchTooLarge, ModelError
from pipeline.models.features import log_mel
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.attention import AttentionKind
from pipeline.models.sensevoice.decoding import ClipOutput, label_clip, rich_text
from pipeline.models.sensevoice.model import SenseVoice, load_sensevoice
from tests.support.demo import AUDIO, MODEL, SHARED, SHORT, label_of, needs_shared, waveform_of


def load_funasr(model: Path) -> Any:
    from funasr import AutoModel

    # The published configuration has dither 1.0, with which labels change from run to run. It must
    # be set here: generate() restores these arguments (AutoModel._reset_runtime_configs).
    return AutoModel(
        model=str(model),
        device="cpu",
        disable_update=True,
        disable_pbar=True,
        ncpu=2,
        frontend_conf={"dither": 0.0},
    )


@cache
def demo_funasr() -> Any:
    return load_funasr(MODEL)


@cache
def demo_model(attention: AttentionKind = "per_clip") -> SenseVoice:
    return SenseVoice(resolve_model(str(MODEL)), attention=attention)


@cache
def short_waveforms() -> list[np.ndarray]:
    return [waveform_of(AUDIO / row["audio"]) for row in SHORT]


def transcribe(
    model: SenseVoice, waveforms: list[np.ndarray], use_itn: bool, language: str = "auto"
) -> list[ClipOutput]:
    clips = [log_mel(waveform) for waveform in waveforms]
    return model.transcribe(clips, [language] * len(clips), [use_itn] * len(clips))


def generated(reference: Any, waveform: np.ndarray, use_itn: bool, language: str = "auto") -> str:
    samples = waveform.astype(np.float32) / 32768
    return str(reference.generate(input=samples, language=language, use_itn=use_itn)[0]["text"])


@pytest.mark.usefixtures("funasr")
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("use_itn", [True, False])
@pytest.mark.parametrize("attention", ["per_clip", "padded", "varlen"])
def test_rich_text_equals_funasr_on_every_demo_clip(
    use_itn: bool, attention: AttentionKind
) -> None:
    model = demo_model(attention)
    ours = [
        rich_text(output, model.vocabulary)
        for output in transcribe(model, short_waveforms(), use_itn)
    ]
    theirs = [generated(demo_funasr(), waveform, use_itn) for waveform in short_waveforms()]
    assert ours == theirs


@pytest.mark.usefixtures("funasr")
@pytest.mark.parametrize("language", ["zh", "en", "yue", "ja", "ko"])
def test_a_language_prompt_gives_the_text_of_funasr(language: str) -> None:
    waveforms = short_waveforms()[:4]
    model = demo_model()
    ours = [
        rich_text(output, model.vocabulary)
        for output in transcribe(model, waveforms, True, language)
    ]
    assert ours == [generated(demo_funasr(), one, True, language) for one in waveforms]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("attention", ["per_clip", "padded", "varlen"])
def test_the_output_of_a_clip_does_not_depend_on_its_batch(attention: AttentionKind) -> None:
    model = demo_model(attention)
    clips = [log_mel(waveform) for waveform in short_waveforms()]
    alone = [model.transcribe([clip], ["auto"], [True])[0] for clip in clips]
    for seed in range(3):
        order = random.Random(seed).sample(range(len(clips)), len(clips))
        batched = model.transcribe(
            [clips[i] for i in order], ["auto"] * len(clips), [True] * len(clips)
        )
        for index, output in zip(order, batched, strict=True):
            assert np.array_equal(output.tokens, alone[index].tokens)
            for name in ("probabilities", "language", "emotion", "event"):
                np.testing.assert_allclose(
                    getattr(output, name), getattr(alone[index], name), atol=2e-5
                )


@pytest.mark.parametrize("use_itn", [True, False])
def test_every_short_demo_clip_gets_its_reference_labels(use_itn: bool) -> None:
    model = demo_model()
    for row, output in zip(SHORT, transcribe(model, short_waveforms(), use_itn), strict=True):
        got = label_clip(output, model.vocabulary, 0.0, 5.0, use_itn)
        events = [event["event"] for event in got["events"] if event["source"] == "tag"]
        assert got["text"] == row["ref_text_itn" if use_itn else "ref_text"], row["audio"]
        assert got["language"] == label_of(row["ref_language"]), row["audio"]
        assert got["emotion"] == label_of(row["ref_emotion"]), row["audio"]
        assert (events or ["unknown"]) == [label_of(row["ref_event"])], row["audio"]


def test_clips_with_and_without_itn_share_a_model_batch() -> None:
    """Each gets its own prompt: the text is that of a batch in which all clips ask for the same."""
    model = demo_model()
    use_itn = [index % 2 == 0 for index in range(len(SHORT))]
    clips = [log_mel(waveform) for waveform in short_waveforms()]
    outputs = model.transcribe(clips, ["auto"] * len(clips), use_itn)
    for row, output, itn in zip(SHORT, outputs, use_itn, strict=True):
        got = label_clip(output, model.vocabulary, 0.0, 5.0, itn)
        assert got["text"] == row["ref_text_itn" if itn else "ref_text"], row["audio"]


@cache
def outputs_at(precision: Precision, attention: AttentionKind = "per_clip") -> list[ClipOutput]:
    files = resolve_model(str(MODEL))
    model = SenseVoice(files, precision=precision, attention=attention)
    return transcribe(model, short_waveforms(), True)


LOWER = pytest.mark.parametrize(
    ("precision", "attention"),
    [("bf16", "per_clip"), ("bf16", "padded"), ("bf16", "varlen"), ("int8", "per_clip")],
)


@LOWER
@pytest.mark.usefixtures("kernel")
def test_every_demo_label_is_right_at_lower_precision(
    precision: Precision, attention: AttentionKind
) -> None:
    model = demo_model()
    for row, output in zip(SHORT, outputs_at(precision, attention), strict=True):
        got = label_clip(output, model.vocabulary, 0.0, 5.0, True)
        events = [event["event"] for event in got["events"] if event["source"] == "tag"]
        assert got["text"] == row["ref_text_itn"], row["audio"]
        assert got["language"] == label_of(row["ref_language"]), row["audio"]
        assert got["emotion"] == label_of(row["ref_emotion"]), row["audio"]
        assert (events or ["unknown"]) == [label_of(row["ref_event"])], row["audio"]


@LOWER
@pytest.mark.usefixtures("kernel")
def test_tokens_at_lower_precision_equal_those_of_float32(
    precision: Precision, attention: AttentionKind
) -> None:
    exact = transcribe(demo_model(), short_waveforms(), True)
    outputs = outputs_at(precision, attention)
    same = np.concatenate([a.tokens == b.tokens for a, b in zip(outputs, exact, strict=True)])
    assert same.mean() >= 0.999


def padded_model(compiled: bool) -> SenseVoice:
    files = resolve_model(str(MODEL))
    return SenseVoice(files, precision="bf16", attention="padded", compiled=compiled)


@pytest.mark.usefixtures("patience")
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ on a CPU")
def test_compiled_layers_give_the_same_in_batches_of_any_size() -> None:
    """As on a GPU, where the compiler is Triton."""
    model, clips = padded_model(compiled=True), [log_mel(one) for one in short_waveforms()]
    torch._dynamo.utils.counters.clear()
    for n_clips in (2, 17, len(clips), 5):
        outputs = model.transcribe(clips[:n_clips], ["auto"] * n_clips, [True] * n_clips)
        for output, eager in zip(outputs, outputs_at("bf16", "padded"), strict=False):
            assert np.array_equal(output.tokens, eager.tokens)
    assert model._encoder._compiled is not None
    # One for the first layer and one for all others; not one per layer or per size.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_layers_that_do_not_compile_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(function: Any, **options: Any) -> Any:
        def fail(*_: Any) -> None:
            raise RuntimeError("no working C compiler found")

        return fail

    monkeypatch.setattr(torch, "compile", refuse)
    model = padded_model(compiled=True)
    with caplog.at_level(logging.WARNING):
        outputs = transcribe(model, short_waveforms(), True)
    assert "no working C compiler found" in caplog.text
    assert len(caplog.records) == 1
    for output, eager in zip(outputs, outputs_at("bf16", "padded"), strict=True):
        assert np.array_equal(output.tokens, eager.tokens)


def test_compiled_layers_without_memory_ask_for_a_smaller_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = padded_model(compiled=False)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model._encoder, "_compiled", fail)
    with pytest.raises(BatchTooLarge, match="out of memory"):
        transcribe(model, short_waveforms()[:1], True)
    assert model._encoder._compiled is not None  # compilation did not fail


def test_layers_are_not_compiled_on_a_cpu() -> None:
    label = {"compile": True, "device": "cpu"}
    config = RunConfig.model_validate(
        {"manifest": "m", "output": "o", "model": str(MODEL), "label": label}
    )
    assert load_sensevoice(config)._encoder._compiled is None


def test_no_layer_copies_the_input_of_its_convolution() -> None:
    """If torch does not see that channels come last, it transposes twice: 5 % of the time."""
    model, clips = demo_model(), [log_mel(one) for one in short_waveforms()[:5]]
    with torch.profiler.profile(record_shapes=True) as profile:
        model.transcribe(clips, ["auto"] * len(clips), [True] * len(clips))
    shapes = [event.input_shapes for event in profile.events() if event.name == "aten::copy_"]
    assert shapes
    assert not any(shape and len(shape[0]) == 4 for shape in shapes)


def test_int8_tokens_of_a_clip_do_not_depend_on_its_batch() -> None:
    model = SenseVoice(resolve_model(str(MODEL)), precision="int8")
    clips = [log_mel(waveform) for waveform in short_waveforms()]
    for clip, batched in zip(clips, outputs_at("int8"), strict=True):
        alone = model.transcribe([clip], ["auto"], [True])[0]
        assert np.array_equal(alone.tokens, batched.tokens)


def test_without_memory_the_model_asks_for_a_smaller_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = SenseVoice(resolve_model(str(MODEL)))
    monkeypatch.setattr(model._encoder, "encode", fail)
    with pytest.raises(BatchTooLarge, match="out of memory"):
        transcribe(model, short_waveforms()[:1], True)


@pytest.mark.parametrize(
    ("label", "ray", "precision"),
    [
        ({}, {}, "fp32"),
        ({}, {"num_gpus": 1}, "bf16"),
        ({"device": "cuda"}, {}, "bf16"),
        ({"device": "cpu"}, {"num_gpus": 1}, "fp32"),
        ({"precision": "int8"}, {}, "int8"),
    ],
)
def test_the_precision_follows_from_the_configuration(
    label: dict[str, Any], ray: dict[str, Any], precision: str
) -> None:
    values = {"manifest": "m", "output": "o", "label": label, "ray": ray}
    assert label_precision(RunConfig.model_validate(values)) == precision


@pytest.mark.usefixtures("funasr")
@needs_shared
@pytest.mark.usefixtures("patience")
def test_the_full_size_model_equals_funasr(tmp_path: Path) -> None:
    script = SHARED / "make_full_size_model.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    torch.set_num_threads(2)
    speech = [waveform_of(SHARED / "audio" / "speech" / f"{name}.mp3") for name in ("en", "ko")]
    waveforms = [*speech, speech[0][16_000:56_000], speech[1][:8_000]]
    model = SenseVoice(resolve_model(str(tmp_path)))
    ours = [rich_text(output, model.vocabulary) for output in transcribe(model, waveforms, True)]
    reference = load_funasr(tmp_path)
    assert ours == [generated(reference, waveform, True) for waveform in waveforms]


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for file in MODEL.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.pt").write_bytes((MODEL / "model.pt").read_bytes()[:10_000])
    with pytest.raises(ModelError, match=r"model\.pt cannot be read"):
        SenseVoice(resolve_model(str(tmp_path)))


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    for file in MODEL.iterdir():
        data = file.read_bytes().replace(b"num_blocks: 6", b"num_blocks: 7")
        (tmp_path / file.name).write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.pt has no 'encoder\.encoders\.5\..*config\.yaml"):
        SenseVoice(resolve_model(str(tmp_path)))


def test_workers_of_one_node_share_the_pages_of_the_weights(tmp_path: Path) -> None:
    """As torch.save writes them. The demo's weights are compressed and read into memory."""
    for file in MODEL.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = torch.load(MODEL / "model.pt", weights_only=True)
    torch.save({name: value.float() for name, value in weights.items()}, tmp_path / "model.pt")
    model = SenseVoice(resolve_model(str(tmp_path)))
    assert f"{tmp_path}/model.pt" in Path("/proc/self/maps").read_text()
    outputs = transcribe(model, short_waveforms(), True)
    for mapped, read in zip(
        outputs, transcribe(demo_model(), short_waveforms(), True), strict=True
    ):
        assert np.array_equal(mapped.tokens, read.tokens)


def test_a_worker_with_other_weights_than_the_driver_raises() -> None:
    config = RunConfig(manifest="m", output="o", model=str(MODEL))
    with pytest.raises(ModelError, match="not the same on this node as on the driver"):
        load_sensevoice(config, sha256="0" * 64)


def test_a_vad_directory_is_refused_as_sensevoice(tmp_path: Path) -> None:
    for file in MODEL.iterdir():
        text = file.read_bytes()
        if file.name == "config.yaml":
            text = text.replace(b"model: SenseVoiceSmall", b"model: FsmnVADStreaming")
        (tmp_path / file.name).write_bytes(text)
    with pytest.raises(ModelError, match="no SenseVoice"):
        SenseVoice(resolve_model(str(tmp_path)))
