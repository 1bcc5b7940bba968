"""Labels of other settings in the output of a run, and which settings differ. Opens no audio."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from pipeline.config import AudioConfig, LabelConfig, RunConfig, SegmentConfig, label_precision
from pipeline.runs.fingerprint import NO_LABEL
from pipeline.storage.redaction import redact_all
from pipeline.storage.store import Store
from pipeline.tables.commit_log import State, read_state
from pipeline.tables.coverage import n_recordings
from pipeline.tables.parquet import read_files
from pipeline.tables.run_records import RunInfo, newest_records

_SECTIONS: Mapping[str, type[BaseModel]] = {
    "audio": AudioConfig,
    "segment": SegmentConfig,
    "label": LabelConfig,
}
_N_SHOWN = 12  # letters of a fingerprint

# Key of the configuration to (value of the one run, value of the other).
Differences = Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class OtherLabels:
    """What an output holds under another fingerprint than that of a run."""

    fingerprint: str
    n_recordings: int
    is_default: bool  # readers get these labels by default
    differing: Differences | None  # None: the settings of its runs were not recorded


def find_other_labels(store: Store, config: RunConfig, run: RunInfo) -> list[OtherLabels]:
    """The labels of other settings in the output, those that readers get first.

    Empty if readers get the labels of this run's settings, or if the output is empty.
    """
    state = read_state(store)
    default = state.current_fingerprint
    if default in ("", run.fingerprint):
        return []
    records = newest_records(store)
    held = {file.fingerprint for file in state.files["recordings"].values()} - {run.fingerprint}
    return [
        OtherLabels(
            fingerprint=fingerprint,
            n_recordings=n_recordings(state, fingerprint),
            is_default=fingerprint == default,
            differing=compare_settings(
                (records[fingerprint].settings, _model_hash(store, state, fingerprint)),
                (run_settings(config), run.model_hash),
            )
            if fingerprint in records
            else None,
        )
        for fingerprint in sorted(held, key=lambda name: (name != default, name))
    ]


def explain_other_labels(others: list[OtherLabels], run: RunInfo) -> str:
    """One paragraph for people, before a run starts; "" if there is nothing to say."""
    if not others:
        return ""
    listed = "; ".join(
        f"{other.n_recordings:,} recordings under {other.fingerprint[:_N_SHOWN]} "
        f"({'the default of readers, ' if other.is_default else ''}{_differing(other)})"
        for other in others
    )
    return (
        f"This output holds labels of other settings: {listed}. This run labels its manifest "
        f"again, under {run.fingerprint[:_N_SHOWN]}. If that is not intended, correct the settings."
    )


def explain_differences(differing: Differences) -> str:
    """As "label.language: auto -> en, vad: none -> silero"; "" if nothing differs."""
    return ", ".join(
        f"{key}: {_text(old)} -> {_text(new)}" for key, (old, new) in differing.items()
    )


def run_settings(config: RunConfig) -> dict[str, Any]:
    """The configuration as it is recorded: without storage options, and without secrets in URIs."""
    settings: dict[str, Any] = redact_all(
        config.model_dump(mode="json", exclude={"storage_options"})
    )
    return settings


def label_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change labels, by key. Keys that an older record lacks get the default."""
    found = {"model": settings.get("model", ""), "vad": settings.get("vad", "")}
    for name, section in _SECTIONS.items():
        given = settings.get(name, {})
        for key, field in section.model_fields.items():
            if name != "label" or key not in NO_LABEL:
                found[f"{name}.{key}"] = given.get(key, field.get_default())
    found["label.precision"] = _precision(settings)
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def compare_settings(
    old: tuple[Mapping[str, Any], str], new: tuple[Mapping[str, Any], str]
) -> Differences:
    """What differs between the settings, and the model_hash, of two runs.

    The same model may lie at two addresses, so its address counts only if the hashes differ.
    """
    found = dict(differences(label_settings(old[0]), label_settings(new[0])))
    if old[1] == new[1]:
        found.pop("model", None)
    elif "model" not in found:
        found["model files"] = (old[1][:_N_SHOWN], new[1][:_N_SHOWN])
    return found


def _model_hash(store: Store, state: State, fingerprint: str) -> str:
    path = state.table("recordings", fingerprint)[0].path
    hashes = read_files(store, "recordings", [path], ["model_hash"])["model_hash"]
    return str(hashes[0].as_py()) if len(hashes) else ""


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Differences:
    """The keys whose values differ."""
    return {
        key: (old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    }


def _precision(settings: Mapping[str, Any]) -> str:
    label = settings.get("label", {})
    values = {
        "manifest": "",
        "output": "",
        "label": {name: label[name] for name in ("device", "precision") if name in label},
        "ray": {"num_gpus": settings.get("ray", {}).get("num_gpus", 0.0)},
    }
    return label_precision(RunConfig.model_validate(values))


def _differing(other: OtherLabels) -> str:
    if other.differing is None:
        return "settings not recorded"
    return explain_differences(other.differing) or "other code version"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
