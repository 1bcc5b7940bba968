"""The ONNX file of a run on ONNX Runtime: found, or converted once for each machine."""

import json
import math
from pathlib import Path

import numpy as np

from pipeline.config import Precision, RunConfig, label_precision
from pipeline.convert.package import FACTS_NAME, INT8_NAME, NAMES, convert
from pipeline.errors import ModelError
from pipeline.models.files import ModelFiles, cache_dir, resolve_model_of
from pipeline.models.sensevoice.onnx_runtime import OnnxSenseVoice
from pipeline.schema import SAMPLE_RATE
from pipeline.storage.redaction import public_uri

_VERSION = 1  # of what this code writes; raised, every machine converts again
_NOISE_S = (0.5, 3.0)  # on which a conversion for a run is checked


def find_network(files: ModelFiles, precision: Precision) -> Path:
    """The ONNX file for these weights: beside them, in the cache, or written to the cache now.

    Raises ModelError for a file beside the weights that is not their conversion.
    """
    name = INT8_NAME if precision == "int8" else NAMES["onnx"]
    beside = files.directory / name
    if beside.exists():
        _check_source(files, beside)
        return beside
    folder = cache_dir() / f"onnx-{_VERSION}-{files.sha256[:32]}"
    if not folder.is_dir():
        try:
            convert(files, folder, ["onnx"], _noise(), int8=True)
        except ModelError:
            if not folder.is_dir():  # else another worker of this machine was faster
                raise
    return folder / name


def load_onnx(config: RunConfig, sha256: str = "") -> OnnxSenseVoice:
    """The model of a run on ONNX Runtime. Raises ModelError; see `load_sensevoice`."""
    files = resolve_model_of(config)
    if sha256 and files.sha256 != sha256:
        raise ModelError(
            f"model {public_uri(config.model)!r} is not the same on this node as on the driver "
            f"({files.sha256[:12]} instead of {sha256[:12]}); give every node the same files"
        )
    network = find_network(files, label_precision(config))
    return OnnxSenseVoice(files, network, threads=max(1, math.floor(config.ray.label_cpus)))


def _check_source(files: ModelFiles, network: Path) -> None:
    """Raise ModelError unless export.json says that the file was converted from these weights."""
    facts = files.directory / FACTS_NAME
    try:
        source = json.loads(facts.read_text(encoding="utf-8"))["source_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        source = ""
    if source != files.sha256:
        raise ModelError(
            f"{network} is not known to be a conversion of {files.weights.name} beside it "
            f"({FACTS_NAME} does not name it). Move it away, and the run converts the weights "
            "itself; or convert them with python -m jobs convert"
        )


def _noise() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = [round(seconds * SAMPLE_RATE) for seconds in _NOISE_S]
    return [rng.normal(scale=2000, size=size).astype(np.int16) for size in sizes]
