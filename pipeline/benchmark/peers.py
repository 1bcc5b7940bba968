"""Other software that runs SenseVoice, each called as its own documentation calls it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmark.loop import Cost, Stopwatch
from pipeline.schema import SAMPLE_RATE

_FULL_SCALE = np.float32(1 << 15)  # int16 samples to -1 ... 1


class FunAsr:
    """`AutoModel.generate` as the README of FunAudioLLM/SenseVoice calls it on long audio."""

    def __init__(self, model: str, vad: str, device: str, threads: int) -> None:
        self._model, self._vad, self._device, self._threads = model, vad, device, threads
        self._with_vad = self._load(with_vad=True)

    def _load(self, with_vad: bool, **options: Any) -> Any:
        from funasr import AutoModel

        if with_vad and self._vad:
            options |= {
                "vad_model": self._vad,
                "vad_kwargs": {"max_single_segment_time": 30_000},
            }
        return AutoModel(
            model=self._model,
            device=self._device,
            ncpu=self._threads,
            disable_update=True,
            disable_pbar=True,
            **options,
        )

    def run(self, files: Sequence[str]) -> Cost:
        """Label the files one after the other."""
        stopwatch = Stopwatch()
        with stopwatch("files"):
            for file in files:
                self._with_vad.generate(
                    input=file,
                    cache={},
                    language="auto",
                    use_itn=True,
                    batch_size_s=60,
                    merge_vad=bool(self._vad),
                    merge_length_s=15,
                )
        return stopwatch.costs["files"]

    def texts(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Rich text of int16 clips, one clip at a time, without VAD and without dither.

        With dither FunASR's text differs from run to run. It is set for a model of its own, because
        generate() returns to a copy of the arguments with which the model was made.
        """
        model = self._load(with_vad=False, frontend_conf={"dither": 0.0})
        outputs = [
            model.generate(input=waveform / _FULL_SCALE, language="auto", use_itn=True)
            for waveform in waveforms
        ]
        return [str(output[0]["text"]) for output in outputs]


class SherpaOnnx:
    """sherpa-onnx's offline recogniser with the exported model."""

    def __init__(self, onnx_file: Path, threads: int) -> None:
        import sherpa_onnx

        self._recogniser = sherpa_onnx.OfflineRecognizer.from_sense_voice(
            model=str(onnx_file),
            tokens=str(onnx_file.with_name("tokens.txt")),
            num_threads=threads,
            use_itn=True,
        )

    def run(self, waveforms: Sequence[np.ndarray]) -> Cost:
        """Label int16 clips, one stream for each."""
        stopwatch = Stopwatch()
        with stopwatch("clips"):
            for waveform in waveforms:
                stream = self._recogniser.create_stream()
                stream.accept_waveform(SAMPLE_RATE, waveform / _FULL_SCALE)
                self._recogniser.decode_stream(stream)
        return stopwatch.costs["clips"]
