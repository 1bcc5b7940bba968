"""The loop: it learns, it resumes to the bit, and it writes a model that others load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.convert.package import convert
from pipeline.errors import ConfigError, RunStopped
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.weights import load_weights
from pipeline.storage.address import is_uri
from pipeline.storage.store import open_store
from pipeline.training.finetune import Finished, finetune
from pipeline.training.loop import StepReport
from pipeline.training.prepare import Prepared, prepare
from pipeline.training.session import Listener
from pipeline.training.settings import FinetuneConfig, load_finetune_config
from tests.support.demo import AUDIO, MODEL, ROOT, waveform_of
from tests.support.s3_server import S3
from tests.training.conftest import WriteRows, rows_of_demo

Configure = Callable[..., FinetuneConfig]


@pytest.fixture
def configure(write_rows: WriteRows, tmp_path: Path) -> Configure:
    """A short fine-tuning of the demo model on its own clips, in batches of 10 s."""
    rows = write_rows([*rows_of_demo()[:3], *rows_of_demo(itn=True)[8:11]])

    def make(*overrides: str, output: str = "new") -> FinetuneConfig:
        settings = [
            f"output={output if is_uri(output) else tmp_path / output}",
            f"data.train={rows}",
            "data.max_clip_s=10",
        ]
        settings += ["batch_s=10", "epochs=3", "lr=0.001", *overrides]
        return load_finetune_config(ROOT / "configs" / "finetune.yaml", settings)

    return make


SILENT = Listener(lambda told: None, lambda step, scores: None)


def run(prepared: Prepared) -> Finished:
    return finetune(prepared, SILENT)


def weights_of(path: Path | str) -> dict[str, torch.Tensor]:
    return load_weights(resolve_model(str(path)), torch.device("cpu"))


class _Killed(Exception):
    pass


def kill_in(step: int) -> Listener:
    """Ends the training in a step, before its checkpoint."""

    def report(told: StepReport) -> None:
        if told.step == step:
            raise _Killed

    return Listener(report, lambda step, scores: None)


def test_the_loss_falls_and_the_directory_is_whole(configure: Configure, tmp_path: Path) -> None:
    finished = run(prepare(configure("epochs=6", "specaug.freq=0", "specaug.time=0")))
    n_epoch = len(finished.losses) // 6
    first, last = (
        sum(told.loss for told in part) / n_epoch
        for part in (finished.losses[:n_epoch], finished.losses[-n_epoch:])
    )
    assert last < first / 2
    assert all(told.ctc >= 0 for told in finished.losses)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    start = {path.name for path in MODEL.iterdir()}
    assert names == {*start, "finetune.json"}
    assert list((tmp_path / "new.checkpoints").glob("*")) == []
    facts = json.loads((tmp_path / "new" / "finetune.json").read_text())
    assert facts["n_steps"] == finished.n_steps
    assert facts["start_sha256"] == resolve_model(str(MODEL)).sha256


def test_the_new_weights_have_the_names_and_shapes_of_the_start(
    configure: Configure, tmp_path: Path
) -> None:
    run(prepare(configure("max_steps=1")))
    state = torch.load(tmp_path / "new" / "model.pt", weights_only=True)
    start = weights_of(MODEL)
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in start.items()
    }
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert any(not torch.equal(state[name], start[name]) for name in start)


def test_a_killed_training_resumes_to_the_same_bits(configure: Configure, tmp_path: Path) -> None:
    """With dropout, masks and prompts that chance decides."""
    settings = "checkpoint_every=1", "dropout=0.1", "max_steps=4"
    run(prepare(configure(*settings, output="whole")))
    killed = prepare(configure(*settings, output="killed"))
    with pytest.raises(_Killed):
        finetune(killed, kill_in(3))
    assert not (tmp_path / "killed").exists()  # complete or absent
    torch.manual_seed(99)
    resumed = run(prepare(configure(*settings, output="killed")))
    assert [told.step for told in resumed.losses] == [3, 4]
    whole, again = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_checkpoint_of_another_training_is_refused(configure: Configure) -> None:
    with pytest.raises(_Killed):
        finetune(prepare(configure("checkpoint_every=1")), kill_in(2))
    with pytest.raises(ConfigError, match=r"another model, data or settings; delete it"):
        run(prepare(configure("checkpoint_every=1", "seed=7")))


def test_accumulating_two_batches_is_a_step_of_both(configure: Configure, tmp_path: Path) -> None:
    """One batch of 40 s, or two of half the clips: the gradient is divided by the clips of all."""
    fixed = "max_steps=1", "specaug.freq=0", "specaug.time=0", "weight_decay=0"
    one = run(prepare(configure(*fixed, "batch_s=1000", output="one")))
    two = run(prepare(configure(*fixed, "batch_s=1000", "accumulate=2", output="two")))
    assert two.losses[0].loss == pytest.approx(one.losses[0].loss, rel=1e-5)
    assert two.losses[0].grad_norm == pytest.approx(one.losses[0].grad_norm, rel=1e-5)


def test_bf16_computes_nearly_the_same_loss(configure: Configure) -> None:
    """What a GPU does by default; the loss itself stays in float32."""
    fixed = "max_steps=1", "specaug.freq=0", "specaug.time=0"
    full = run(prepare(configure(*fixed, output="fp32"))).losses[0]
    half = run(prepare(configure(*fixed, "precision=bf16", output="bf16"))).losses[0]
    assert half.loss == pytest.approx(full.loss, rel=0.1, abs=0.1)
    assert half.loss != full.loss


def test_training_stops_early_and_the_best_weights_are_kept(
    configure: Configure, write_rows: WriteRows
) -> None:
    """A rate that destroys the model: the first score is the best, and the start is written."""
    held_out = write_rows(rows_of_demo()[5:7])
    destroyed = prepare(
        configure(f"data.valid={held_out}", "lr=0.3", "epochs=9", "evaluate_every=1", "patience=2")
    )
    done = run(destroyed)
    assert done.n_steps < 9
    assert not done.is_better
    start, new = weights_of(MODEL), weights_of(done.output)
    assert all(torch.equal(start[name], new[name]) for name in start)


def test_a_loss_that_is_not_finite_stops_the_training_and_names_clips(
    configure: Configure, tmp_path: Path
) -> None:
    with pytest.raises(RunStopped, match=r"step \d+: the CTC loss is .*look at these clips: \w+, "):
        run(prepare(configure("lr=1e30", "epochs=50", "grad_clip=1e30", "batch_s=1000")))
    assert not (tmp_path / "new").exists()


def test_an_output_that_exists_is_refused(configure: Configure) -> None:
    run(prepare(configure("max_steps=1")))
    with pytest.raises(ConfigError, match="exists and is not empty"):
        prepare(configure("max_steps=1"))


def test_checkpoints_and_the_new_model_may_be_in_an_object_store(
    configure: Configure, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, resumed and written there; the same weights as on a local disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = s3.new_bucket()
    options = s3.storage_options
    settings = "max_steps=2", "checkpoint_every=1", f"storage_options={json.dumps(options)}"
    with pytest.raises(_Killed):
        finetune(prepare(configure(*settings, output=f"{root}/new")), kill_in(2))
    store = open_store(f"{root}/new.checkpoints", options)
    assert store.list("") == ["checkpoint-000000001.pt"]
    resumed = run(prepare(configure(*settings, output=f"{root}/new")))
    assert [told.step for told in resumed.losses] == [2]
    assert store.list("") == []
    run(prepare(configure(*settings, output="local")))
    copied = resolve_model(f"{root}/new", options=options)
    there, here = weights_of(copied.directory), weights_of(tmp_path / "local")
    assert all(torch.equal(there[name], here[name]) for name in here)
    with pytest.raises(ConfigError, match="exists and is not empty"):
        prepare(configure(*settings, output=f"{root}/new"))


def test_the_start_model_is_not_changed(configure: Configure) -> None:
    def changed() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in MODEL.iterdir()}

    before = changed()
    run(prepare(configure("max_steps=1")))
    assert changed() == before


def test_the_new_model_is_converted_to_onnx_as_any_other(
    configure: Configure, tmp_path: Path
) -> None:
    """And FunASR's own training keys are gone, so that no program trains it by them."""
    run(prepare(configure("max_steps=2")))
    files = resolve_model(str(tmp_path / "new"))
    clip = waveform_of(AUDIO / "zh_angry.flac")
    done = convert(files, tmp_path / "converted", ["onnx"], [clip])
    (found,) = done.agreements.values()
    assert (found.equal_texts, found.equal_tags) == (1.0, 1.0)
    assert files.config["frontend_conf"]["dither"] == 0.0
    assert not {"dataset_conf", "train_conf", "optim"} & set(files.config)


def test_funasr_loads_the_new_model_and_computes_the_same(
    funasr: Any, configure: Configure, tmp_path: Path
) -> None:
    from pipeline.models.sensevoice.module import load_module

    run(prepare(configure("max_steps=2")))
    new = str(tmp_path / "new")
    theirs = funasr.AutoModel(model=new, device="cpu", disable_update=True).model.eval()
    ours = load_module(resolve_model(new))
    state = theirs.state_dict()
    assert all(torch.equal(state[name], value) for name, value in ours.state_dict().items())
