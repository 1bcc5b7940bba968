"""Load one of three VADs, which find speech intervals. Knows nothing of merging.

The caller sets the number of threads; importing silero_vad sets torch's to one.
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
    """Finds speech in waveforms."""

    def find_speech(
        self, waveforms: Sequence[np.ndarray], log_mels: Sequence[torch.Tensor]
    ) -> list[list[Segment]]:
        """int16 (n_samples,) and float32 (n_frames, 80) of each recording -> its speech intervals.

        Intervals are in order and not merged.
        """
        ...


def load_vad(name_or_dir: str, config: SegmentConfig, device: str = "cpu") -> Vad:
    """The VAD called "none" or "silero", or the FSMN-VAD in a local directory.

    FSMN-VAD runs on `device`, and its log-mels must be there; silero runs on the CPU. Raises
    ModelError, which names the file and the key.
    """
    if name_or_dir == "none":
        return WholeRecording()
    if name_or_dir == "silero":
        return Silero(config)
    return FsmnVad(Path(name_or_dir), config, pick_device(device))


class WholeRecording:
    """No VAD: one interval over the whole recording."""

    def find_speech(
        self, waveforms: Sequence[np.ndarray], log_mels: Sequence[torch.Tensor]
    ) -> list[list[Segment]]:
        lengths_s = (len(waveform) / SAMPLE_RATE for waveform in waveforms)
        return [[Segment(0.0, length_s)] if length_s else [] for length_s in lengths_s]
