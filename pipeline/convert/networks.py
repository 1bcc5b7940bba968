"""The network of a model directory written as one ONNX, TorchScript or torch.export file.

One ONNX file serves sherpa-onnx and funasr-onnx: both give the inputs by position, sherpa-onnx
reads the first output only, funasr-onnx unpacks exactly two. sherpa-onnx also needs metadata,
without which it ends the process (sherpa-onnx/csrc/offline-sense-voice-model.cc).
"""

import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.models.features import read_cmvn
from pipeline.models.files import ModelFiles
from pipeline.models.sensevoice.decoding import LANGUAGE_PROMPTS, TEXT_NORM_PROMPTS
from pipeline.models.sensevoice.module import load_module
from pipeline.models.sensevoice.onnx_runtime import INPUTS, LOGITS
from pipeline.schema import LFR_STACK, LFR_STEP, N_MELS

Format = Literal["onnx", "torchscript", "pt2"]

OUTPUTS = (LOGITS, "encoder_out_lens")  # the names of FunASR's export
OPSET = 17  # the newest that torch's older exporter writes without a conversion


def write_onnx(files: ModelFiles, target: Path, pieces: list[str]) -> None:
    """float32 ONNX with sherpa-onnx's metadata, any batch and length. Raises ModelError.

    The older of torch's two exporters: 1 s instead of 17 for the demo model, one file instead of
    two, and the IR version that sherpa-onnx's ONNX Runtime reads (the newer one writes 10).
    """
    import onnx

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # that it is the older exporter, and of traced constants
        torch.onnx.export(
            load_module(files),
            _example(),
            str(target),
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes={
                "speech": {0: "N", 1: "T"},
                **{name: {0: "N"} for name in (*INPUTS[1:], OUTPUTS[1])},
                OUTPUTS[0]: {0: "N", 1: "T"},
            },
            dynamo=False,
        )
    exported = onnx.load(str(target))
    for key, value in describe(files, len(pieces)).items():
        exported.metadata_props.add(key=key, value=str(value))
    onnx.save(exported, str(target))


def write_int8(source: Path, target: Path) -> None:
    """The weights of an ONNX file as unsigned 8-bit integers; activations are scaled at run time.

    Unsigned: on CPUs without VNNI, signed weights overflow 16 bits (onnxruntime#6004), and of 20
    clips four had another text.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a pre-processing that changes nothing here
    try:
        quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QUInt8,
            extra_options={"DefaultTensorType": 1},  # float, where it cannot infer a type
        )
    finally:
        logging.disable(before)


def write_torchscript(files: ModelFiles, target: Path) -> None:
    """The same inputs and outputs, traced, for libtorch. torch deprecates it; see write_pt2."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(load_module(files), _example(), check_trace=False)
        torch.jit.save(traced, str(target))


def write_pt2(files: ModelFiles, target: Path) -> None:
    """The same inputs and outputs as a torch.export program, for AOTInductor and ExecuTorch."""
    n, t = torch.export.Dim("N", min=1, max=4096), torch.export.Dim("T", min=2, max=20_000)
    shapes = ({0: n, 1: t}, {0: n}, {0: n}, {0: n})
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(load_module(files), _example(), dynamic_shapes=shapes)
    torch.export.save(program, str(target))


def describe(files: ModelFiles, n_pieces: int) -> dict[str, Any]:
    """What sherpa-onnx reads: front end, normalisation, and the prompts by name."""
    shift, scale = read_cmvn(files.cmvn)
    return {
        "lfr_window_size": LFR_STACK,
        "lfr_window_shift": LFR_STEP,
        "normalize_samples": 0,
        "neg_mean": ",".join(map(str, shift.tolist())),
        "inv_stddev": ",".join(map(str, scale.tolist())),
        "model_type": "sense_voice_ctc",
        "version": 2,
        "vocab_size": n_pieces,
        "comment": "SenseVoiceSmall",  # sherpa-onnx takes a name with "Nano" for another model
        **{f"lang_{language}": prompt for language, prompt in LANGUAGE_PROMPTS.items()},
        "with_itn": TEXT_NORM_PROMPTS[True],
        "without_itn": TEXT_NORM_PROMPTS[False],
        "source_sha256": files.sha256,
    }


def _example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two clips of different lengths: exporters take a size of 1 for a constant."""
    return (
        torch.randn(2, 100, LFR_STACK * N_MELS, generator=torch.Generator().manual_seed(0)),
        torch.tensor([100, 80], dtype=torch.int32),
        torch.tensor([LANGUAGE_PROMPTS["auto"], LANGUAGE_PROMPTS["en"]], dtype=torch.int32),
        torch.tensor([TEXT_NORM_PROMPTS[True], TEXT_NORM_PROMPTS[False]], dtype=torch.int32),
    )
