"""One YAML file per run, checked before anything starts. Knows the keys, not who uses them.

Every field has a one-line description and its unit in its name. An unknown key is an error that
names the nearest known one. Put no secrets here: stores read them from the environment.
"""

import difflib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError

Language = Literal["auto", "zh", "en", "yue", "ja", "ko"]
SpokenLanguage = Literal["zh", "en", "yue", "ja", "ko"]
Precision = Literal["fp32", "bf16", "int8"]
Backend = Literal["torch", "onnxruntime"]
Device = Literal["auto", "cpu", "cuda"]
ChannelMode = Literal["mix", "split", "first", "loudest"]
ManifestFormat = Literal["auto", "table", "nemo", "sensevoice", "lhotse", "audiofolder", "kaldi"]

_VARIABLE = "SENSEVOICE_"  # what the names of environment variables for keys begin with
_OF_COMMANDS = {"SENSEVOICE_SERVE_TOKEN", "SENSEVOICE_EXPLORE_TOKEN"}  # secrets are no keys
_log = logging.getLogger(__name__)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AudioConfig(_Section):
    """Decoding of recordings."""

    window_s: float = Field(
        default=1800.0, ge=10, description="cut longer recordings into windows of this length, s"
    )
    max_duration_s: float = Field(
        default=172_800.0, gt=0, description="refuse longer recordings, s"
    )
    max_bytes: int = Field(default=8 << 30, gt=0, description="refuse larger files, bytes")
    min_rate_hz: int = Field(default=4_000, gt=0, description="refuse lower sample rates, Hz")
    max_rate_hz: int = Field(default=384_000, gt=0, description="refuse higher sample rates, Hz")
    max_channels: int = Field(default=64, gt=0, description="refuse files with more channels")
    min_decoded_share: float = Field(
        default=0.9, ge=0, le=1, description="refuse if less of the declared length can be decoded"
    )
    channels: ChannelMode = Field(
        default="mix",
        description="mix: label all channels as one; split: each on its own; first or loudest: one "
        "of them. A channel in the manifest has priority",
    )


class SegmentConfig(_Section):
    """How recordings are cut into segments for SenseVoice."""

    max_segment_s: float = Field(default=30.0, gt=0, le=60, description="longest segment, s")
    min_segment_s: float = Field(
        default=0.1, ge=0.05, description="count shorter segments as silence, s"
    )
    merge_length_s: float = Field(
        default=15.0, ge=0, description="join neighbouring segments up to this length in total, s"
    )
    merge_gap_s: float = Field(
        default=0.5, ge=0, description="do not join segments across a longer silence, s"
    )
    end_silence_s: float = Field(default=0.8, gt=0, description="silence that ends a segment, s")
    pad_s: float = Field(
        default=0.1, ge=0, description="silero: audio to keep before and after a segment, s"
    )
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="silero: smallest probability that counts as speech"
    )
    silence: Literal["skip", "label"] = Field(
        default="skip",
        description="label: what the VAD calls silence, from 1 s on, goes to the model, too, for "
        "its events; a text only where the model says speech. Costs as much as speech",
    )
    whole_below_s: float = Field(
        default=0.0,
        ge=0,
        le=60,
        description="label shorter recordings whole, without the VAD, which hides sounds that are "
        "no speech, s",
    )


class LabelConfig(_Section):
    """How SenseVoice labels segments, and how many at a time."""

    language: Language = Field(
        default="auto", description="language prompt; a language in the manifest has priority"
    )
    allowed_languages: tuple[SpokenLanguage, ...] = Field(
        default=(), description="choose only among these languages; empty: all"
    )
    use_itn: bool = Field(default=True, description="write numbers as digits, and add punctuation")
    batch_s: float | None = Field(
        default=None, gt=0, description="audio per model batch, s; none: what suits the device"
    )
    device: Device = Field(default="auto", description="auto (a GPU if there is one), cpu or cuda")
    precision: Literal["auto", Precision] = Field(
        default="auto", description="fp32 (exact), bf16 or int8; auto: bf16 on a GPU, else fp32"
    )
    align: Literal["none", "text"] = Field(
        default="none",
        description="text: do not recognise, but place the words of the manifest's column text (or "
        "ref_text) in time; language, emotion and events as ever",
    )
    word_times: Literal["peak", "contour"] = Field(
        default="peak",
        description="peak: words where CTC has them, starts are late; contour: grown to the edges "
        "of loudness",
    )
    compile: bool = Field(
        default=False,
        description="use torch.compile on a GPU; ignored where there is no C compiler",
    )
    backend: Backend = Field(
        default="torch",
        description="what runs the model: torch, or onnxruntime (CPUs; fp32 and int8)",
    )


