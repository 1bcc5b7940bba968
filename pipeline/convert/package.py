"""A model directory converted into a directory that other programs load as it is.

It appears complete or not at all: everything is written and checked in a directory beside it, which
is renamed at the end. The source is only read.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import yaml

from pipeline.convert.agreement import Agreement, compare, refuse_wrong, try_sherpa
from pipeline.convert.networks import (
    OPSET,
    Format,
    write_int8,
    write_onnx,
    write_pt2,
    write_torchscript,
)
from pipeline.errors import ModelError
from pipeline.models.files import ModelFiles

NAMES: dict[Format, str] = {
    "onnx": "model.onnx",
    "torchscript": "model.torchscript.pt",
    "pt2": "model.pt2",
}
INT8_NAME = "model_quant.onnx"  # as funasr-onnx asks for it
FACTS_NAME = "export.json"


@dataclass(slots=True)
class Converted:
    """What was written, and how it agrees with the model. Paths are in the target directory."""

    directory: Path
    networks: list[str]
    agreements: dict[str, Agreement] = field(default_factory=dict)  # by network
    sherpa: dict[str, str | None] = field(default_factory=dict)  # text; None: not installed


def convert(
    files: ModelFiles,
    target: Path,
    formats: Sequence[Format],
    waveforms: Sequence[np.ndarray],
    on_step: Callable[[str], None] = lambda step: None,
    *,
    int8: bool = False,
) -> Converted:
    """Write the networks, with everything that their loaders need, into a new directory.

    `waveforms` int16 (n_samples,) at 16 kHz: what the ONNX files are checked on. Raises ModelError
    if the target exists, the model cannot be read, or a float32 file differs from the model.
    """
    if target.exists():
        raise ModelError(f"{target} exists; give a directory that does not")
    if int8 and "onnx" not in formats:
        raise ModelError("int8 is made from onnx; add --format onnx")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        done = _write(files, work, formats, waveforms, on_step, int8=int8)
        work.chmod(0o755)  # mkdtemp makes it private
        try:
            work.rename(target)
        except OSError as error:
            raise ModelError(f"{target} appeared meanwhile; nothing was written") from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    done.directory = target
    return done


def _write(
    files: ModelFiles,
    work: Path,
    formats: Sequence[Format],
    waveforms: Sequence[np.ndarray],
    on_step: Callable[[str], None],
    *,
    int8: bool,
) -> Converted:
    pieces = _write_companions(files, work)
    done = Converted(work, [])
    for kind in formats:
        on_step(f"write {NAMES[kind]}")
        network = work / NAMES[kind]
        if kind == "onnx":
            write_onnx(files, network, pieces)
        elif kind == "torchscript":
            write_torchscript(files, network)
        else:
            write_pt2(files, network)
        done.networks.append(network.name)
    if int8:
        on_step(f"write {INT8_NAME}")
        write_int8(work / NAMES["onnx"], work / INT8_NAME)
        done.networks.append(INT8_NAME)
    for name in done.networks:
        if name.endswith(".onnx"):
            on_step(f"check {name}")
            _check(files, work / name, waveforms, done)
    facts = json.dumps(_facts(files, done), indent=1, ensure_ascii=False)
    (work / FACTS_NAME).write_text(facts + "\n", encoding="utf-8")
    return done


def _check(
    files: ModelFiles, network: Path, waveforms: Sequence[np.ndarray], done: Converted
) -> None:
    found = compare(files, network, waveforms)
    if network.name != INT8_NAME:
        refuse_wrong(found, network)
    done.agreements[network.name] = found
    done.sherpa[network.name] = try_sherpa(network, waveforms[0], network.parent)


def _write_companions(files: ModelFiles, work: Path) -> list[str]:
    """What stands beside a network: vocabulary, CMVN and configuration; returns the pieces."""
    if files.tokenizer is None:
        raise ModelError(f"{files.directory} has no tokenizer: no SenseVoice model")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(files.tokenizer))
    pieces = [str(tokenizer.id_to_piece(index)) for index in range(tokenizer.vocab_size())]
    shutil.copyfile(files.cmvn, work / "am.mvn")
    shutil.copyfile(files.tokenizer, work / files.tokenizer.name)
    # sherpa-onnx: a piece and its id in each line.
    lines = (f"{piece} {index}\n" for index, piece in enumerate(pieces))
    (work / "tokens.txt").write_text("".join(lines), encoding="utf-8")
    # funasr-onnx adds noise as config.yaml says, and 1.0 if it says nothing: labels would change
    # from run to run.
    front_end = files.config.get("frontend_conf", {}) | {"dither": 0.0, "cmvn_file": "am.mvn"}
    config = files.config | {"frontend_conf": front_end}
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    (work / "config.yaml").write_text(text, encoding="utf-8")
    metas = {
        "config": "config.yaml",
        "frontend_conf": {"cmvn_file": "am.mvn"},
        "tokenizer_conf": {"bpemodel": files.tokenizer.name},
    }
    configuration = {
        "framework": "pytorch",
        "task": "auto-speech-recognition",
        "model": {"type": "funasr"},
        "file_path_metas": metas,
    }
    text = json.dumps(configuration, indent=1)
    (work / "configuration.json").write_text(text + "\n", encoding="utf-8")
    return pieces


def _facts(files: ModelFiles, done: Converted) -> dict[str, Any]:
    libraries = ("torch", "onnx", "onnxruntime")
    return {
        "source_sha256": files.sha256,
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "opset": OPSET,
        "versions": {name: version(name) for name in libraries},
        "networks": done.networks,
        "agreement": {name: one.facts() for name, one in done.agreements.items()},
        "sherpa_onnx": done.sherpa,
    }
