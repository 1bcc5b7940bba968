"""The fingerprint: a hash of everything that changes labels. Opens no file."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from pipeline.config import RunConfig, label_precision

# Raised by hand when code that changes labels is changed: features, VAD, segments or decoding of
# tokens. Every recording is then labelled again.
CODE_VERSION = 2
# The schema's part in the hash. It is constant, because a new column needs no new labels.
_SCHEMA = 1

# The settings that have been hashed since CODE_VERSION 1. A key that was added later is hashed only
# if it differs from its default, so that a new key does not make any recording be labelled again.
_AUDIO = (
    *("window_s", "max_duration_s", "max_bytes", "min_rate_hz", "max_rate_hz", "max_channels"),
    "min_decoded_share",
)
_SEGMENT = (
    *("max_segment_s", "min_segment_s", "merge_length_s", "merge_gap_s", "end_silence_s"),
    *("pad_s", "threshold"),
)
_LABEL = ("language", "allowed_languages", "use_itn", "precision")
NO_LABEL = frozenset({"batch_s", "compile", "device"})  # keys of `label` that change no label


def fingerprint(config: RunConfig, model_hash: str, vad: str) -> str:
    """Hash of the code version, the model, the VAD, and the settings that change labels.

    Batch sizes, devices and compilers are not hashed. Nor is the place of the model: the same
    weights give the same fingerprint, from a hub or from a directory.
    """
    label = config.label.model_copy(update={"precision": label_precision(config)})
    parts = {
        "schema": _SCHEMA,
        "code": CODE_VERSION,
        "model": model_hash,
        "vad": vad,
        "audio": _hashed(config.audio, _AUDIO),
        "segment": _hashed(config.segment, _SEGMENT),
        "label": _hashed(label, _LABEL, NO_LABEL),
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _hashed(
    section: BaseModel, always: tuple[str, ...], never: frozenset[str] = frozenset()
) -> dict[str, Any]:
    fields = type(section).model_fields
    return {
        name: value
        for name, value in section.model_dump().items()
        if name not in never and (name in always or value != fields[name].get_default())
    }
