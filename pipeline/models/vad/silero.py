"""Silero-VAD, by its own package. Knows waveforms and probabilities; nothing of merging."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad

from pipeline.config import SegmentConfig
from pipeline.schema import SAMPLE_RATE, Segment


class Silero:
    """The 16 kHz network of silero_vad, run in blocks of frames, with the package's own rules.

    The package's `get_speech_timestamps` calls the network for every 32 ms. Only the LSTM depends
    on the order of frames, so the other layers take a block of frames at once. The probabilities
    are the same to float rounding, in a tenth of the time, and without onnxruntime (an extra of
    silero-vad that is not installed here).
    """

    CONTEXT, FRAME_SAMPLES, BLOCK_FRAMES = 64, 512, 512  # samples, samples, frames (16 s)

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
        """int16 (n_samples,) -> one per 32 ms; the last frame is padded with zeros."""
        step = self.FRAME_SAMPLES
        state = None
        probabilities: list[float] = []
        for start in range(0, len(waveform), step * self.BLOCK_FRAMES):
            frames = self._cut_frames(waveform, start)
            encoded = self._network.encoder(self._network.run_extractors(frames))  # (n, 128, 1)
            hidden, state = self._lstm(encoded.transpose(1, 2), state)  # (n, 1, 128)
            spoken = self._network.decoder.decoder(hidden.transpose(1, 2))
            probabilities += spoken.flatten().tolist()
        return probabilities

    def _cut_frames(self, waveform: np.ndarray, start: int) -> torch.Tensor:
        """(n_frames, 64 + 512) from sample `start`: each frame after the 64 samples before it."""
        step, context = self.FRAME_SAMPLES, self.CONTEXT
        stop = min(start + step * self.BLOCK_FRAMES, len(waveform))
        samples = torch.from_numpy(waveform[max(start - context, 0) : stop] / np.float32(32768))
        samples = pad(samples, (max(context - start, 0), -(stop - start) % step))
        return samples.unfold(0, context + step, step)
