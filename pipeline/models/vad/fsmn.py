"""FunASR's FSMN-VAD, its network and rules rewritten. Knows nothing of merging.

With a fixed `max_end_silence_time` it finds the same intervals to the millisecond (see
tests/models/vad), in a third of the time and without FunASR's import, which takes 11 s. The caller
sets the number of threads.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.nn.functional import conv1d

from pipeline.config import SegmentConfig
from pipeline.errors import ModelError
from pipeline.models.features import read_cmvn
from pipeline.models.linear import linear
from pipeline.models.vad.endpoints import EndpointRules, find_intervals
from pipeline.schema import FRAME, FRAME_LENGTH, FRAMES_PER_S, N_MELS, SAMPLE_RATE, Segment

FRAME_MS = 1000 * FRAME // SAMPLE_RATE
# Frames per call of the network. On a CPU 10 s: activations stay in cache. On a GPU 44 min: 1 GB.
CHUNK_FRAMES = {"cpu": 1_000, "cuda": 1 << 18}
_STACK = 5  # the input of a frame: itself and two neighbours on either side

# FunASR's VADXOptions, where a config.yaml does not set them.
_DEFAULTS: dict[str, Any] = {
    "window_size_ms": 200,
    "sil_to_speech_time_thres": 150,
    "speech_to_sil_time_thres": 150,
    "lookback_time_start_point": 200,
    "lookahead_time_end_point": 100,
    "max_single_segment_time": 60_000,
    "speech_noise_thres": 0.6,
    "speech_2_noise_ratio": 1.0,
    "sil_pdf_ids": [0],
    "lstride": 1,
}

# The variant that this code implements. At -100 dB the level thresholds have no effect: FunASR's
# level of a frame is at least -60 dB (it adds 1e-6) and at most 26 dB, so no frame is 100 dB below
# the noise.
_EXPECTED: dict[str, dict[str, Any]] = {
    "model_conf": {
        "detect_mode": 1,
        "do_extend": 1,
        "frame_in_ms": FRAME_MS,
        "sample_rate": SAMPLE_RATE,
        "snr_thres": -100.0,
        "decibel_thres": -100.0,
    },
    "encoder_conf": {"rorder": 0},
    "frontend_conf": {
        "fs": SAMPLE_RATE,
        "n_mels": N_MELS,
        "window": "hamming",
        "frame_length": 1000 * FRAME_LENGTH // SAMPLE_RATE,
        "frame_shift": FRAME_MS,
        "lfr_m": _STACK,
        "lfr_n": 1,
    },
}


class FsmnVad:
    """FunASR's FSMN-VAD, from a directory with config.yaml, am.mvn and model.pt.

    Raises ModelError for a file that is missing or broken, and for another variant of the model.
    """

    def __init__(
        self, directory: Path, config: SegmentConfig, device: torch.device | str = "cpu"
    ) -> None:
        options = _read_options(directory / "config.yaml")
        self._options = options
        self._device = torch.device(device)
        self._rules = _endpoint_rules(options, round(config.end_silence_s * 1000))
        weights, cmvn = _read_weights(directory / "model.pt"), read_cmvn(directory / "am.mvn")
        try:
            self._net = _FsmnNet(weights, cmvn, options, self._device)
        except KeyError as error:
            raise ModelError(f"{directory / 'model.pt'} has no {error}: not an FSMN-VAD") from error

    def find_speech(
        self, waveforms: Sequence[np.ndarray], log_mels: Sequence[torch.Tensor]
    ) -> list[list[Segment]]:
        return [self._find_in(one) for one in self.silence_probabilities(log_mels)]

    def _find_in(self, silence: np.ndarray) -> list[Segment]:
        silence = silence.astype(np.float64)
        noise = silence ** self._options["speech_2_noise_ratio"]
        is_speech = 1.0 - silence >= noise + self._options["speech_noise_thres"]
        return [
            Segment(start / FRAMES_PER_S, end / FRAMES_PER_S)
            for start, end in find_intervals(is_speech, self._rules)
        ]

    @torch.inference_mode()
    def silence_probabilities(self, log_mels: Sequence[torch.Tensor]) -> list[np.ndarray]:
        """float32 (n_frames, 80) of each recording -> float32 (n_frames,) of each, of any lengths.

        The network processes all recordings as one long sequence. Between two recordings there are
        as many rows as the network looks back; it treats them like the silence before a start. So
        a short recording needs no kernel launches of its own on a GPU, and a long one no more
        memory than a chunk.
        """
        lengths = np.array([len(log_mel) for log_mel in log_mels], np.int64)
        starts = np.cumsum(lengths + self._net.n_context) - lengths - self._net.n_context
        firsts = np.cumsum(lengths) - lengths
        n_rows = int(starts[-1] + lengths[-1]) if len(lengths) else 0
        rows = np.zeros((n_rows, _STACK), np.int64)
        is_gap = np.ones(n_rows, bool)
        for start, first, n_frames in zip(starts, firsts, lengths, strict=True):
            # Each frame with its neighbours; at the ends the first and the last frame repeat.
            around = np.arange(n_frames)[:, None] + np.arange(_STACK) - _STACK // 2
            rows[start : start + n_frames] = first + around.clip(0, n_frames - 1)
            is_gap[start : start + n_frames] = False
        silence = self._run(torch.cat(list(log_mels)), rows, is_gap) if n_rows else is_gap
        return [silence[start : start + n] for start, n in zip(starts, lengths, strict=True)]

    def _run(self, frames: torch.Tensor, rows: np.ndarray, is_gap: np.ndarray) -> np.ndarray:
        """(n_frames, 80) and the frames stacked in each row (n_rows, 5) -> float32 (n_rows,)."""
        parts: list[torch.Tensor] = []
        memories: list[torch.Tensor] = []
        step = CHUNK_FRAMES[self._device.type]
        for start in range(0, len(rows), step):
            gaps = is_gap[start : start + step]
            index = torch.from_numpy(rows[start : start + step].ravel()).to(self._device)
            stacked = frames[index].view(len(gaps), -1)
            keep = torch.from_numpy(~gaps).to(self._device) if gaps.any() else None
            silence, memories = self._net(stacked, keep, memories)
            parts.append(silence)
        return np.asarray(torch.cat(parts).cpu().numpy())


class _FsmnNet:
    """The network: 400 -> 140 -> 250, blocks of 250 -> 128 -> memory -> 250, -> 140 -> 248."""

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        cmvn: Sequence[torch.Tensor],
        options: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self._stride: int = options["lstride"]
        # The normalisation is folded into the first layer; the last two layers become one.
        shift, scale = (vector.double() for vector in cmvn)
        w = {k: v.double() for k, v in weights.items()}
        first, bias = w["in_linear1.linear.weight"] * scale, w["in_linear1.linear.bias"]
        self._first = _floats(device, first, bias + first @ shift)
        self._second = _affine(w, "in_linear2", device)
        last, bias = w["out_linear2.linear.weight"], w["out_linear2.linear.bias"]
        self._out = _floats(
            device,
            last @ w["out_linear1.linear.weight"],
            last @ w["out_linear1.linear.bias"] + bias,
        )
        # Sums some columns by a product: an index would be sent to the GPU with every chunk.
        is_silence = np.isin(np.arange(len(last)), options["sil_pdf_ids"]).astype(np.float32)
        self._is_silence = torch.from_numpy(is_silence).to(device)
        n_blocks = sum(name.endswith("conv_left.weight") for name in w)
        self._blocks = [
            (
                *_floats(
                    device,
                    w[f"fsmn.{i}.linear.linear.weight"],
                    w[f"fsmn.{i}.fsmn_block.conv_left.weight"].squeeze(3),
                ),
                *_affine(w, f"fsmn.{i}.affine", device),
            )
            for i in range(n_blocks)
        ]
        self.n_context = max((taps.shape[2] - 1) * self._stride for _, taps, _, _ in self._blocks)

    def __call__(
        self, stacked: torch.Tensor, keep: torch.Tensor | None, memories: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(n, 400) -> P(silence) (n,), and the left context of each block for the next call.

        Rows where `keep` (n,) is false enter the memory as zeros.
        """
        x = linear(linear(stacked, *self._first), *self._second).relu_()
        contexts = []
        for i, (project, taps, weight, bias) in enumerate(self._blocks):
            projected = linear(x, project).T  # (128, n)
            if keep is not None:
                projected = projected * keep
            n_context = (taps.shape[2] - 1) * self._stride
            memory = memories[i] if memories else projected.new_zeros(len(projected), n_context)
            past = torch.cat((memory, projected), dim=1)
            contexts.append(past[:, past.shape[1] - n_context :].clone())
            remembered = conv1d(past[None], taps, dilation=self._stride, groups=len(taps))[0]
            x = linear((projected + remembered).T, weight, bias).relu_()
        return linear(x, *self._out).softmax(dim=1) @ self._is_silence, contexts