class QualityConfig(_Section):
    """What is measured beside the labels. No key here makes a recording be labelled again."""

    measure: bool = Field(
        default=True,
        description="measure loudness, clipping, channels, bandwidth and noise while decoding "
        "(tables measures and quality)",
    )


class RayConfig(_Section):
    """Where the run takes place. No value here changes a label."""

    local: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="label in one process without Ray: always, never, or auto: corpora of a few "
        "minutes, on a CPU",
    )
    address: str | None = Field(
        default=None, description="Ray address; none: the cluster of the Ray job, else this machine"
    )
    num_cpus: int | None = Field(default=None, ge=1, description="local Ray only: CPUs; none: all")
    object_store_bytes: int = Field(
        default=512 << 20, ge=80 << 20, description="local Ray only: object store, bytes"
    )
    decode_cpus: float = Field(
        default=0.5, gt=0, description="CPUs of a decode task, which waits for half of its time"
    )
    segment_workers: int = Field(default=1, ge=1, description="number of VAD workers")
    segment_workers_max: int = Field(
        default=0, ge=0, description="upper limit for autoscaling; 0 turns it off"
    )
    segment_cpus: float = Field(default=1.0, gt=0, description="CPUs of a VAD worker")
    label_workers: int = Field(default=1, ge=1, description="number of SenseVoice workers")
    label_workers_max: int = Field(
        default=0, ge=0, description="upper limit for autoscaling; 0 turns it off"
    )
    label_cpus: float = Field(
        default=1.0, ge=0, description="CPUs of a SenseVoice worker (0 if it has a GPU)"
    )
    num_gpus: float = Field(
        default=0.0, ge=0, description="GPUs of a SenseVoice worker; 0.5: two workers share a GPU"
    )
    segment_with_model: bool = Field(
        default=False,
        description="compute features and VAD in the SenseVoice workers; no VAD workers",
    )
    batch_audio_s: float = Field(
        default=600.0, gt=0, description="audio per row batch, which a worker gets at once, s"
    )
    no_progress_s: float = Field(
        default=0.0,
        ge=0,
        description="stop after this time without any progress, s; 0: never (nodes may come late)",
    )


class ServiceConfig(_Section):
    """How `jobs serve` answers. No value here changes a label."""

    host: str = Field(
        default="127.0.0.1", description="address to listen on; others than loopback need a token"
    )
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0: any free one")
    host_names: tuple[str, ...] = Field(
        default=(), description="names that clients use, if not the address; *: any"
    )
    batch_s: float = Field(
        default=15.0,
        gt=0,
        description="audio in a model batch, s; a clip waits for one",
    )
    front_threads: int = Field(
        default=1, ge=1, description="recordings that are decoded and searched for speech at a time"
    )
    max_requests: int = Field(default=32, ge=1, description="requests under way; more get 429")
    max_queued_audio_s: float = Field(
        default=7200.0, gt=0, description="audio that may wait for the model, s; more gets 429"
    )
    max_upload_bytes: int = Field(default=200 << 20, ge=1, description="largest request, bytes")
    upload_timeout_s: float = Field(default=600.0, gt=0, description="longest upload, s")
    ping_s: float = Field(
        default=15.0,
        gt=0,
        description="time without an event after which a stream gets a comment, s",
    )
    max_connections: int = Field(
        default=512, ge=1, description="open connections; more get 503, but for /healthz"
    )
    stuck_s: float = Field(
        default=120.0, gt=0, description="not ready while a model batch takes longer, s"
    )
    drain_s: int = Field(default=30, ge=0, description="time to finish requests after SIGTERM, s")
    replicas: int = Field(default=1, ge=1, description="processes with a model; only with --ray")
    replicas_max: int = Field(
        default=0, ge=0, description="upper limit for autoscaling; 0 turns it off"
    )
    tls_certificate: str = Field(default="", description="PEM file; with tls_key: https")
    tls_key: str = Field(default="", description="PEM file of the certificate's key")

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.replicas_max and self.replicas_max < self.replicas:
            raise ValueError(
                f"service.replicas_max ({self.replicas_max}) is less than service.replicas "
                f"({self.replicas}); 0 turns autoscaling off"
            )
        return self


