"""A converted directory: what other programs read of it, what it says of itself, and refusals."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from typer.testing import CliRunner

from jobs import __main__ as commands
from jobs.convert import read_clips
from pipeline.config import RunConfig
from pipeline.convert import backend, package
from pipeline.convert.agreement import Agreement, agreement, refuse_wrong, try_sherpa
from pipeline.convert.backend import find_network, load_onnx
from pipeline.convert.networks import write_onnx
from pipeline.convert.package import Converted, convert
from pipeline.errors import ConfigError, ModelError
from pipeline.models.features import log_mel
from pipeline.models.files import ModelFiles, resolve_model
from pipeline.models.sensevoice.decoding import rich_text
from pipeline.models.sensevoice.model import load_sensevoice
from pipeline.runs.fingerprint import fingerprint
from pipeline.stages.build import load_model
from pipeline.tables import open_snapshot
from tests.models.sensevoice.test_model import demo_model
from tests.support.demo import AUDIO, MODEL, SHORT, demo_config, execute, waveform_of

pytestmark = pytest.mark.usefixtures("patience")  # exports of whole networks

FILES = resolve_model(str(MODEL))
WAVEFORMS = [waveform_of(AUDIO / row["audio"]) for row in SHORT]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    target = tmp_path_factory.mktemp("convert") / "new"
    return convert(FILES, target, ["onnx"], WAVEFORMS, int8=True)


@pytest.fixture
def cache(converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a machine that has converted the demo model already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "sensevoice-pipeline" / f"onnx-1-{FILES.sha256[:32]}"
    folder.parent.mkdir()
    folder.symlink_to(converted.directory)
    return folder


def our_texts(use_itn: bool = True) -> list[str]:
    model = load_sensevoice(RunConfig(manifest="m", output="o", model=str(MODEL)))
    n = len(WAVEFORMS)
    outputs = model.transcribe([log_mel(one) for one in WAVEFORMS], ["auto"] * n, [use_itn] * n)
    return [rich_text(output, model.vocabulary) for output in outputs]


def test_everything_that_loaders_ask_for_is_there(converted: Converted) -> None:
    names = {path.name for path in converted.directory.iterdir()}
    assert names == {
        *("model.onnx", "model_quant.onnx", "tokens.txt", "config.yaml", "configuration.json"),
        *("am.mvn", "chn_jpn_yue_eng_ko_spectok.bpe.model", "export.json"),
    }
    assert converted.directory.stat().st_mode & 0o777 == 0o755
    assert list(converted.directory.parent.iterdir()) == [converted.directory]
    config = yaml.safe_load((converted.directory / "config.yaml").read_text(encoding="utf-8"))
    assert config["frontend_conf"]["dither"] == 0.0
    assert config["encoder_conf"] == FILES.config["encoder_conf"]
    lines = (converted.directory / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert (len(lines), lines[0], lines[-1].rpartition(" ")[2]) == (25055, "<unk> 0", "25054")


def test_export_json_says_what_was_written_and_how_it_agrees(converted: Converted) -> None:
    facts = json.loads((converted.directory / "export.json").read_text(encoding="utf-8"))
    exact, small = (facts["agreement"][name] for name in ("model.onnx", "model_quant.onnx"))
    assert facts["source_sha256"] == FILES.sha256
    assert facts["networks"] == ["model.onnx", "model_quant.onnx"]
    assert exact["n_clips"] == 2 * len(WAVEFORMS)  # with and without inverse text normalisation
    assert (exact["equal_frames"], exact["equal_tags"], exact["equal_texts"]) == (1, 1, 1)
    assert 0 < exact["largest_difference"] < 1e-3
    assert small["equal_frames"] >= 0.995
    assert (small["equal_tags"], small["equal_texts"]) == (1, 1)


@pytest.mark.parametrize("name", ["model.onnx", "model_quant.onnx"])
def test_sherpa_onnx_gives_our_texts(name: str, converted: Converted, tmp_path: Path) -> None:
    """In a process of its own, as a wrong file ends the process."""
    pytest.importorskip("sherpa_onnx")
    np.savez(tmp_path / "clips.npz", *WAVEFORMS)
    code = f"""
