"""Whether a converted file says what the model itself says, on audio. Writes nothing."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ModelError
from pipeline.models.features import log_mel
from pipeline.models.files import ModelFiles
from pipeline.models.sensevoice.decoding import ClipOutput, Vocabulary, rich_text
from pipeline.models.sensevoice.model import SenseVoice
from pipeline.models.sensevoice.onnx_runtime import OnnxSenseVoice

MOST_DIFFERENT = 1e-3  # of a probability in float32; more is a fault of the conversion
_TRY_SHERPA = """
import sys
import numpy as np, sherpa_onnx
recogniser = sherpa_onnx.OfflineRecognizer.from_sense_voice(
    model=sys.argv[1], tokens=sys.argv[2], use_itn=True)
stream = recogniser.create_stream()
stream.accept_waveform(16000, np.load(sys.argv[3]).astype(np.float32) / 32768)
recogniser.decode_stream(stream)
sys.stdout.buffer.write(stream.result.text.encode())
"""
_SHERPA_S = 300.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """A converted network beside our own pass, on the same clips in float32."""

    n_clips: int
    n_frames: int
    largest_difference: float  # of a frame's or tag's probability
    equal_frames: float  # share of frames with the same token
    equal_tags: float  # share of language, emotion and event labels
    equal_texts: float  # share of clips with the same tagged text

    def facts(self) -> dict[str, Any]:
        """For export.json."""
        return asdict(self)


def compare(files: ModelFiles, network: Path, waveforms: Sequence[np.ndarray]) -> Agreement:
    """Run int16 (n_samples,) clips through the ONNX file and through the model. Raises ModelError.

    Every clip is run with and without inverse text normalisation.
    """
    ours = _run(SenseVoice(files), waveforms)
    theirs = _run(OnnxSenseVoice(files, network), waveforms)
    return agreement(ours, theirs, SenseVoice(files).vocabulary)


def agreement(
    ours: Sequence[ClipOutput], theirs: Sequence[ClipOutput], vocabulary: Vocabulary
) -> Agreement:
    """What is equal between outputs of the same clips, ours first."""
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs:
        raise ModelError("there is no clip to compare the converted model on")
    frames = np.concatenate([a.tokens == b.tokens for a, b in pairs])
    tags = [
        int(getattr(a, kind).argmax() == getattr(b, kind).argmax())
        for a, b in pairs
        for kind in ("language", "emotion", "event")
    ]
    texts = [rich_text(a, vocabulary) == rich_text(b, vocabulary) for a, b in pairs]
    return Agreement(
        n_clips=len(pairs),
        n_frames=len(frames),
        largest_difference=max(_difference(a, b) for a, b in pairs),
        equal_frames=float(frames.mean()),
        equal_tags=float(np.mean(tags)),
        equal_texts=float(np.mean(texts)),
    )


def _difference(a: ClipOutput, b: ClipOutput) -> float:
    names = ("probabilities", "language", "emotion", "event")
    return max(float(np.abs(getattr(a, name) - getattr(b, name)).max()) for name in names)


def _run(model: Any, waveforms: Sequence[np.ndarray]) -> list[ClipOutput]:
    clips = [log_mel(waveform) for waveform in waveforms]
    outputs: list[ClipOutput] = []
    for use_itn in (True, False):
        outputs += model.transcribe(clips, ["auto"] * len(clips), [use_itn] * len(clips))
    return outputs


def refuse_wrong(found: Agreement, network: Path) -> None:
    """Raise ModelError if a float32 file is not the model."""
    if found.largest_difference > MOST_DIFFERENT:
        raise ModelError(
            f"{network.name} is not the model: a probability differs by "
            f"{found.largest_difference:.2g}, and {1 - found.equal_frames:.1%} of the frames have "
            f"another token; allowed are {MOST_DIFFERENT:g}. Nothing was written"
        )


def try_sherpa(network: Path, waveform: np.ndarray, work: Path) -> str | None:
    """The text that sherpa-onnx gives to an int16 clip; None if it is not installed.

    In a child process: sherpa-onnx ends its process when metadata is missing. Raises ModelError.
    """
    if find_spec("sherpa_onnx") is None:
        return None
    clip = work / "clip.npy"
    np.save(clip, waveform)
    done = subprocess.run(
        [
            *(sys.executable, "-c", _TRY_SHERPA),
            *(str(network), str(network.with_name("tokens.txt")), str(clip)),
        ],
        capture_output=True,
        check=False,
        timeout=_SHERPA_S,
    )
    clip.unlink()
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ModelError(
            f"sherpa-onnx cannot load {network.name} (exit code {done.returncode}): {last}"
        )
    return done.stdout.decode()
