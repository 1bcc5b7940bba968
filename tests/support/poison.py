"""Stages that crash or fail, for a run to use instead of the real ones (stages.build.Stages).

They are pickled by name, like the real ones. A mark on a recording (its id, its first sample or its
length) makes a stage crash.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipeline.config import RunConfig
from pipeline.errors import ErrorType, RecordingError
from pipeline.models.sensevoice.decoding import ClipOutput
from pipeline.models.sensevoice.model import Clip, Transcriber
from pipeline.models.vad.load import Vad
from pipeline.schema import FRAME, FRAME_LENGTH, WINDOW, Segment
from pipeline.stages.build import BuildStages, Stages, build_stages
from pipeline.stages.error_rows import describe_error
from pipeline.tables.run_records import RunInfo

SEGFAULT_LEVEL = 12_345  # the VAD crashes on a waveform with this first sample
KILL_FRAMES = 77  # the model's process is killed by a clip of this length
KILL_SAMPLES = FRAME_LENGTH + (KILL_FRAMES - 1) * FRAME


Make = Callable[[RunConfig, RunInfo], Any]  # one part of the stages


def with_parts(**parts: Make) -> BuildStages:
    """The real stages, except for these parts."""

    def build(config: RunConfig, run: RunInfo) -> Stages:
        made = {name: make(config, run) for name, make in parts.items()}
        return replace(build_stages(config, run), **made)

    return build


def exiting_decode(config: RunConfig, run: RunInfo) -> Any:
    """Exits without a message at a recording called "exit..."."""
    return partial(_decode_or_exit, build_stages(config, run).decode)


def denied_decode(config: RunConfig, run: RunInfo) -> Any:
    """Is denied to read a recording called "shy...", as by a store."""
    return partial(_decode_or_deny, build_stages(config, run).decode)


def deadly_vad(config: RunConfig, run: RunInfo) -> Any:
    """Crashes on a waveform that starts with SEGFAULT_LEVEL."""
    return partial(_load_deadly_vad, build_stages(config, run).load_vad, _starts_deadly)


def deadly_model(config: RunConfig, run: RunInfo) -> Any:
    """Is killed by a clip of KILL_FRAMES."""
    return partial(_load_deadly_model, build_stages(config, run).load_model, _is_deadly_clip)


def failing_model(config: RunConfig, run: RunInfo) -> Any:
    return _fail_to_load


def vad_dying_once(mark: Path) -> Make:
    return lambda config, run: partial(
        _load_deadly_vad, build_stages(config, run).load_vad, partial(_is_first, mark)
    )


def model_dying_once(mark: Path) -> Make:
    return lambda config, run: partial(
        _load_deadly_model, build_stages(config, run).load_model, partial(_is_first, mark)
    )


Decode = Callable[[pa.Table], Iterator[pa.Table]]


def _decode_or_exit(decode: Decode, batch: pa.Table) -> Iterator[pa.Table]:
    if any(name.startswith("exit") for name in batch["recording_id"].to_pylist()):
        os._exit(1)
    yield from decode(batch)


def _decode_or_deny(decode: Decode, batch: pa.Table) -> Iterator[pa.Table]:
    for table in decode(batch):
        row = table.to_pylist(maps_as_pydicts="strict")[0]
        if row["recording_id"].startswith("shy"):
            denied = RecordingError(ErrorType.ACCESS_DENIED, "Forbidden (403)")
            row |= {"waveform": b"", "duration_s": 0.0} | describe_error("decode", denied)
        yield pa.Table.from_pylist([row], schema=WINDOW)


class _DeadlyVad:
    def __init__(self, vad: Vad, is_deadly: Callable[[np.ndarray], bool]) -> None:
        self._vad = vad
        self._is_deadly = is_deadly

    def find_speech(
        self, waveforms: Sequence[np.ndarray], log_mels: Sequence[Any]
    ) -> list[list[Segment]]:
        if any(map(self._is_deadly, waveforms)):
            ctypes.string_at(0)  # a segmentation fault
        return self._vad.find_speech(waveforms, log_mels)


def _load_deadly_vad(
    load: Callable[[str], Vad], is_deadly: Callable[[np.ndarray], bool], device: str
) -> _DeadlyVad:
    return _DeadlyVad(load(device), is_deadly)


def _starts_deadly(waveform: np.ndarray) -> bool:
    return bool(waveform[:1] == SEGFAULT_LEVEL)


class _DeadlyModel:
    def __init__(self, model: Transcriber, is_deadly: Callable[[Sequence[Clip]], bool]) -> None:
        self._model = model
        self._is_deadly = is_deadly
        self.vocabulary = model.vocabulary

    def transcribe(
        self, clips: Sequence[Clip], languages: Sequence[str], use_itn: Sequence[bool]
    ) -> list[ClipOutput]:
        if self._is_deadly(clips):
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        return self._model.transcribe(clips, languages, use_itn)


def _load_deadly_model(
    load: Callable[[], Transcriber], is_deadly: Callable[[Sequence[Clip]], bool]
) -> _DeadlyModel:
    return _DeadlyModel(load(), is_deadly)


def _is_deadly_clip(clips: Sequence[Clip]) -> bool:
    return any(len(clip) == KILL_FRAMES for clip in clips)


def _is_first(mark: Path, work: Any) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _fail_to_load() -> Transcriber:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


def model_killed_for_good(mark: Path) -> Make:
    """Its actor is killed at its first clips, and Ray may not restart it; a later actor works."""
    return lambda config, run: partial(
        _load_unrestarted_model, build_stages(config, run).load_model, partial(_is_first, mark)
    )


class _UnrestartedModel(_DeadlyModel):
    def transcribe(
        self, clips: Sequence[Clip], languages: Sequence[str], use_itn: Sequence[bool]
    ) -> list[ClipOutput]:
        if self._is_deadly(clips):
            ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
            time.sleep(60)  # killed meanwhile
        return self._model.transcribe(clips, languages, use_itn)


def _load_unrestarted_model(
    load: Callable[[], Transcriber], is_deadly: Callable[[Sequence[Clip]], bool]
) -> _UnrestartedModel:
    return _UnrestartedModel(load(), is_deadly)
