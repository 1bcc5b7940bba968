"""Parts of the flow that do harm, put in place of the real ones by test_faults.

They are found by name in the workers, like the real ones. Which recording is poisonous is written
on it: the driver patches `flow`, and nothing in the pipeline knows of any of this.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.flow import chain as flow
from pipeline.models.sensevoice.decoding import Frames
from pipeline.models.sensevoice.model import Clip, SenseVoice
from pipeline.models.vad.load import Vad
from pipeline.schema import WINDOW, RecordingError, Segment
from pipeline.stages.decode import decode_recordings, describe_error

_decode, _load_vad, _load_sensevoice = decode_recordings, flow._load_vad, flow._load_sensevoice

SEGFAULT_LEVEL = 12_345  # first sample of a waveform that the VAD dies of
KILL_FRAMES = 77  # length of a clip that the model dies of
KILL_SAMPLES = 400 + 76 * 160


def decode(batch: pa.Table, **settings: Any) -> Iterator[pa.Table]:
    """Dies without a word of a recording called "exit..."."""
    if any(name.startswith("exit") for name in batch["recording_id"].to_pylist()):
        os._exit(1)
    yield from _decode(batch, **settings)


def deny(batch: pa.Table, **settings: Any) -> Iterator[pa.Table]:
    """Has no right to read a recording called "shy...", as the store might say."""
    for table in _decode(batch, **settings):
        row = table.to_pylist(maps_as_pydicts="strict")[0]
        if row["recording_id"].startswith("shy"):
            error = describe_error("decode", RecordingError("AccessDenied", "Forbidden (403)"))
            row |= {"waveform": b"", "duration_s": 0.0} | error
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


def load_vad(config: RunConfig) -> _DeadlyVad:
    """Dies of a waveform that starts with SEGFAULT_LEVEL."""
    return _DeadlyVad(_load_vad(config), lambda waveform: bool(waveform[:1] == SEGFAULT_LEVEL))


def load_vad_dying_once(mark: Path, config: RunConfig) -> _DeadlyVad:
    return _DeadlyVad(_load_vad(config), lambda waveform: _is_first(mark))


class _DeadlyModel:
    def __init__(self, model: SenseVoice, is_deadly: Callable[[Sequence[Clip]], bool]) -> None:
        self._model = model
        self._is_deadly = is_deadly
        self.vocabulary = model.vocabulary

    def transcribe(
        self, clips: Sequence[Clip], languages: Sequence[str], use_itn: bool
    ) -> list[Frames]:
        if self._is_deadly(clips):
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        return self._model.transcribe(clips, languages, use_itn)


def load_model(config: RunConfig, model_hash: str) -> _DeadlyModel:
    """Dies of a clip of KILL_FRAMES."""
    return _DeadlyModel(
        _load_sensevoice(config, model_hash),
        lambda clips: any(len(clip) == KILL_FRAMES for clip in clips),
    )


def load_model_dying_once(mark: Path, config: RunConfig, model_hash: str) -> _DeadlyModel:
    return _DeadlyModel(_load_sensevoice(config, model_hash), lambda clips: _is_first(mark))


def _is_first(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def fail_to_load(config: RunConfig, model_hash: str) -> SenseVoice:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
