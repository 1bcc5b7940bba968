"""Models by directory, URI or hub id: found, hashed, and refused with a clear error."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.errors import ModelError
from pipeline.models.files import resolve_model, resolve_vad
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
    assert done.stdout.startswith("model 'FunAudioLLM/SenseVoiceSmall' cannot be fetched from")
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_the_fingerprint_of_a_vad_names_its_version() -> None:
    def vad(name: str) -> tuple[str, str]:
        return resolve_vad(RunConfig(manifest="m", output="o", vad=name))

    assert vad("none") == ("none", "none")
    assert vad("silero")[1].startswith("silero-vad 6.")
