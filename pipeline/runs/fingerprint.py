"""The hash of everything that shapes a label. Knows the configuration; opens nothing."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from pipeline.config import RunConfig, label_precision

# Raised by hand when code that shapes labels changes: front end, VAD, segmenting or decoding. It
# gives every recording new work.
CODE_VERSION = 1
# What stands for the schema in the hash. A constant: a new column is no reason to label again.
_SCHEMA = 1

# The settings that have been hashed since code version 1. A key that was added later enters the
# hash only when it differs from its default, so that a new key gives no recording new work.
_AUDIO = (
    *("window_s", "max_duration_s", "max_bytes", "min_rate_hz", "max_rate_hz", "max_channels"),
    "min_decoded_share",
)
_SEGMENT = (
    *("max_segment_s", "min_segment_s", "merge_length_s", "merge_gap_s", "end_silence_s"),
    *("pad_s", "threshold"),
)
_LABEL = ("language", "allowed_languages", "use_itn", "precision")
_NO_LABEL = frozenset({"batch_s", "compile", "device"})  # of `label`: they change no label


def fingerprint(config: RunConfig, model_hash: str, vad: str) -> str:
    """Hash of everything that shapes a label; batch sizes, devices, compilers and places do not.

    Where the model lies is not in it either: the same weights from a hub or a directory are one.
    """
    label = config.label.model_copy(update={"precision": label_precision(config)})
    parts = {
        "schema": _SCHEMA,
        "code": CODE_VERSION,
        "model": model_hash,
        "vad": vad,
        "audio": _hashed(config.audio, _AUDIO),
        "segment": _hashed(config.segment, _SEGMENT),
        "label": _hashed(label, _LABEL, _NO_LABEL),
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
