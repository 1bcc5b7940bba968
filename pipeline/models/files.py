"""Find the files of a model, fetch them if needed, and hash them. Knows hubs and stores, no torch.

A model is a directory in FunASR's layout: configuration.json names the files, config.yaml describes
the network. The hubs' own clients fetch it: FunASR's download prints a failure and continues
(funasr/download/download_model_from_hub.py catches every exception).
"""

import hashlib
import http.client
import json
import logging
import os
import shutil
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.config import RunConfig, is_path
from pipeline.errors import ModelError
from pipeline.storage.redaction import public_uri, redact
from pipeline.storage.store import filesystem_for

# The same model has different ids on the two hubs.
_ALIASES = {
    "ms": {"fsmn-vad": "iic/speech_fsmn_vad_zh-cn-16k-common-pytorch"},
    "hf": {"fsmn-vad": "funasr/fsmn-vad", "iic/SenseVoiceSmall": "FunAudioLLM/SenseVoiceSmall"},
}
_HUB_NAMES = {"ms": "ModelScope", "hf": "Hugging Face"}
_PROBE_S = 5.0


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one model directory, and one hash over all of them."""

    directory: Path
    config: dict[str, Any]
    weights: Path
    cmvn: Path
    tokenizer: Path | None  # SentencePiece; None for a VAD
    sha256: str


def resolve_model(
    name: str,
    *,
    hub: Literal["ms", "hf"] = "ms",
    revision: str = "",
    options: Mapping[str, Any] | None = None,
) -> ModelFiles:
    """A local directory, an object-store URI or a hub id, as files on this machine.

    Remote models are copied once per machine into the cache. Raises ModelError.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _read_directory(path.resolve(), name)
    if "://" in name:
        return _read_directory(_copy_from_store(name, options or {}), name)
    if is_path(name):
        raise ModelError(
            f"model {public_uri(name)!r}: no such directory (looked for {path.absolute()}). A path "
            "in a configuration file is relative to the file, one on the command line to the "
            "working directory"
        )
    return _read_directory(_download(name, hub, revision), name)


def resolve_model_of(config: RunConfig) -> ModelFiles:
    """The model of a run. Raises ModelError."""
    return resolve_model(
        config.model,
        hub=config.hub,
        revision=config.model_revision,
        options=config.storage_options,
    )


def resolve_vad(config: RunConfig) -> tuple[str, str]:
    """The name or directory for `load_vad`, and the VAD's part of the fingerprint.

    Raises ModelError.
    """
    if config.vad == "none":
        return "none", "none"
    if config.vad == "silero":
        return "silero", f"silero-vad {version('silero-vad')}"  # the package has the weights
    files = resolve_model(config.vad, hub=config.hub, options=config.storage_options)
    return str(files.directory), f"fsmn {files.sha256}"


def _read_directory(directory: Path, name: str) -> ModelFiles:
    metas: dict[str, Any] = {}
    if (directory / "configuration.json").is_file():
        configuration = json.loads((directory / "configuration.json").read_text(encoding="utf-8"))
        metas = configuration.get("file_path_metas", {})
    tokenizer = metas.get("tokenizer_conf", {}).get("bpemodel")
    if tokenizer is None:  # without file_path_metas FunASR goes by file names
        tokenizer = next((path.name for path in sorted(directory.glob("*.bpe.model"))), None)
    paths = {
        "config": directory / metas.get("config", "config.yaml"),
        "weights": directory / metas.get("init_param", "model.pt"),
        "cmvn": directory / metas.get("frontend_conf", {}).get("cmvn_file", "am.mvn"),
    }
    if tokenizer is not None:
        paths["tokenizer"] = directory / tokenizer
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise ModelError(
            f"model {public_uri(name)!r}: {directory} lacks {', '.join(missing)}; "
            "a model directory has configuration.json, config.yaml, model.pt and am.mvn"
        )
    return ModelFiles(
        directory=directory,
        config=yaml.safe_load(paths["config"].read_text(encoding="utf-8")),
        weights=paths["weights"],
        cmvn=paths["cmvn"],
        tokenizer=paths.get("tokenizer"),
        sha256=_hash_files(sorted(paths.values())),
    )


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def cache_dir() -> Path:
    """Where this machine keeps what it fetched or converted."""
    root = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(root).expanduser() / "sensevoice-pipeline"


