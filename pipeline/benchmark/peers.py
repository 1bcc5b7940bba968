"""Other ways to run SenseVoice, each as its own documentation runs it, for jobs.benchmark only."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmark.loop import Cost


class FunAsr:
    """`AutoModel.generate` as the README of FunAudioLLM/SenseVoice calls it on long audio."""

    def __init__(self, model: str, vad: str, device: str, threads: int) -> None:
        self._model, self._vad, self._device, self._threads = model, vad, device, threads
        self._spoken = self._load(with_vad=True)

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

    def walk(self, files: Sequence[str]) -> Cost:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        for file in files:
            self._spoken.generate(
                input=file,
                cache={},
                language="auto",
                use_itn=True,
                batch_size_s=60,
                merge_vad=bool(self._vad),
                merge_length_s=15,
            )
        return Cost(time.process_time() - cpu_s, time.perf_counter() - wall_s)

    def texts(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """One clip at a time, without VAD; without dither, which makes FunASR differ from itself.

        Dither is set here because generate() goes back to a copy of its first arguments.
        """
        exact = self._load(with_vad=False, frontend_conf={"dither": 0.0})
        return [
            str(
                exact.generate(input=w / np.float32(32768), language="auto", use_itn=True)[0][
                    "text"
                ]
            )
            for w in waveforms
        ]


class SherpaOnnx:
    """sherpa-onnx's offline recogniser on the exported model, one VAD segment per stream."""

    def __init__(self, onnx_file: Path, threads: int) -> None:
        import sherpa_onnx

        self._recogniser = sherpa_onnx.OfflineRecognizer.from_sense_voice(
            model=str(onnx_file),
            tokens=str(onnx_file.with_name("tokens.txt")),
            num_threads=threads,
            use_itn=True,
        )

    def walk(self, waveforms: Sequence[np.ndarray]) -> Cost:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        for waveform in waveforms:
            stream = self._recogniser.create_stream()
            stream.accept_waveform(16_000, waveform / np.float32(32768))
            self._recogniser.decode_stream(stream)
        return Cost(time.process_time() - cpu_s, time.perf_counter() - wall_s)


def export_for_sherpa(model: str, directory: Path) -> Path:
    """FunASR's own export, with the metadata that sherpa-onnx reads; takes minutes and 2 GB.

    As scripts/sense-voice/export-onnx.py of k2-fsa/sherpa-onnx does it.
    """
    import onnx
    import torch
    from funasr import AutoModel

    from pipeline.models.features import read_cmvn
    from pipeline.models.files import resolve_model

    files = resolve_model(model)
    network = AutoModel(model=model, device="cpu", disable_update=True).model
    network = network.export(type="onnx", quantize=False, device="cpu", max_seq_len=512)
    target = directory / "model.onnx"
    names = ["x", "x_length", "language", "text_norm"]
    torch.onnx.export(
        network,
        network.export_dummy_inputs(),
        str(target),
        opset_version=14,
        input_names=names,
        output_names=["logits"],
        dynamic_axes={
            "x": {0: "N", 1: "T"},
            **{name: {0: "N"} for name in names[1:]},
            "logits": {0: "N", 1: "T"},
        },
        dynamo=False,
    )
    shift, scale = read_cmvn(files.cmvn)
    pieces = _pieces(str(files.tokenizer))
    exported = onnx.load(str(target))
    for key, value in {
        "lfr_window_size": 7,
        "lfr_window_shift": 6,
        "normalize_samples": 0,
        "neg_mean": ",".join(map(str, shift.tolist())),
        "inv_stddev": ",".join(map(str, scale.tolist())),
        "model_type": "sense_voice_ctc",
        "version": 2,
        "vocab_size": len(pieces),
        **{"lang_auto": 0, "lang_zh": 3, "lang_en": 4, "lang_yue": 7, "lang_ja": 11, "lang_ko": 12},
        "with_itn": 14,
        "without_itn": 15,
    }.items():
        exported.metadata_props.add(key=key, value=str(value))
    onnx.save(exported, str(target))
    lines = [f"{piece} {index}" for index, piece in enumerate(pieces)]
    target.with_name("tokens.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def _pieces(tokenizer: str) -> list[str]:
    import sentencepiece

    loaded = sentencepiece.SentencePieceProcessor(model_file=tokenizer)
    return [loaded.id_to_piece(index) for index in range(loaded.vocab_size())]
