"""SenseVoice's weights from model.pt. Knows the ways in which FunASR's trainers store them."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.files import ModelFiles


def load_weights(files: ModelFiles, device: torch.device) -> dict[str, Tensor]:
    """The state dict of model.pt in float32; FunASR's trainers nest it and prefix its names.

    Raises ModelError for a directory of another model, and for a file that cannot be read.
    """
    if files.config.get("model") != "SenseVoiceSmall" or files.tokenizer is None:
        raise ModelError(
            f"{files.directory} holds {files.config.get('model')!r}, no SenseVoice model"
        )
    try:
        state: Any = torch.load(
            files.weights, map_location="cpu", weights_only=True, mmap=_is_plain(files.weights)
        )
        for key in ("state_dict", "model_state_dict", "model"):
            state = state.get(key, state)
        weights = {
            name.removeprefix("module."): value.float().to(device) for name, value in state.items()
        }
        weights["embed.weight"], weights["ctc.ctc_lo.weight"], weights["encoder.tp_norm.weight"]
    except Exception as error:  # torch.load raises pickle, zip, runtime and key errors alike
        raise ModelError(
            f"{files.weights} cannot be read as SenseVoice weights: {error}"
        ) from error
    return weights


def _is_plain(weights: Path) -> bool:
    """Whether the file can be memory-mapped; then all workers of a node share its 0.9 GB.

    True of files that torch.save wrote: zip archives without compression. Others are read into
    memory.
    """
    if not zipfile.is_zipfile(weights):
        return False
    with zipfile.ZipFile(weights) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