def _copy_from_store(uri: str, options: Mapping[str, Any]) -> Path:
    """The cached copy of a model directory in object storage; copied now if it is not there yet.

    The folder's name is a hash of the names, sizes and etags in the listing, so a changed model
    gets another folder. A rename puts it in place: if two workers of one machine copy at once, one
    copy stays.
    """
    try:
        fs, path = filesystem_for(uri, options)
        listing = [entry for entry in fs.ls(path, detail=True) if entry["type"] == "file"]
    except (OSError, ImportError, ValueError) as error:
        raise ModelError(redact(f"model {uri!r}: cannot be listed: {error}")) from error
    facts = sorted(
        (Path(entry["name"]).name, entry["size"], str(entry.get("ETag") or entry.get("mtime")))
        for entry in listing
    )
    folder = cache_dir() / hashlib.sha256(repr((uri, facts)).encode()).hexdigest()[:32]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for entry in listing:
            fs.get_file(entry["name"], str(temporary / Path(entry["name"]).name))
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.is_dir():  # else another worker was faster
            raise ModelError(redact(f"model {uri!r}: cannot be copied: {error}")) from error
    return folder


def _download(name: str, hub: Literal["ms", "hf"], revision: str) -> Path:
    """The hub's own cached copy. Asks the hub once, briefly: its client would retry for minutes."""
    model_id = _ALIASES[hub].get(name, name)
    reason = unreachable(_hub_address(hub))
    try:
        return Path(_fetch(model_id, hub, revision, only_cached=bool(reason)))
    except ModuleNotFoundError:  # the light install has no hub's client: jobs/__main__.py says so
        raise
    except Exception as error:  # of the hub's client, of requests, or built in
        reason = reason or f"{type(error).__name__}: {_first_line(error)}"
        raise ModelError(
            f"model {public_uri(model_id)!r} cannot be fetched from {_HUB_NAMES[hub]}: check the "
            f"id and the network, try `hub: {'hf' if hub == 'ms' else 'ms'}`, or give a local "
            f"directory or a URI as `model` ({redact(reason)})"
        ) from None


def _fetch(model_id: str, hub: Literal["ms", "hf"], revision: str, *, only_cached: bool) -> str:
    """The directory of a model; `only_cached`: without the network, if it was fetched before."""
    if hub == "ms":
        for logger in ("modelscope_hub", "modelscope"):
            logging.getLogger(logger).setLevel(logging.ERROR)  # they log retries
        from modelscope.hub.snapshot_download import snapshot_download as from_modelscope

        return str(
            from_modelscope(model_id, revision=revision or None, local_files_only=only_cached)
        )
    from huggingface_hub import snapshot_download as from_hugging_face

    return str(from_hugging_face(model_id, revision=revision or None, local_files_only=only_cached))


def _hub_address(hub: Literal["ms", "hf"]) -> str:
    """Where the hub's client would ask: the variables are the client's own."""
    if hub == "hf":
        return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return os.environ.get("MODELSCOPE_ENDPOINT") or f"https://{domain}"


def unreachable(address: str) -> str:
    """Why a web server gives no answer within five seconds; "" if it answers, whatever it says."""
    if any(proxy.startswith("socks") for proxy in urllib.request.getproxies().values()):
        return ""  # urllib does not know SOCKS, the hub's client may
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PROBE_S).close()
    except (urllib.error.HTTPError, http.client.HTTPException, ssl.SSLError, ValueError):
        return ""  # it answers; the client may know its certificate or be allowed to ask
    except OSError as error:  # URLError, too
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return ""
        return f"{address} gives no answer: {getattr(error, 'reason', error)}"
    return ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")[:200]
