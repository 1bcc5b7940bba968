"""The GPU's code path on machines without a GPU: fake tensors on a device "cuda".

torch's FakeTensorMode runs no kernel but checks everything before one: that tensors of the host and
the GPU are not mixed, that shapes and types match, and that each operator accepts its arguments,
FlashAttention's too. Fake tensors have no values, so code that waits for a value raises. Copies to
the host are the exception: they are counted here and return zeros.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pipeline.config import LabelConfig, Precision, SegmentConfig
from pipeline.models import features
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.attention import AttentionKind
from pipeline.models.sensevoice.model import SenseVoice
from pipeline.models.vad.fsmn import FsmnVad
from pipeline.schema import WINDOW
from pipeline.stages.label import FindAndLabelSegments
from tests.models.vad.test_vad import write_random_fsmn
from tests.stages.test_stages import decode_rows, plan_row
from tests.support.demo import AUDIO, MODEL, SHORT

PATHS = pytest.mark.parametrize(
    ("precision", "attention"), [("bf16", "varlen"), ("bf16", "padded"), ("fp32", "padded")]
)


class Gpu:
    """A fake device "cuda"; `copies` are the shapes of the tensors copied from it to the host."""

    def __init__(self) -> None:
        self.copies: list[tuple[int, ...]] = []

    @contextmanager
    def __call__(self, monkeypatch: pytest.MonkeyPatch) -> Iterator["Gpu"]:
        with monkeypatch.context() as patch, FakeTensorMode(), torch.inference_mode():
            patch.setattr(torch.Tensor, "cpu", lambda tensor: self._copy(tensor))
            # Else single numbers stay real tensors, which are really sent to the device.
            patch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", 0)
            features._constants.cache_clear()
            try:
                yield self
            finally:
                features._constants.cache_clear()  # they are fake tensors

    def _copy(self, tensor: Tensor) -> "Zeros":
        assert tensor.device.type == "cuda"
        self.copies.append(tuple(tensor.shape))
        return Zeros(tuple(tensor.shape))


@dataclass(frozen=True, slots=True)
class Zeros:
    """Replaces a copy on the host: FakeTensorMode allows no real tensor beside fake ones."""

    shape: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        return np.zeros(self.shape, np.float32)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    with Gpu()(monkeypatch) as one:
        yield one


def test_the_fake_device_refuses_a_tensor_of_the_host(gpu: Gpu) -> None:
    with pytest.raises(RuntimeError, match="cuda"):
        torch.ones(3, device="cuda") + torch.ones(3)


@pytest.mark.parametrize(
    "wait", [lambda x: x.max().item(), lambda x: x.tolist(), lambda x: bool(x.any())]
)
def test_the_fake_device_refuses_to_wait_for_a_value(
    wait: Callable[[Tensor], Any], gpu: Gpu
) -> None:
    with pytest.raises((DataDependentOutputException, RuntimeError)):
        wait(torch.ones(3, device="cuda"))
    assert gpu.copies == []


@PATHS
def test_a_model_batch_makes_one_copy_to_the_host(
    precision: Precision, attention: AttentionKind, gpu: Gpu
) -> None:
    model = SenseVoice(resolve_model(str(MODEL)), "cuda", precision, attention)
    clips = [torch.empty(n_frames, 80, device="cuda") for n_frames in (500, 1200, 37)]
    outputs = model.transcribe(clips, ["auto", "zh", "en"], [True] * 3)
    assert [len(output.tokens) for output in outputs] == [4 + 84, 4 + 200, 4 + 7]
    assert [len(output.language) for output in outputs] == [6, 6, 6]
    assert len(gpu.copies) == 1


@pytest.mark.usefixtures("patience")
@PATHS
def test_a_row_batch_makes_two_copies_and_one_per_model_batch(
    precision: Precision,
    attention: AttentionKind,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For any number of recordings."""
    write_random_fsmn(tmp_path)
    names = [row["audio"] for row in SHORT[:8]]
    windows = pa.Table.from_pylist(
        decode_rows(*(plan_row(AUDIO / name) for name in names)), schema=WINDOW
    )
    total_s = sum(windows["duration_s"].to_pylist())
    with Gpu()(monkeypatch) as gpu:
        stage = FindAndLabelSegments(
            lambda: FsmnVad(tmp_path, SegmentConfig(), "cuda"),
            SegmentConfig(),
            lambda: SenseVoice(resolve_model(str(MODEL)), "cuda", precision, attention),
            LabelConfig(device="cuda", batch_s=total_s / 2),
        )
        rows = stage(windows)
    assert rows["error_message"].to_pylist() == [""] * 8
    assert sum(rows["labelled_s"].to_pylist()) == pytest.approx(total_s, rel=0.01)  # no silence
    assert 2 + 2 <= len(gpu.copies) <= 2 + 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@PATHS
def test_a_gpu_gives_the_tokens_of_a_cpu(precision: Precision, attention: AttentionKind) -> None:
    files = resolve_model(str(MODEL))
    clips = [np.random.default_rng(n).normal(size=(n, 80)).astype(np.float32) for n in (500, 99)]
    on_cpu, on_gpu = (
        SenseVoice(files, device, precision, kind).transcribe(clips, ["auto"] * 2, [True] * 2)
        for device, kind in (("cpu", None), ("cuda", attention))
    )
    same = [np.mean(a.tokens == b.tokens) for a, b in zip(on_cpu, on_gpu, strict=True)]
    assert min(same) >= 0.98
