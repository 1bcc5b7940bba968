"""Waveforms and features to raw speech intervals, by one of three VADs. Knows nothing of merging.

Threads are the caller's business, but importing silero_vad sets torch to one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import pad

from pipeline.config import SegmentConfig
from pipeline.models.features import pick_device
from pipeline.models.vad.fsmn import FsmnVad
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


class Silero:
    """silero_vad's 16 kHz network, block by block, and its own rules.

    Its `get_speech_timestamps` calls the network for every 32 ms. Only the LSTM needs the order, so
    the rest takes a block of frames as one batch: the same probabilities to float rounding, in a
    tenth of the time, and no onnxruntime (an extra of silero-vad that is not installed here).
    """

    CONTEXT, FRAME_SAMPLES, BLOCK_FRAMES = 64, 512, 512  # samples, samples, 16 s

    def __init__(self, config: SegmentConfig) -> None:
        import silero_vad

        self._config = config
        network = silero_vad.load_silero_vad()._model
        self._network = network
        cell = network.decoder.rnn
        self._lstm = torch.nn.LSTM(cell.input_size, cell.hidden_size)
        self._lstm.load_state_dict({f"{k}_l0": v for k, v in cell.state_dict().items()})

    def find_speech(
        self, waveforms: Sequence[np.ndarray], log_mels: Sequence[torch.Tensor]
    ) -> list[list[Segment]]:
        return [self._find_in(waveform) for waveform in waveforms]

    def _find_in(self, waveform: np.ndarray) -> list[Segment]:
        from silero_vad.utils_vad import get_speech_timestamps_from_probs

        spoken = get_speech_timestamps_from_probs(
            self.speech_probabilities(waveform),
            sampling_rate=SAMPLE_RATE,
            threshold=self._config.threshold,
            min_silence_duration_ms=round(self._config.end_silence_s * 1000),
            speech_pad_ms=round(self._config.pad_s * 1000),
            audio_length_samples=len(waveform),
        )
        return [Segment(s["start"] / SAMPLE_RATE, s["end"] / SAMPLE_RATE) for s in spoken]

    @torch.inference_mode()
    def speech_probabilities(self, waveform: np.ndarray) -> list[float]:
        """int16 (n_samples,) -> one per 32 ms, the last one over zeros where samples end."""
        step = self.FRAME_SAMPLES
        state = None
        probabilities: list[float] = []
        for start in range(0, len(waveform), step * self.BLOCK_FRAMES):
            frames = self._cut_frames(waveform, start)
            heard = self._network.encoder(self._network.run_extractors(frames))  # (n, 128, 1)
            hidden, state = self._lstm(heard.transpose(1, 2), state)  # (n, 1, 128)
            spoken = self._network.decoder.decoder(hidden.transpose(1, 2))
            probabilities += spoken.flatten().tolist()
        return probabilities

    def _cut_frames(self, waveform: np.ndarray, start: int) -> torch.Tensor:
        """(n_frames, 64 + 512) from sample `start`: each frame after the end of the one before."""
        step, context = self.FRAME_SAMPLES, self.CONTEXT
        stop = min(start + step * self.BLOCK_FRAMES, len(waveform))
        samples = torch.from_numpy(waveform[max(start - context, 0) : stop] / np.float32(32768))
        samples = pad(samples, (max(context - start, 0), -(stop - start) % step))
        return samples.unfold(0, context + step, step)