def _affine(
    weights: Mapping[str, torch.Tensor], name: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    return _floats(device, weights[f"{name}.linear.weight"], weights[f"{name}.linear.bias"])


def _floats(
    device: torch.device, first: torch.Tensor, second: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return first.float().to(device), second.float().to(device)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises OS, pickle, zip and runtime errors alike
        raise ModelError(f"{path} cannot be read as FSMN-VAD weights: {error}") from error
    return {name.removeprefix("encoder."): tensor for name, tensor in state.items()}


def _read_options(path: Path) -> dict[str, Any]:
    """The settings of a config.yaml that network and rules need, with FunASR's defaults.

    Raises ModelError if the file cannot be read, or describes a variant that is not implemented.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    if not isinstance(settings, dict) or settings.get("model") != "FsmnVADStreaming":
        raise ModelError(f"{path}: not the config.yaml of an FSMN-VAD (model: FsmnVADStreaming)")
    other = []
    for section, expected in _EXPECTED.items():
        given = settings.get(section) or {}
        other += [
            f"{section}.{key}: {given[key]} instead of {value}"
            for key, value in expected.items()
            if key in given and given[key] != value
        ]
    if other:
        raise ModelError(f"{path}: an FSMN-VAD of another kind ({', '.join(other)})")
    given = {**(settings.get("model_conf") or {}), **(settings.get("encoder_conf") or {})}
    return {key: given.get(key, default) for key, default in _DEFAULTS.items()}


def _endpoint_rules(options: Mapping[str, Any], max_end_silence_ms: int) -> EndpointRules:
    """FunASR's conversion from milliseconds, with its truncations and its offset of one frame."""
    window = int(options["window_size_ms"] / FRAME_MS)
    # Silence is counted from the frame that became silence, which is this late already.
    end_silence_ms = max_end_silence_ms - options["speech_to_sil_time_thres"]
    lookahead = int(options["lookahead_time_end_point"] / FRAME_MS)
    return EndpointRules(
        window=window,
        to_speech=int(options["sil_to_speech_time_thres"] / FRAME_MS),
        to_silence=int(options["speech_to_sil_time_thres"] / FRAME_MS),
        lookback=window + int(options["lookback_time_start_point"] / FRAME_MS),
        end_silence=max(1, math.ceil(end_silence_ms / FRAME_MS)),
        take_back=max(0, int(end_silence_ms / FRAME_MS) - lookahead - 1),
        max_length=options["max_single_segment_time"] / FRAME_MS,
    )
