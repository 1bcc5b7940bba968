import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import RunConfig, describe_fields, load_config, load_options
from pipeline.errors import ConfigError

ROOT = Path(__file__).parents[1]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


MINIMAL = "manifest: a.jsonl\noutput: out\n"


RUNS = sorted((ROOT / "configs").glob("*.yaml"))
RUNS.remove(ROOT / "configs" / "finetune.yaml")  # no run: tests/training loads it


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.name)
def test_every_shipped_config_loads(path: Path) -> None:
    assert isinstance(load_config(path), RunConfig)


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "label: {batchs: 3}\n")
    with pytest.raises(ConfigError, match=r"'label\.batchs' \(did you mean 'label\.batch_s'"):
        load_config(path)


def test_a_key_in_the_wrong_section_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'segment\.max_segment_s'"):
        load_config(write(tmp_path, MINIMAL), ["max_segment_s=20"])


def test_an_unknown_language_is_refused_with_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"label\.language: 'eng' .*did you mean 'en'"):
        load_config(write(tmp_path, MINIMAL), ["label.language=eng"])


def test_overrides_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MINIMAL + "segment: {max_segment_s: 10, merge_length_s: 5}\n")
    monkeypatch.setenv("SENSEVOICE_SEGMENT__MAX_SEGMENT_S", "12")
    assert load_config(path).segment.max_segment_s == 12
    assert load_config(path, ["segment.max_segment_s=14"]).segment.max_segment_s == 14


def test_variables_that_name_no_key_are_ignored_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubernetes sets the first two for a Service called sensevoice-api; the third is a typo."""
    monkeypatch.setenv("SENSEVOICE_API_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SENSEVOICE_API_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("SENSEVOICE_LABEL__LANGUAGES", "s3cret: [")
    assert load_config(write(tmp_path, MINIMAL)).label.language == "auto"
    (record,) = caplog.records
    message = record.getMessage()
    assert "SENSEVOICE_API_PORT, SENSEVOICE_API_SERVICE_HOST, " in message
    assert "SENSEVOICE_LABEL__LANGUAGES (did you mean 'label.language'?)" in message
    assert "enableServiceLinks: false" in message
    assert "10.0.0.1" not in message
    assert "s3cret" not in message


def test_variables_for_a_section_and_for_storage_options_are_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SENSEVOICE_LABEL", "{language: yue}")
    monkeypatch.setenv("SENSEVOICE_STORAGE_OPTIONS__ENDPOINT_URL", "https://minio")
    config = load_config(write(tmp_path, MINIMAL))
    assert config.label.language == "yue"
    assert config.storage_options == {"endpoint_url": "https://minio"}
    assert caplog.records == []


def test_values_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"yaml: segment\.merge_length_s .* is longer than"):
        load_config(write(tmp_path, MINIMAL), ["segment.max_segment_s=10"])


def test_a_missing_key_and_a_wrong_type_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="manifest: Field required"):
        load_config(write(tmp_path, "output: out\n"))
    with pytest.raises(ConfigError, match=r"label\.batch_s"):
        load_config(write(tmp_path, MINIMAL), ["label.batch_s=long"])


def test_a_file_that_is_not_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: expected keys and values"):
        load_config(write(tmp_path, "- just\n- a list\n"))
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_an_unknown_device_is_refused_with_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"label\.device: 'gpu' is not valid.*'cuda'"):
        load_config(write(tmp_path, MINIMAL), ["label.device=gpu"])


def test_every_field_is_described() -> None:
    assert all(description for _, _, description in describe_fields())


SECRETS = [
    "%s3cr3t",
    "*s3cr3t",
    "!s3cr3t x",
    "@s3cr3t",
    "`s3cr3t",
    "a: b: s3cr3t",
    "'s3cr3t",
    "[s3cr3t",
]


@pytest.mark.parametrize("secret", [*SECRETS, '"s3cr3t\\q"', "&s3cr3t", "\x01s3cr3t", "|s3cr3t"])
def test_a_value_that_is_no_yaml_is_not_printed(
    secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MINIMAL)
    messages = [_message(lambda: load_config(path, [f"storage_options.secret={secret}"]))]
    messages.append(_message(lambda: load_options([f"secret={secret}"])))
    messages.append(_message(lambda: load_config(path, [f"storage_options.secret:{secret}"])))
    broken = write(tmp_path, f"{MINIMAL}storage_options:\n  secret: {secret}\n  x: [\n")
    messages.append(_message(lambda: load_config(broken)))
    if "\x01" not in secret:
        monkeypatch.setenv("SENSEVOICE_STORAGE_OPTIONS__SECRET", secret)
        messages.append(_message(lambda: load_config(write(tmp_path, MINIMAL))))
    assert "s3cr3t" not in "".join(messages)
    assert "--set storage_options.secret" in messages[0] or not messages[0]


def _message(call: Callable[[], object]) -> str:
    """The message of a ConfigError and of every exception that a traceback would show."""
    try:
        call()
    except ConfigError as error:
        return "".join(traceback.format_exception(error))
    return ""


def test_the_text_of_a_configuration_has_no_storage_options() -> None:
    options = {"secret": "s3cr3t"}
    assert "s3cr3t" not in repr(RunConfig(manifest="m", output="o", storage_options=options))


def test_help_names_every_value_that_a_key_can_have() -> None:
    described = {key: text for key, _, text in describe_fields()}
    for key, values in {
        "label.language": ("auto", "zh", "en", "yue", "ja", "ko"),
        "label.precision": ("auto", "fp32", "bf16", "int8"),
        "label.device": ("auto", "cpu", "cuda"),
        "segment.silence": ("skip", "label"),
        "retry": ("none", "errors"),
        "hub": ("ms", "hf"),
    }.items():
        assert all(value in described[key] for value in values), described[key]
