"""The JSON report of `jobs benchmark speed`. Knows its keys, and nothing of how to measure.

`pipeline.benchmark` writes the report, `planning.costs` reads it. The names of the fields are the
keys of the file; keys that are not named here are ignored when a report is read.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

OURS = "ours "  # then a precision: the name of a result of this pipeline without Ray

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSettings:
    """What was measured, and how."""

    model: str
    vad: str
    files: tuple[str, ...]  # URIs of the audio
    device: Literal["cpu", "cuda"]
    clock: Literal["cpu_s", "wall_s"]  # the seconds that speeds are calculated from
    threads: int
    repeats: int
    batch_s: float | None  # audio of a model batch; None: the default of the device
    clips: int  # number of clips whose text is compared with FunASR's
    work: str  # the directory in which the contenders kept their files
    exact: str  # the precision that is compared with FunASR and with Ray


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """The lowest value of each clock over all repeats."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """Seconds of each stage, by the clock of the settings; in the order of the flow."""

    decode: float
    features: float
    vad: float
    model: float
    labels: float
    write: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one contender took for all its audio; medians over the repeats."""

    audio_s: float
    cpu_s: float
    wall_s: float
    least: Least
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSpeed(Speed):
    """Speed of this pipeline's stages in a plain loop, without Ray."""

    stages_s: StageSeconds
    segment_s: float  # audio in segments
    n_segments: int
    attention_fill: float  # see benchmark.loop.LoopResult


@dataclass(frozen=True, slots=True, kw_only=True)
class FunAsrSpeed(Speed):
    """Speed of FunASR, and how many of its texts are equal to ours."""

    n_compared: int
    n_equal: int
    vad: str  # "" for none


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a contender has no speed: the last line of its error output."""

    error: str


SpeedResult = Speed | Failure


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """Results by the name of the contender: "ours fp32", "funasr", "ray", "scale 4", ..."""

    machine: Mapping[str, Any]
    settings: SpeedSettings
    results: Mapping[str, SpeedResult]

    @property
    def ours(self) -> dict[str, LoopSpeed]:
        """Speeds of this pipeline without Ray, by precision."""
        return {
            name.removeprefix(OURS): result
            for name, result in self.results.items()
            if name.startswith(OURS) and isinstance(result, LoopSpeed)
        }

    def to_json(self) -> str:
        """One object whose keys are the settings, `machine` and `results`."""
        results = {name: asdict(result) for name, result in self.results.items()}
        facts = {"machine": dict(self.machine), **asdict(self.settings), "results": results}
        return json.dumps(facts, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "SpeedReport":
        """Raises ValueError with the key that is missing or wrong."""
        facts = _read(dict[str, Any], json.loads(text), "report")
        results = _read(dict[str, dict[str, Any]], facts.get("results"), "results")
        return cls(
            machine=_read(dict[str, Any], facts.get("machine"), "machine"),
            settings=read_settings(facts),
            results={name: read_result(result, name) for name, result in results.items()},
        )


def read_settings(facts: Mapping[str, Any]) -> SpeedSettings:
    """Settings from a JSON object. Raises ValueError."""
    return _read(SpeedSettings, facts, "settings")


def read_result(facts: Mapping[str, Any], name: str) -> SpeedResult:
    """The result called `name` from a JSON object; its keys show its kind. Raises ValueError."""
    if "error" in facts:
        return _read(Failure, facts, name)
    if "stages_s" in facts:
        return _read(LoopSpeed, facts, name)
    return _read(FunAsrSpeed if "n_compared" in facts else Speed, facts, name)


def _read(kind: type[T], facts: object, name: str) -> T:
    try:
        return TypeAdapter(kind).validate_python(facts)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (name, *first["loc"])))
        raise ValueError(f"{key}: {first['msg']}") from error
