"""Models by directory, URI or hub id: found, hashed, and refused with a clear error."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import RunConfig, is_path, load_config
from pipeline.errors import ModelError
from pipeline.models.files import resolve_model, resolve_vad, unreachable
from pipeline.storage.store import filesystem_for
from tests.support.demo import MODEL, ROOT
from tests.support.s3_server import S3


def copy_model(target: Path, without: str = "") -> Path:
    for file in MODEL.iterdir():
        if file.name != without:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_local_directory_is_read_in_place() -> None:
    files = resolve_model(str(MODEL))
    assert files.directory == MODEL
    assert files.config["model"] == "SenseVoiceSmall"
    assert files.tokenizer == MODEL / "chn_jpn_yue_eng_ko_spectok.bpe.model"


def test_without_configuration_json_the_file_names_count(tmp_path: Path) -> None:
    bare = resolve_model(str(copy_model(tmp_path, without="configuration.json")))
    assert bare.weights == tmp_path / "model.pt"
    assert bare.tokenizer == tmp_path / "chn_jpn_yue_eng_ko_spectok.bpe.model"


def test_the_hash_depends_on_contents_and_not_on_the_path(tmp_path: Path) -> None:
    copied = copy_model(tmp_path)
    assert resolve_model(str(copied)).sha256 == resolve_model(str(MODEL)).sha256
    (copied / "am.mvn").write_text("other statistics")
    assert resolve_model(str(copied)).sha256 != resolve_model(str(MODEL)).sha256


def test_an_incomplete_directory_is_refused_with_its_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks model\.pt"):
        resolve_model(str(copy_model(tmp_path, without="model.pt")))


def test_a_path_without_a_directory_is_not_used_as_a_hub_id() -> None:
    with pytest.raises(ModelError, match="no such directory"):
        resolve_model("/nowhere/model")


@pytest.mark.parametrize("name", ["./a/b", "../a", "~/nowhere", "configs/some/model", "."])
def test_what_looks_like_a_path_is_no_hub_id(name: str) -> None:
    assert is_path(name)
    if name != ".":
        with pytest.raises(ModelError, match=r"no such directory \(looked for /"):
            resolve_model(name)


@pytest.mark.parametrize("name", ["iic/SenseVoiceSmall", "fsmn-vad", "s3://a/b/c"])
def test_a_hub_id_or_a_uri_is_no_path(name: str) -> None:
    assert not is_path(name)


def test_a_model_path_of_a_config_is_relative_to_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "own").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    path = tmp_path / "conf" / "run.yaml"
    monkeypatch.chdir(tmp_path)

    def model(text: str, *overrides: str) -> str:
        path.write_text(f"manifest: m\noutput: o\nmodel: {text}\n")
        return load_config(path, overrides).model

    assert model("own") == str(tmp_path / "conf" / "own")
    assert model("./gone") == str(tmp_path / "conf" / "gone")
    assert model("here") == "here"  # only below the working directory
    assert model("iic/SenseVoiceSmall") == "iic/SenseVoiceSmall"
    assert model("own", "model=own") == "own"  # on the command line: the working directory


def test_a_server_that_refuses_is_reachable_and_a_closed_port_is_not(s3: S3) -> None:
    assert unreachable(s3.storage_options["client_kwargs"]["endpoint_url"]) == ""
    assert "gives no answer" in unreachable("http://127.0.0.1:9")


def test_a_model_that_the_hub_has_given_before_is_used_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []

    def fetch(model_id: str, hub: str, revision: str, *, only_cached: bool) -> str:
        asked.append(only_cached)
        return str(MODEL)

    monkeypatch.setattr("pipeline.models.files._fetch", fetch)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert resolve_model("iic/SenseVoiceSmall").directory == MODEL
    assert asked == [True]


def test_a_model_in_object_storage_is_copied_once(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    uri, options = f"{s3.new_bucket()}/model", s3.storage_options
    fs, path = filesystem_for(uri, options)
    fs.put(str(MODEL), path, recursive=True)
    first = resolve_model(uri, options=options)
    written = first.weights.stat().st_mtime_ns
    assert first.sha256 == resolve_model(str(MODEL)).sha256
    assert resolve_model(uri, options=options).weights.stat().st_mtime_ns == written
    fs.pipe_file(f"{path}/am.mvn", (MODEL / "am.mvn").read_bytes() + b"\n")
    assert resolve_model(uri, options=options).directory != first.directory


def test_an_unreachable_bucket_is_named(s3: S3) -> None:
    with pytest.raises(ModelError, match=r"s3://no-such-bucket/model.*cannot be listed"):
        resolve_model("s3://no-such-bucket/model", options=s3.storage_options)


def test_an_unreachable_hub_is_one_clear_error() -> None:
    code = (
        "from pipeline.errors import ModelError\n"
        "from pipeline.models.files import resolve_model\n"
        "try:\n    resolve_model('iic/SenseVoiceSmall', hub='hf')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing listens there
        "HF_HUB_CACHE": "/nonexistent/cache",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.startswith(
        "model 'FunAudioLLM/SenseVoiceSmall' cannot be fetched from Hugging Face: check the id"
    )
    assert "http://127.0.0.1:9 gives no answer" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_the_fingerprint_of_a_vad_names_its_version() -> None:
    def vad(name: str) -> tuple[str, str]:
        return resolve_vad(RunConfig(manifest="m", output="o", vad=name))

    assert vad("none") == ("none", "none")
    assert vad("silero")[1].startswith("silero-vad 6.")