class RunConfig(_Section):
    """One labelling run."""

    manifest: str = Field(description="manifest file or glob, or directory of audio (path or URI)")
    manifest_format: ManifestFormat = Field(
        default="auto",
        description="what the manifest is: table (our columns), nemo, sensevoice, lhotse, "
        "audiofolder, kaldi; auto: seen from its columns",
    )
    output: str = Field(description="where the tables are written: a path or an s3:// URI")
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,  # it may hold a credential after all
        description="fsspec options of the object store; no secrets",
    )
    model: str = Field(default="iic/SenseVoiceSmall", description="hub id, local directory or URI")
    hub: Literal["ms", "hf"] = Field(
        default="ms", description="hub of the model: ModelScope (ms) or Hugging Face (hf)"
    )
    model_revision: str = Field(default="", description="hub revision; empty: the hub's default")
    vad: str = Field(
        default="fsmn-vad", description="none, silero, fsmn-vad, or a directory or URI of FSMN-VAD"
    )
    allowed_roots: tuple[str, ...] = Field(
        default=(),
        description="read only below these directories and URI prefixes; empty: the manifest's own",
    )
    allow_http: bool = Field(
        default=False, description="allow http(s) addresses of public hosts in the manifest"
    )
    error_exit_code: int = Field(
        default=3, ge=0, le=125, description="exit code of a finished run with failed recordings"
    )
    publish_every_s: float = Field(
        default=60.0, gt=0, description="time between two commits of finished recordings, s"
    )
    store_patience_s: float = Field(
        default=900.0, ge=0, description="wait this long for a store that does not answer, s"
    )
    retry: Literal["none", "errors"] = Field(
        default="none",
        description="errors: retry recordings that failed for a temporary reason "
        "(store, permissions, crash)",
    )
    max_attempts: int = Field(default=3, ge=1, description="try a recording at most this often")
    max_error_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="stop when more than this share of recordings fail for one temporary reason",
    )
    fail_fast_after: int = Field(
        default=100, ge=1, description="apply max_error_share only after this many recordings"
    )
    single_writer: bool = Field(
        default=False,
        description="use a lease, for a store without conditional writes; never two runs at once",
    )
    audio: AudioConfig = AudioConfig()
    segment: SegmentConfig = SegmentConfig()
    label: LabelConfig = LabelConfig()
    quality: QualityConfig = QualityConfig()
    ray: RayConfig = RayConfig()
    service: ServiceConfig = ServiceConfig()

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        segment = self.segment
        if segment.merge_length_s > segment.max_segment_s:
            raise ValueError(
                f"segment.merge_length_s ({segment.merge_length_s}) is longer than "
                f"segment.max_segment_s ({segment.max_segment_s}); set both, with "
                f"segment.merge_length_s at most {segment.max_segment_s}"
            )
        return self

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        label = self.label
        if label.backend == "torch":
            return self
        if label.precision == "bf16":
            raise ValueError("label.precision bf16 needs label.backend=torch; use fp32 or int8")
        if label.device == "cuda" or self.ray.num_gpus > 0:
            raise ValueError(
                "label.backend onnxruntime runs on CPUs; set ray.num_gpus=0 and label.device=cpu, "
                "or label.backend=torch"
            )
        return self


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """The run that a YAML file and `key.sub=value` overrides describe.

    Environment variables named SENSEVOICE_KEY__SUB override the file; `overrides` override both.
    Values are read as YAML. A variable that names no key is ignored, with a warning in the log.
    Raises ConfigError, naming the key and the nearest valid one.
    """
    values = read_values(path)
    _find_beside(values, Path(path).parent)
    _take_environment(values)
    _override(values, overrides)
    return check_config(values, f"{path}: ")


