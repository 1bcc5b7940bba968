"""The keys of a fine-tuning, checked before anything starts. Knows the keys, not who uses them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.config import explain, is_path, read_values
from pipeline.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TableRows(_Section):
    """Labelled segments of an output of `jobs label`."""

    root: str = Field(description="where the tables are: a path or an s3:// URI")
    where: str = Field(default="", description="SQL condition on the view segments; empty: all")
    reviewed: Literal["only", "prefer", "exclude", "ignore"] = Field(
        default="only",
        description="only: what people confirmed or corrected; prefer: the model's own labels "
        "where there is no review; exclude, ignore: as in `export`",
    )
    split: Literal["train", "test"] = Field(
        default="train", description="which part of the speakers or recordings"
    )
    test_share: float = Field(
        default=0.0, ge=0, lt=1, description="share of speakers or recordings kept as split test"
    )


Rows = str | TableRows  # a jsonl as SenseVoice's finetune.sh takes it, or tables


class DataConfig(_Section):
    """Where the rows are, and which of them are used."""

    train: Rows = Field(description="jsonl of SenseVoice, or {root, where, reviewed, split}")
    valid: dict[str, Rows] | Rows = Field(
        default_factory=dict,
        description="held-out rows for scores and gates: one set, or several by name",
    )
    replay: Rows | None = Field(
        default=None, description="rows of what the model must not forget; none: no replay"
    )
    replay_ratio: float = Field(
        default=1.0, gt=0, description="seconds of replay per second of train, in each epoch"
    )
    itn: bool | None = Field(
        default=None,
        description="text form of rows without with_or_wo_itn; none: such rows are dropped",
    )
    learn_unknown: bool = Field(
        default=False,
        description="train EMO_UNKNOWN and Event_UNK as labels; else they mean: no label",
    )
    max_clip_s: float = Field(default=30.0, gt=0, description="drop longer clips, s")
    max_dropped_share: float = Field(
        default=0.1, ge=0, le=1, description="stop if a larger share of the train rows is dropped"
    )

    def valid_sets(self) -> dict[str, Rows]:
        """Sets by name; a single one is called `valid`."""
        return self.valid if isinstance(self.valid, dict) else {"valid": self.valid}


class SpecAugConfig(_Section):
    """Masks on the stacked frames; 0 turns one off. SenseVoice's own values."""

    freq: int = Field(default=30, ge=0, description="mel bins masked: fewer than this")
    time: int = Field(default=12, ge=0, description="LFR frames of 60 ms masked: fewer than this")


class GatesConfig(_Section):
    """What the new model must not lose."""

    max_regression: float = Field(
        default=0.02,
        ge=0,
        description="no error of any held-out set may rise by more: 0.02 is one clip in 50",
    )


class WorkersConfig(_Section):
    """Ray Train's workers; --no-ray trains in the program's own process instead."""

    address: str | None = Field(
        default=None, description="Ray address; none: the cluster of the Ray job, else this machine"
    )
    num_workers: int = Field(default=1, ge=1, description="number of workers")
    use_gpu: bool = Field(default=False, description="give each worker a GPU")
    cpus: float = Field(default=1.0, gt=0, description="CPUs of a worker")
    max_failures: int = Field(
        default=3, ge=0, description="start again from the newest checkpoint this often"
    )


class FinetuneConfig(_Section):
    """One fine-tuning."""

    model: str = Field(description="the start: hub id, local directory or URI")
    hub: Literal["ms", "hf"] = Field(default="ms", description="hub of the model")
    model_revision: str = Field(default="", description="hub revision; empty: the default")
    output: str = Field(description="directory or s3:// URI for the new model; must not exist")
    checkpoints: str = Field(
        default="",
        description="path or s3:// URI for checkpoints, which all workers see; empty: "
        "OUTPUT.checkpoints",
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="fsspec options of the store; no secrets"
    )
    data: DataConfig
    train: str = Field(
        default="all",
        pattern=r"^(all|head|lora|top:\d+)$",
        description="weights that are trained: all, head, top:N (head and the last N layers), lora",
    )
    lora_rank: int = Field(default=8, ge=1, description="rank of the LoRA adapters")
    language_prompt_share: float = Field(
        default=0.8, ge=0, le=1, description="share of clips prompted with their language"
    )
    batch_s: float = Field(default=60.0, gt=0, description="audio per batch and worker, s")
    accumulate: int = Field(default=1, ge=1, description="batches per worker and step")
    lr: float | None = Field(
        default=None, gt=0, description="peak learning rate; none: 2e-5, or 1e-4 for head and LoRA"
    )
    warmup_share: float = Field(
        default=0.1, ge=0, lt=1, description="share of all steps in which the rate rises"
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's")
    grad_clip: float = Field(default=5.0, gt=0, description="largest norm of the gradient")
    epochs: int = Field(default=5, ge=1, description="passes over the train rows")
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many steps")
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="none: 0 on a CPU, 0.1 on a GPU"
    )
    specaug: SpecAugConfig = SpecAugConfig()
    precision: Precision = Field(
        default="auto", description="fp32 or bf16 (the loss stays fp32); auto: bf16 on a GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto, cpu or cuda")
    seed: int = Field(default=0, description="of order, prompts, masks and dropout")
    checkpoint_every: int = Field(default=500, ge=1, description="steps between checkpoints")
    ema: float = Field(
        default=0.999, ge=0, lt=1, description="decay of the average of the weights over steps"
    )
    evaluate_every: int | None = Field(
        default=None, ge=1, description="steps between scores on data.valid; none: each epoch"
    )
    average: int = Field(
        default=5, ge=1, description="average the weights of this many best evaluations"
    )
    patience: int = Field(
        default=3, ge=1, description="stop after this many evaluations without a better score"
    )
    mix_with_start: tuple[float, ...] = Field(
        default=(0.3, 0.5, 0.7, 1.0),
        min_length=1,
        description="shares of the new weights that are tried in a mix with the old ones",
    )
    gates: GatesConfig = GatesConfig()
    event_files: str = Field(
        default="", description="local directory for TensorBoard's event files; empty: none"
    )
    ray: WorkersConfig = WorkersConfig()

    @property
    def peak_lr(self) -> float:
        return self.lr or (1e-4 if self.train in ("head", "lora") else 2e-5)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0 < share <= 1 for share in self.mix_with_start):
            raise ValueError("mix_with_start: shares are over 0 and at most 1")
        if self.batch_s < self.data.max_clip_s:
            raise ValueError(
                f"batch_s ({self.batch_s}) is seconds of audio, not a number of clips, and less "
                f"than the longest clip, data.max_clip_s ({self.data.max_clip_s}); raise batch_s "
                "or lower data.max_clip_s"
            )
        return self


def load_finetune_config(path: str | Path, overrides: Iterable[str] = ()) -> FinetuneConfig:
    """The fine-tuning that a YAML file and `key.sub=value` overrides describe.

    A `model` that is a path is relative to the file, as in the configuration of a run. Raises
    ConfigError, naming the key.
    """
    values = read_values(path, overrides)
    name = values.get("model")
    if isinstance(name, str) and "://" not in name:
        beside = Path(path).parent / name
        if beside.is_dir() or (is_path(name) and not Path(name).expanduser().is_dir()):
            values["model"] = str(beside)
    try:
        return FinetuneConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(explain(error, FinetuneConfig))) from error