import json, numpy as np, sherpa_onnx
recogniser = sherpa_onnx.OfflineRecognizer.from_sense_voice(
    model={str(converted.directory / name)!r},
    tokens={str(converted.directory / "tokens.txt")!r}, use_itn=True)
found = []
for clip in np.load({str(tmp_path / "clips.npz")!r}).values():
    stream = recogniser.create_stream()
    stream.accept_waveform(16000, clip.astype(np.float32) / 32768)
    recogniser.decode_stream(stream)
    found.append([stream.result.lang, stream.result.emotion, stream.result.event,
                  stream.result.text])
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for (language, emotion, event, text), ours in zip(found, our_texts(), strict=True):
        assert ours.startswith(f"{language}{emotion}{event}<|withitn|>")
        assert text.replace(" ", "") == ours.rpartition("|>")[2].replace(" ", "")


@pytest.mark.parametrize("quantised", [False, True])
def test_funasr_onnx_gives_our_tagged_texts(quantised: bool, converted: Converted) -> None:
    from funasr_onnx import SenseVoiceSmall

    model = SenseVoiceSmall(str(converted.directory), batch_size=4, quantize=quantised)
    floats = [one.astype(np.float32) / 32768 for one in WAVEFORMS]
    found = [text for one in floats for text in model(one, language="auto", textnorm="withitn")]
    assert found == our_texts()


def test_the_source_is_only_read_and_a_target_never_replaced(tmp_path: Path) -> None:
    source = shutil.copytree(MODEL, tmp_path / "model")
    before = {path: path.stat().st_mtime_ns for path in source.iterdir()}
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="there exists; give a directory that does not"):
        convert(resolve_model(str(source)), tmp_path / "there", ["onnx"], WAVEFORMS[:1])
    with pytest.raises(ModelError, match="int8 is made from onnx"):
        convert(resolve_model(str(source)), tmp_path / "x", ["pt2"], WAVEFORMS[:1], int8=True)
    assert {path: path.stat().st_mtime_ns for path in source.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"model", "there"}


