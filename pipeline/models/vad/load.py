"""Waveforms and features to raw speech intervals, by one of three VADs. Knows nothing of merging.

Threads are the caller's business, but importing silero_vad sets torch to one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pipeline.config import SegmentConfig
from pipeline.models.device import pick_device
from pipeline.models.vad.fsmn import FsmnVad
from pipeline.models.vad.silero import Silero
from pipeline.schema import SAMPLE_RATE, Segment


class Vad(Protocol):
    """What finds speech."""

    def find_speech(
        self, waveforms: Sequence[np.ndarray], log_mels: Sequence[torch.Tensor]
    ) -> list[list[Segment]]:
        """int16 (n_samples,) and float32 (n_frames, 80) of recordings -> the speech in each.

        In order, before merging.
        """
        ...


def load_vad(name_or_dir: str, config: SegmentConfig, device: str = "cpu") -> Vad:
    """The VAD called `none`, `silero`, or the FSMN-VAD of a local directory.

    FSMN-VAD runs on `device`, where the log-mels must lie; silero runs on the CPU. Raises
    FileNotFoundError or ValueError that name the file or key.
    """
    if name_or_dir == "none":
        return WholeRecording()
    if name_or_dir == "silero":
        return Silero(config)
    return FsmnVad(Path(name_or_dir), config, pick_device(device))


class WholeRecording:
    """No VAD: one segment over everything."""

    def find_speech(
        self, waveforms: Sequence[np.ndarray], log_mels: Sequence[torch.Tensor]
    ) -> list[list[Segment]]:
        lengths_s = (len(waveform) / SAMPLE_RATE for waveform in waveforms)
        return [[Segment(0.0, length_s)] if length_s else [] for length_s in lengths_s]