def read_values(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Keys and values of a YAML file, with `key.sub=value` overrides. Raises ConfigError."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        # `from None`: the exception quotes the line, which may hold a credential
        raise ConfigError(f"{path}: cannot be read as YAML: {_where(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    _override(values, overrides)
    return values


def check_config(values: Mapping[str, Any], source: str = "") -> RunConfig:
    """The run that these values describe. Raises ConfigError; its message begins with `source`."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(source + "; ".join(explain(error))) from error


def is_path(name: str) -> bool:
    """Whether the name of a model is a path: an existing one, or one that can be no hub id.

    A hub id is OWNER/NAME or NAME.
    """
    return "://" not in name and (
        name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).is_dir()
    )


def _find_beside(values: dict[str, Any], folder: Path) -> None:
    """Make relative model paths of a configuration file relative to its folder.

    A path that exists only below the working directory stays as it is.
    """
    for key in ("model", "vad"):
        name = values.get(key)
        if not isinstance(name, str) or "://" in name or name in ("", "none", "silero", "fsmn-vad"):
            continue
        beside = folder / name
        if beside.is_dir() or (is_path(name) and not Path(name).expanduser().is_dir()):
            values[key] = str(beside) if not name.startswith("~") else name


def label_precision(config: RunConfig) -> Precision:
    """The precision of a run's labels, from the configuration alone, so that all workers agree.

    On a CPU, float32 gives the same text as FunASR, and bf16 is slower without avx512_bf16 or AMX.
    On a GPU, float32 uses a tenth of the arithmetic. Workers have a GPU if `ray.num_gpus` is set.
    """
    if config.label.precision != "auto":
        return config.label.precision
    on_gpu = config.label.device == "cuda" or (
        config.label.device == "auto" and config.ray.num_gpus > 0
    )
    return "bf16" if on_gpu else "fp32"


def load_options(overrides: Iterable[str]) -> dict[str, Any]:
    """Storage options from `key.sub=value`, for commands that need a store but no run."""
    values: dict[str, Any] = {}
    _override(values, overrides)
    return values


def _take_environment(values: dict[str, Any]) -> None:
    """Set the keys that SENSEVOICE_* variables name; warn of variables that name none.

    Those are no error: for a Service called sensevoice-api, Kubernetes sets variables like
    SENSEVOICE_API_SERVICE_HOST in every pod of the namespace.
    """
    known = [key for key, _, _ in describe_fields()]
    unknown = []
    for name, text in sorted(os.environ.items()):
        if name.startswith(_VARIABLE) and name not in _OF_COMMANDS:
            key = name.removeprefix(_VARIABLE).lower().replace("__", ".")
            if _is_known(key, known):
                _assign(values, key, text, source=name)
            else:
                unknown.append(name + _nearest(key, known, cutoff=0.8))
    if unknown:
        _log.warning(
            "ignored environment variables that name no key of the configuration: %s. "
            "Kubernetes sets such variables for Services whose name begins with sensevoice; "
            "enableServiceLinks: false in the pod's spec turns them off",
            ", ".join(unknown),
        )


def _is_known(key: str, known: list[str]) -> bool:
    """A key, a whole section, or a storage option, which only the store knows."""
    return (
        key in known
        or any(name.startswith(f"{key}.") for name in known)
        or key.startswith("storage_options.")
    )


def _override(values: dict[str, Any], overrides: Iterable[str]) -> None:
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            name = re.split(r"[^\w.]", override, maxsplit=1)[0]  # the rest may be a credential
            raise ConfigError(f"--set {name}...: write it as key=value")
        _assign(values, key.strip(), text, source=f"--set {key.strip()}")


def describe_fields(config: type[BaseModel] = RunConfig) -> Iterator[tuple[str, str, str]]:
    """(key, default, description) of every field, in the order of the file; for --help."""
    yield from _describe(config, "")


def _describe(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _describe(kind, f"{prefix}{name}.")
        else:
            default = (
                "required"
                if field.is_required()
                else repr(field.get_default(call_default_factory=True))
            )
            yield f"{prefix}{name}", default, _with_choices(field.description or "", kind)


def _with_choices(description: str, kind: Any) -> str:
    """The description, and the values that the key can have if it does not name them all."""
    choices = list(_choices_of(kind))
    if all(choice in description for choice in choices):
        return description
    return f"{description}; one of {', '.join(choices)}"


def _choices_of(kind: Any) -> Iterator[str]:
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    else:
        for part in get_args(kind):
            yield from _choices_of(part)


def _assign(values: dict[str, Any], key: str, text: str, source: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: {section!r} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{source}: the value is not YAML: {_where(error)}; put a text with special characters "
            "in quotes inside the value, as in --set 'key=\"text\"'"
        ) from None


def _where(error: yaml.YAMLError) -> str:
    """Where the text is no YAML, and why, without quoting the text: it may be a credential."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + re.sub(r"'.*'", "...", str(problem or "a character that YAML does not allow"))


def explain(error: ValidationError, config: type[BaseModel] = RunConfig) -> Iterator[str]:
    """What is wrong, one text a key, with the nearest valid key or value of `config`."""
    known = [key for key, _, _ in describe_fields(config)]
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"unknown key {key!r}{_nearest(key, known)}"
        elif problem["type"] == "literal_error":
            choices = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
            value, quoted = str(problem["input"]), ", ".join(map(repr, choices))
            yield f"{key}: {value!r} is not valid{_nearest(value, choices)}; use one of {quoted}"
        else:
            text = str(problem["msg"]).removeprefix("Value error, ")  # pydantic's own words
            yield f"{key}: {text}" if key else text


def _nearest(key: str, known: list[str], cutoff: float = 0.4) -> str:
    """' (did you mean ...?)': the key with the same last part, else the most similar; or ''."""
    same_last = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    best = (same_last or difflib.get_close_matches(key, known, n=1, cutoff=cutoff))[:1]
    return f" (did you mean {best[0]!r}?)" if best else ""


SPOKEN_LANGUAGES: tuple[str, ...] = get_args(SpokenLanguage)
PROMPT_LANGUAGES: tuple[str, ...] = get_args(Language)