def test_a_file_that_differs_from_the_model_is_refused_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter that loses a weight: one number of the network is another one."""
    write_really = write_onnx

    def write_wrongly(files: ModelFiles, target: Path, pieces: list[str]) -> None:
        write_really(files, target, pieces)
        network = onnx.load(str(target))
        (bias,) = (one for one in network.graph.initializer if one.name == "ctc.ctc_lo.bias")
        wrong = onnx.numpy_helper.to_array(bias).copy()
        wrong[24885] += 3
        bias.CopyFrom(onnx.numpy_helper.from_array(wrong, bias.name))
        onnx.save(network, str(target))

    monkeypatch.setattr(package, "write_onnx", write_wrongly)
    with pytest.raises(ModelError, match=r"model\.onnx is not the model: a probability differs"):
        convert(FILES, tmp_path / "new", ["onnx"], WAVEFORMS[:2])
    assert list(tmp_path.iterdir()) == []


def test_the_bound_is_on_probabilities() -> None:
    found = Agreement(1, 10, 1e-3, 1.0, 1.0, 1.0)
    refuse_wrong(found, Path("model.onnx"))
    with pytest.raises(ModelError, match="Nothing was written"):
        refuse_wrong(replace(found, largest_difference=1.1e-3), Path("model.onnx"))
    with pytest.raises(ModelError, match="no clip"):
        agreement([], [], demo_model().vocabulary)


def test_a_file_without_metadata_ends_only_the_child(converted: Converted, tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx")
    network = onnx.load(str(converted.directory / "model.onnx"))
    del network.metadata_props[:]
    onnx.save(network, str(tmp_path / "model.onnx"))
    shutil.copy(converted.directory / "tokens.txt", tmp_path)
    with pytest.raises(ModelError, match=r"sherpa-onnx cannot load model\.onnx \(exit code"):
        try_sherpa(tmp_path / "model.onnx", WAVEFORMS[0], tmp_path)


# --------------------------------------------------------------------------- command


def test_the_command_writes_torchscript_and_pt2_too(tmp_path: Path) -> None:
    target = tmp_path / "out"
    arguments = ["convert", str(MODEL), "-o", str(target), "--format", "torchscript"]
    done = CliRunner().invoke(commands.app, arguments)
    assert done.exit_code == 0, done.output
    assert (target / "model.torchscript.pt").stat().st_size > 1e7
    assert str(target / "model.torchscript.pt") in done.output
    wrong = CliRunner().invoke(commands.app, [*arguments[:3], f"{target}2", "--format", "tflite"])
    assert (wrong.exit_code, "use onnx, torchscript, pt2" in wrong.output) == (2, True)
    again = CliRunner().invoke(commands.app, arguments)
    assert (again.exit_code, "exists; give a directory" in again.output) == (2, True)


def test_clips_are_those_that_can_be_read(tmp_path: Path) -> None:
    clips = read_clips(str(AUDIO / "manifest.jsonl"))
    assert len(clips) >= 17
    assert max(map(len, clips)) <= 30 * 16000
    (tmp_path / "m.csv").write_text("audio\nnowhere.wav\n")
    with pytest.raises(ConfigError, match="no recording of it can be read"):
        read_clips(str(tmp_path / "m.csv"))


# --------------------------------------------------------------------------- backend


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_labels_of_onnx_runtime_are_those_of_torch(precision: str, cache: Path) -> None:
    config = RunConfig.model_validate(
        {
            **{"manifest": "m", "output": "o", "model": str(MODEL)},
            "label": {"backend": "onnxruntime", "precision": precision},
        }
    )
    model = load_model(config, FILES.sha256)
    n = len(WAVEFORMS)
    clips = [log_mel(one) for one in WAVEFORMS]
    outputs = model.transcribe(clips, ["auto"] * n, [True] * n)
    assert [rich_text(output, model.vocabulary) for output in outputs] == our_texts()
    exact = load_sensevoice(RunConfig(manifest="m", output="o", model=str(MODEL)))
    expected = exact.transcribe(clips, ["auto"] * n, [True] * n)
    tolerance = 1e-3 if precision == "fp32" else 0.2
    for ours, theirs in zip(outputs, expected, strict=True):
        for name in ("probabilities", "language", "emotion", "event"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=tolerance)
    with pytest.raises(ModelError, match="is not the same on this node"):
        load_onnx(config, "other")


@pytest.mark.usefixtures("cache")
def test_a_run_on_onnx_runtime_writes_the_rows_of_one_on_torch(
    labelled_root: str, tmp_path: Path
) -> None:
    settings = ("ray.local=always", "label.backend=onnxruntime")
    output = str(tmp_path / "out")
    execute(demo_config(output, *settings))
    columns = ["segment_id", "start_s", "end_s", "text", "rich_text", "language"]
    found, expected = (
        sorted(open_snapshot(root).read("transcripts", columns=columns).to_pylist(), key=str)
        for root in (output, labelled_root)
    )
    assert found == expected


def test_a_machine_converts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = find_network(FILES, "fp32")
    monkeypatch.setattr(backend, "convert", None)
    assert find_network(FILES, "fp32") == first
    assert find_network(FILES, "int8") == first.with_name("model_quant.onnx")
    assert first.is_relative_to(tmp_path)


def test_a_foreign_or_damaged_onnx_file_is_refused_before_a_worker_starts(
    tmp_path: Path, converted: Converted
) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    (model / "model.onnx").write_bytes(b"of another model")
    config = demo_config(tmp_path / "out", f"model={model}", "label.backend=onnxruntime")
    with pytest.raises(ModelError, match=r"model\.onnx is not known to be a conversion of model"):
        execute(config)
    shutil.copy(converted.directory / "export.json", model)
    with pytest.raises(ModelError, match="cannot be loaded by ONNX Runtime"):
        load_onnx(config)


def test_the_backend_is_in_the_fingerprint_and_has_its_limits() -> None:
    def config(**label: str) -> RunConfig:
        return RunConfig.model_validate({"manifest": "m", "output": "o", "label": label})

    prints = {
        fingerprint(config(**label), "hash", "none")
        for label in ({}, {"backend": "onnxruntime"}, {"backend": "torch"})
    }
    assert len(prints) == 2
    with pytest.raises(ValueError, match=r"bf16 needs label\.backend=torch"):
        config(backend="onnxruntime", precision="bf16")
    with pytest.raises(ValueError, match="runs on CPUs"):
        config(backend="onnxruntime", device="cuda")
