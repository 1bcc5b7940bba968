"""Waveforms to log-mel features, as Kaldi, FSMN-VAD and SenseVoice define them. Knows no model.

VAD and labelling share one set of features. A frame depends on its own 400 samples only, and frames
start every 160 samples, so the frames of a clip that starts on the 10 ms grid are frames of its
recording. There is no dither: with FunASR's default of 1.0 the labels differ from run to run.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import ModelError
from pipeline.schema import FRAME, FRAME_LENGTH, LFR_STACK, LFR_STEP, N_MELS, SAMPLE_RATE, Segment

LogMel = torch.Tensor  # float32 (n_frames, N_MELS)

N_FFT = 512
LOW_HZ, HIGH_HZ = 20.0, SAMPLE_RATE / 2
PRE_EMPHASIS = 0.97
LOG_FLOOR = float(np.finfo(np.float32).eps)  # Kaldi's floor of a mel energy: log -> -15.94
# Frames per step. On a CPU 10 s: 4 MB stay in cache. On a GPU 11 min: 0.5 GB, few launches.
CHUNK_FRAMES = {"cpu": 1_000, "cuda": 1 << 16}


def log_mels(waveforms: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """int16 (n_samples,) each -> float32 (n_frames, 80) each, on `device`; (0, 80) under 25 ms.

    All waveforms are processed as one: for one short recording a GPU needs less time than for the
    launch of its kernels.
    """
    # Each waveform starts on a frame boundary; frames that straddle two waveforms are dropped.
    pieces, starts, start = [np.zeros(0, np.int16)], [], 0
    for waveform in waveforms:
        n_missing = -len(waveform) % FRAME
        pieces += [waveform, np.zeros(n_missing, np.int16)]
        starts.append(start)
        start += (len(waveform) + n_missing) // FRAME
    frames = log_mel_tensor(torch.from_numpy(np.concatenate(pieces)).to(device))
    counts = [count_frames(len(waveform)) for waveform in waveforms]
    return [frames[at : at + n] for at, n in zip(starts, counts, strict=True)]


def loudness(log_mels: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """float32 (n_frames, 80) each -> the mean of each frame, float32 (n_frames,) each, on the host.

    All in one copy, because each copy waits for the GPU's queued work.
    """
    if not log_mels:
        return []
    means = torch.cat([one.mean(dim=1) for one in log_mels]).cpu().numpy()
    return np.split(means, np.cumsum([len(one) for one in log_mels])[:-1])


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """int16 (n_samples,) -> float32 (n_frames, 80), on the CPU."""
    return np.asarray(log_mels([waveform], torch.device("cpu"))[0].numpy())


def log_mel_tensor(waveform: torch.Tensor) -> torch.Tensor:
    """(n_samples,) on the int16 scale, any dtype -> float32 (n_frames, 80) on the same device.

    kaldi.fbank(x, num_mel_bins=80, window_type="hamming", energy_floor=0, dither=0) of torchaudio;
    the largest difference, in nearly empty bins, is 3e-3.
    """
    n_frames = count_frames(waveform.shape[0])
    features = torch.empty(n_frames, N_MELS, device=waveform.device)
    step = CHUNK_FRAMES[waveform.device.type]
    for start in range(0, n_frames, step):
        stop = min(start + step, n_frames)
        samples = waveform[start * FRAME : (stop - 1) * FRAME + FRAME_LENGTH].float()
        features[start:stop] = _log_mel_chunk(samples)
    return features


def count_frames(n_samples: int) -> int:
    """Whole frames of 25 ms, every 10 ms, in `n_samples` (Kaldi's snip_edges)."""
    return 0 if n_samples < FRAME_LENGTH else 1 + (n_samples - FRAME_LENGTH) // FRAME


def clip_frames(segment: Segment, n_frames_total: int) -> slice:
    """Which frames of the recording belong to this clip; its start lies on the 10 ms grid."""
    first_sample = round(segment.start_s * SAMPLE_RATE)
    n_frames = count_frames(round(segment.end_s * SAMPLE_RATE) - first_sample)
    start = min(round(first_sample / FRAME), n_frames_total)
    return slice(start, min(start + n_frames, n_frames_total))


def stack_frames(
    log_mel: torch.Tensor, lengths: Sequence[int], stack: int = LFR_STACK, step: int = LFR_STEP
) -> torch.Tensor:
    """(sum of lengths, 80) -> (sum of ceil(length / step), stack * 80).

    Every step-th frame of each clip, side by side with its neighbours: FunASR's low frame rate
    (`apply_lfr`), 7/6 for SenseVoice. At the ends of a clip its first and its last frame are
    repeated.
    """
    around = np.arange(stack) - (stack - 1) // 2
    starts = np.cumsum([0, *lengths])
    rows = [np.zeros((0, stack), np.int64)] + [
        start + (np.arange(0, n_frames, step)[:, None] + around).clip(0, n_frames - 1)
        for start, n_frames in zip(starts, lengths, strict=False)
    ]
    index = torch.from_numpy(np.concatenate(rows)).to(log_mel.device)
    return log_mel[index.flatten()].reshape(len(index), stack * log_mel.shape[1])


def read_cmvn(path: str | Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(shift, scale) of an am.mvn, float32 (dim,) each: normalised = (features + shift) * scale.

    Kaldi's text format: the bracketed numbers after <AddShift> and <Rescale>. Raises ModelError.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    shift, scale = _read_vector(text, "<AddShift>", path), _read_vector(text, "<Rescale>", path)
    if shift.shape != scale.shape:
        raise ModelError(f"{path}: {len(shift)} shifts but {len(scale)} scales")
    return shift, scale


def _read_vector(text: str, marker: str, path: str | Path) -> torch.Tensor:
    _, found, rest = text.partition(marker)
    numbers = rest.partition("[")[2].partition("]")
    if not found or not numbers[1]:
        raise ModelError(f"{path}: no {marker} with numbers in brackets; is it a Kaldi am.mvn?")
    return torch.tensor([float(number) for number in numbers[0].split()])


def _log_mel_chunk(samples: torch.Tensor) -> torch.Tensor:
    """float32 (n_samples,) -> (n_frames, 80)."""
    window, mel_weights = _constants(samples.device)
    frames = samples.unfold(0, FRAME_LENGTH, FRAME)
    frames = frames - frames.mean(dim=1, keepdim=True)
    # In place, in the zero-padded input of the transform: copies cost more than the arithmetic.
    padded = torch.zeros(len(frames), N_FFT, device=frames.device)
    emphasised = padded[:, :FRAME_LENGTH]
    emphasised[:, 1:] = frames[:, 1:].sub(frames[:, :-1], alpha=PRE_EMPHASIS)
    emphasised[:, 0] = frames[:, 0] * (1 - PRE_EMPHASIS)  # as Kaldi: it precedes itself
    emphasised *= window
    spectrum: torch.Tensor = torch.fft.rfft(padded)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power @ mel_weights).clamp_(min=LOG_FLOOR).log_()


@lru_cache(maxsize=4)
def _constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The hamming window (400,) and the mel triangles (257, 80)."""
    window = torch.hamming_window(FRAME_LENGTH, periodic=False)
    return window.to(device), _mel_weights().to(device)


def _mel_weights() -> torch.Tensor:
    """(n_fft / 2 + 1, 80), all in float32, so that it equals torchaudio's matrix bit by bit."""
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (LOW_HZ, HIGH_HZ))
    step = (high - low) / (N_MELS + 1)
    left = low + torch.arange(N_MELS)[:, None] * step
    center = low + (torch.arange(N_MELS)[:, None] + 1.0) * step
    right = low + (torch.arange(N_MELS)[:, None] + 2.0) * step
    bins_hz = SAMPLE_RATE / N_FFT * torch.arange(N_FFT // 2)
    mel = 1127.0 * (1.0 + bins_hz / 700.0).log()
    rising, falling = (mel - left) / (center - left), (right - mel) / (right - center)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return torch.nn.functional.pad(triangles, (0, 1)).T.contiguous()  # Kaldi drops the Nyquist bin
