"""SenseVoice from an ONNX file, run by ONNX Runtime on a CPU, behind the interface of `model`.

The file is one that `pipeline.convert` writes. Clips are run one by one: in ONNX Runtime a padded
batch costs more than its clips.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch

from pipeline.errors import ModelError
from pipeline.models.features import read_cmvn, stack_frames
from pipeline.models.files import ModelFiles
from pipeline.models.sensevoice.decoding import (
    LANGUAGE_PROMPTS,
    TEXT_NORM_PROMPTS,
    ClipOutput,
    Vocabulary,
)
from pipeline.models.sensevoice.model import Clip

INPUTS = ("speech", "speech_lengths", "language", "textnorm")  # the names of FunASR's export
LOGITS = "ctc_logits"


class OnnxSenseVoice:
    """The Transcriber of an ONNX file; front end, vocabulary and labels are those of `files`.

    Raises ModelError for a file that cannot be loaded or has other inputs and outputs.
    """

    def __init__(self, files: ModelFiles, network: Path, threads: int = 1) -> None:
        import onnxruntime

        if files.tokenizer is None:
            raise ModelError(f"{files.directory} has no tokenizer: no SenseVoice model")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take the CPU time of the other workers of the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(
                str(network), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own types, one for each reason
            raise ModelError(f"{network} cannot be loaded by ONNX Runtime: {error}") from error
        self.network = network
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._check_names()
        shift, scale = read_cmvn(files.cmvn)
        self._shift, self._scale = shift, scale
        self.vocabulary = Vocabulary(
            sentencepiece.SentencePieceProcessor(model_file=str(files.tokenizer))
        )
        ids = self.vocabulary
        self._tag_ids = (ids.language_ids, ids.emotion_ids, ids.event_ids)

    def _check_names(self) -> None:
        inputs = tuple(one.name for one in self._session.get_inputs())
        outputs = [one.name for one in self._session.get_outputs()]
        if inputs != INPUTS or LOGITS not in outputs:
            raise ModelError(
                f"{self.network} has the inputs {', '.join(inputs)} and the outputs "
                f"{', '.join(outputs)}, not those of SenseVoice; write it with python -m jobs "
                "convert"
            )

    def transcribe(
        self,
        clips: Sequence[Clip],
        languages: Sequence[str],
        use_itn: Sequence[bool],
        wanted: Sequence[Sequence[int]] = (),
    ) -> list[ClipOutput]:
        """As SenseVoice.transcribe: (n_frames, 80) each, one output per clip."""
        asked = wanted or [()] * len(clips)
        return [
            self._decode(self.logits(clip, language, itn), ids)
            for clip, language, itn, ids in zip(clips, languages, use_itn, asked, strict=True)
        ]

    def logits(self, clip: Clip, language: str, use_itn: bool) -> np.ndarray:
        """float32 (n_frames, 80) of a clip -> float32 (4 + ceil(n_frames / 6), n_tokens)."""
        frames = clip if isinstance(clip, torch.Tensor) else torch.from_numpy(clip)
        speech = ((stack_frames(frames, [len(frames)]) + self._shift) * self._scale).numpy()
        values: Sequence[Any] = (
            speech[None],
            np.array([len(speech)], np.int32),
            np.array([LANGUAGE_PROMPTS[language]], np.int32),
            np.array([TEXT_NORM_PROMPTS[use_itn]], np.int32),
        )
        feed = dict(zip(INPUTS, values, strict=True))
        (logits,) = self._session.run([LOGITS], feed)
        return np.asarray(logits[0], np.float32)

    def _decode(self, logits: np.ndarray, wanted: Sequence[int]) -> ClipOutput:
        tokens = logits.argmax(axis=1)
        tags = [
            _softmax(logits[frame, ids])
            for frame, ids in enumerate(self._tag_ids)  # language, emotion, event: 0, 1, 2
        ]
        best = logits.max(axis=1, keepdims=True)
        told = logits[:, [*wanted]] - best
        np.exp(np.subtract(logits, best, out=logits), out=logits)  # in place: 100 kB a frame
        top = 1 / logits.sum(axis=1)
        language, emotion, event = tags
        return ClipOutput(
            tokens.astype(np.int64),
            top,
            *(language, emotion, event),
            wanted=told + np.log(top)[:, None] if wanted else None,
        )


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum(), np.float32)
