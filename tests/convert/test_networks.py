"""Converted networks beside the module that they were made from, and what their loaders need."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipeline.convert.networks import write_int8, write_onnx, write_pt2, write_torchscript
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.onnx_runtime import INPUTS
from tests.models.sensevoice.test_module import SHAPES, batch, module
from tests.support.demo import MODEL

pytestmark = pytest.mark.usefixtures("patience")  # exports of whole networks

Pass = Callable[[tuple[torch.Tensor, ...]], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@cache
def written(folder: Path, name: str) -> Path:
    files = resolve_model(str(MODEL))
    target = folder / name
    if name == "model.onnx":
        write_onnx(files, target, [str(index) for index in range(25055)])
    elif name == "model_quant.onnx":
        write_int8(written(folder, "model.onnx"), target)
    elif name == "model.pt2":
        write_pt2(files, target)
    else:
        write_torchscript(files, target)
    return target


def load(path: Path) -> Pass:
    if path.suffix == ".pt2":
        program = torch.export.load(str(path)).module()
        return lambda inputs: program(*inputs)
    if path.suffix == ".pt":
        script = torch.jit.load(str(path))
        return lambda inputs: script(*inputs)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: tuple[torch.Tensor, ...]) -> Any:
        feed = {name: one.numpy() for name, one in zip(INPUTS, inputs, strict=True)}
        return [torch.from_numpy(one) for one in session.run(None, feed)]

    return run


@pytest.mark.parametrize(
    ("name", "tolerance"), [("model.onnx", 1e-4), ("model.ts.pt", 0.0), ("model.pt2", 0.0)]
)
@torch.no_grad()
def test_logits_equal_those_of_the_module_at_every_shape(
    name: str, tolerance: float, folder: Path
) -> None:
    """One clip of one frame, long beside short: no size was taken for a constant."""
    run = load(written(folder, name))
    for lengths in SHAPES:
        inputs = batch(lengths)
        expected, _ = module()(*inputs)
        logits, n_frames = run(inputs)
        assert n_frames.tolist() == [length + 4 for length in lengths]
        for index, n in enumerate(n_frames.tolist()):
            torch.testing.assert_close(
                logits[index, :n], expected[index, :n], atol=tolerance, rtol=0, msg=f"{lengths}"
            )


def test_sherpa_onnx_finds_its_metadata_and_funasr_onnx_two_outputs(folder: Path) -> None:
    exported = onnx.load(str(written(folder, "model.onnx")))
    metadata = {one.key: one.value for one in exported.metadata_props}
    assert [one.name for one in exported.graph.input] == list(INPUTS)
    assert [one.name for one in exported.graph.output] == ["ctc_logits", "encoder_out_lens"]
    assert exported.ir_version <= 10
    assert exported.opset_import[0].version == 17
    neg_mean, inv_stddev = (metadata.pop(name).split(",") for name in ("neg_mean", "inv_stddev"))
    assert (len(neg_mean), len(inv_stddev)) == (560, 560)
    assert metadata.pop("source_sha256") == resolve_model(str(MODEL)).sha256
    assert metadata == {
        **{"vocab_size": "25055", "lfr_window_size": "7", "lfr_window_shift": "6"},
        **{"normalize_samples": "0", "with_itn": "14", "without_itn": "15"},
        **{"lang_auto": "0", "lang_zh": "3", "lang_en": "4"},
        **{"lang_yue": "7", "lang_ja": "11", "lang_ko": "12"},
        **{"model_type": "sense_voice_ctc", "version": "2", "comment": "SenseVoiceSmall"},
    }


def test_weights_of_8_bits_are_unsigned_and_a_quarter_of_the_size(folder: Path) -> None:
    small = written(folder, "model_quant.onnx")
    weights = [
        one
        for one in onnx.load(str(small)).graph.initializer
        if one.name.endswith("_quantized") and np.prod(one.dims) > 1000
    ]
    assert len(weights) > 20
    assert {one.data_type for one in weights} == {onnx.TensorProto.UINT8}
    assert small.stat().st_size < 0.3 * written(folder, "model.onnx").stat().st_size
