"""Which settings change the fingerprint: those that change labels, and no others."""

from typing import Any, get_args

import pytest
from pydantic import BaseModel, create_model

from pipeline.config import AudioConfig, LabelConfig, RayConfig, RunConfig, SegmentConfig
from pipeline.runs.fingerprint import fingerprint

SECTIONS: dict[str, type[BaseModel]] = {
    "audio": AudioConfig,
    "segment": SegmentConfig,
    "label": LabelConfig,
    "ray": RayConfig,
}
CHANGES_NO_LABEL = {"batch_s", "compile", "device"}
PLAIN = RunConfig(manifest="m", output="o", label=LabelConfig(precision="fp32"))


def hash_of(config: RunConfig, model_hash: str = "a", vad: str = "none") -> str:
    return fingerprint(config, model_hash, vad)


def other_value(section: type[BaseModel], name: str) -> Any:
    """A value that this setting does not have by default."""
    field = section.model_fields[name]
    value, choices = field.default, get_args(field.annotation)
    if name == "allowed_languages":
        return ("zh",)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return next(choice for choice in choices if isinstance(choice, str) and choice != value)
    return value + 1 if isinstance(value, int | float) else 7


def changed(section: str, name: str) -> RunConfig:
    """`PLAIN` with another value of one setting, which is not validated."""
    value = "int8" if name == "precision" else other_value(SECTIONS[section], name)
    part = getattr(PLAIN, section).model_copy(update={name: value})
    return PLAIN.model_copy(update={section: part})


def fields(*sections: str) -> list[tuple[str, str]]:
    return [(section, name) for section in sections for name in SECTIONS[section].model_fields]


@pytest.mark.parametrize(
    ("section", "name"),
    [pair for pair in fields("audio", "segment", "label") if pair[1] not in CHANGES_NO_LABEL],
)
def test_a_setting_that_changes_labels_changes_the_fingerprint(section: str, name: str) -> None:
    assert hash_of(changed(section, name)) != hash_of(PLAIN)


@pytest.mark.parametrize(
    ("section", "name"),
    [*(("label", name) for name in sorted(CHANGES_NO_LABEL)), *fields("ray")],
)
def test_a_setting_that_changes_no_label_does_not_change_it(section: str, name: str) -> None:
    assert hash_of(changed(section, name)) == hash_of(PLAIN)


@pytest.mark.parametrize(
    "changes",
    [
        {"manifest": "other", "output": "other", "storage_options": {"endpoint_url": "http://h"}},
        {"model": "a/copy/of/it", "hub": "hf", "model_revision": "v2", "vad": "silero"},
        {"allowed_roots": ("/",), "allow_http": True, "error_exit_code": 7, "retry": "errors"},
        {"publish_every_s": 1.0, "max_attempts": 9, "max_error_share": 1.0, "fail_fast_after": 1},
        {"single_writer": True},
    ],
)
def test_names_paths_and_limits_of_a_run_do_not_change_it(changes: dict[str, Any]) -> None:
    """The model and the VAD count by their content, not by their name."""
    assert hash_of(PLAIN.model_copy(update=changes)) == hash_of(PLAIN)


def test_the_weights_and_the_vad_change_the_fingerprint() -> None:
    hashes = {hash_of(PLAIN, model_hash, vad) for model_hash in "ab" for vad in ("none", "silero")}
    assert len(hashes) == 4


def test_a_gpu_changes_it_by_its_precision_only() -> None:
    def on(precision: Any, **ray: Any) -> str:
        label = LabelConfig(precision=precision)
        return hash_of(PLAIN.model_copy(update={"label": label, "ray": RayConfig(**ray)}))

    assert on("auto", num_gpus=1) == on("bf16") != on("auto") == on("fp32", num_gpus=1)


@pytest.mark.parametrize("section", ["audio", "segment", "label"])
def test_a_setting_added_later_counts_once_it_is_changed(section: str) -> None:
    """Otherwise a new version of the program would label every corpus again."""

    extended = create_model("Extended", __base__=SECTIONS[section], added=(int, 0))

    def with_added(value: int) -> RunConfig:
        kept = getattr(PLAIN, section).model_dump()
        return PLAIN.model_copy(update={section: extended(**kept, added=value)})

    assert hash_of(with_added(0)) == hash_of(PLAIN)
    assert hash_of(with_added(1)) != hash_of(PLAIN)
