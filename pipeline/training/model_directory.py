"""A fine-tuned model as a directory in FunASR's layout. It is complete or absent."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models.files import ModelFiles
from pipeline.storage.address import is_uri
from pipeline.storage.leftovers import finish_directory, make_unfinished_directory
from pipeline.storage.store import open_store

FACTS = "finetune.json"
_WEIGHTS = "model.pt"
# What FunASR's trainer reads; no part of a model.
_OF_TRAINER = (
    *("dataset", "dataset_conf", "train_conf", "optim", "optim_conf", "scheduler"),
    *("scheduler_conf", "specaug", "specaug_conf"),
)


def check_absent(output: str, options: Mapping[str, Any]) -> str:
    """The absolute path or URI that will be written.

    Raises ConfigError if there is something already, StoreError for an unknown store.
    """
    if is_uri(output):
        store = open_store(output, options)
        if store.list(""):
            raise ConfigError(f"output: {store.root} exists and is not empty; choose another place")
        return output.rstrip("/")
    path = Path(output).expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"output: {path} exists and is not empty; choose another directory")
    return str(path)


def write_model(
    output: str,
    options: Mapping[str, Any],
    start: ModelFiles,
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Write the start model's directory with other weights: float32, FunASR's names, no nesting.

    `facts` go to finetune.json. The directory needs nothing of the start's. In an object store
    model.pt comes last, and a directory without it is refused as a model.
    """
    if is_uri(output):
        with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
            _fill(Path(folder), start, weights, facts)
            store = open_store(output, options)
            for path in sorted(Path(folder).iterdir(), key=lambda one: one.name == _WEIGHTS):
                store.put(path.name, path.read_bytes())
        return
    staging = make_unfinished_directory(Path(output))
    try:
        _fill(staging, start, weights, facts)
        finish_directory(staging, Path(output))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fill(
    folder: Path, start: ModelFiles, weights: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    assert start.tokenizer is not None
    shutil.copyfile(start.tokenizer, folder / start.tokenizer.name)
    shutil.copyfile(start.cmvn, folder / start.cmvn.name)
    plain = {name: value.detach().cpu().float().clone() for name, value in weights.items()}
    torch.save(plain, folder / _WEIGHTS)
    config = yaml.safe_dump(_without_trainer(start.config), sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    _write_json(folder / "configuration.json", _configuration(start))
    _write_json(folder / FACTS, facts)


def _without_trainer(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in _OF_TRAINER}
    # FunASR's default of 1.0 adds noise: the labels would differ from run to run.
    return kept | {"frontend_conf": {**kept.get("frontend_conf", {}), "dither": 0.0}}


def _configuration(start: ModelFiles) -> dict[str, Any]:
    assert start.tokenizer is not None
    return {
        "framework": "pytorch",
        "task": "auto-speech-recognition",
        "model": {"type": "funasr"},
        "file_path_metas": {
            "init_param": _WEIGHTS,
            "config": "config.yaml",
            "tokenizer_conf": {"bpemodel": start.tokenizer.name},
            "frontend_conf": {"cmvn_file": start.cmvn.name},
        },
    }


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    text = json.dumps(facts, ensure_ascii=False, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
