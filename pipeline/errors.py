"""Every exception that this project raises, and every `error_type` that a row can carry.

States for each error type whether a retry can help, and what to do. Imports nothing of the project.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self


class PipelineError(Exception):
    """Base of all exceptions that this project raises."""


class Refused(PipelineError):
    """A command did not start: its input cannot be used. The message says what to do."""


class ConfigError(Refused, ValueError):
    """The configuration cannot be used; the message names the key."""


class ManifestError(Refused, ValueError):
    """The manifest cannot be used at all; the message names the file."""


class ModelError(Refused):
    """The model cannot be found or loaded; the message names the directory or hub id."""


class StoreError(Refused, RuntimeError):
    """The store cannot be used, or an object in it is wrong; the message names the object."""


class DamagedError(StoreError):
    """An object does not have the bytes that were written; the message names the object."""


class ExportError(Refused, ValueError):
    """Nothing was exported; the message says why."""


class RunStopped(PipelineError, RuntimeError):
    """The run cannot continue; the message names the reason and says what to do.

    All recordings that were finished before are committed.
    """


class RoundEnded(PipelineError, RuntimeError):
    """One round of a run ended early because workers kept crashing; another round may succeed."""


class TooSlow(PipelineError):
    """A request took longer than its limit, or more memory, and was ended."""


class BatchTooLarge(PipelineError):
    """The device has too little memory for this model batch; one with fewer clips may fit."""


class DecoderError(PipelineError):
    """A decoder cannot read this file, or not to its end; another decoder may succeed."""


class RecordingError(PipelineError):
    """This recording cannot be labelled; its row states the reason and the run continues.

    `kind` becomes the `error_type` of the row: an ErrorType, or the name of another library's
    exception. `found` is what was known of the audio by then, as columns of schema.WINDOW.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = str(kind)
        self.found: Mapping[str, Any] = {}


def one_line(error: BaseException) -> str:
    """The message of an exception on one line; pyarrow's may have several."""
    return " ".join(str(error).split())


_IN_MANIFEST = "Correct this row of the manifest"
_IN_AUDIO = "Replace the file, or leave it out of the manifest"
_LIMIT = "Raise the limit that the message names, if such recordings are wanted"


class ErrorType(StrEnum):
    """Values of the column `error_type`.

    permanent: the same recording would fail again in the same way, so `retry: errors` skips it.
    advice: what to do, as a sentence without its full stop.
    """

    permanent: bool
    advice: str

    def __new__(cls, value: str, permanent: bool, advice: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.permanent = permanent
        member.advice = advice
        return member

    # The manifest row
    BAD_MANIFEST_ROW = "BadManifestRow", True, _IN_MANIFEST
    BAD_LANGUAGE = "BadLanguage", True, _IN_MANIFEST
    BAD_RANGE = "BadRange", True, _IN_MANIFEST
    BAD_URI = (
        "BadUri",
        True,
        "Check the URIs in the manifest, and that the workers have a library for the scheme",
    )
    BAD_TEXT = "BadText", True, "Correct the text of this row, or label without label.align"
    DUPLICATE_ID = "DuplicateId", True, "Give each recording its own recording_id"
    # The audio itself
    EMPTY_FILE = "EmptyFile", True, _IN_AUDIO
    NOT_A_FILE = "NotAFile", True, _IN_MANIFEST
    NOT_AUDIO = "NotAudio", True, _IN_AUDIO
    NO_AUDIO_STREAM = "NoAudioStream", True, _IN_AUDIO
    BAD_CHANNEL = "BadChannel", True, "Check the column channel of the manifest, or audio.channels"
    NO_SAMPLES = "NoSamples", True, _IN_AUDIO
    NON_FINITE = "NonFinite", True, _IN_AUDIO
    OUT_OF_RANGE = "OutOfRange", True, _IN_AUDIO
    TRUNCATED = "Truncated", True, _IN_AUDIO
    UNDECODABLE = "Undecodable", True, _IN_AUDIO
    # Limits of the configuration
    BAD_RATE = "BadRate", True, _LIMIT
    TOO_LARGE = "TooLarge", True, _LIMIT
    TOO_LONG = "TooLong", True, _LIMIT
    TOO_MANY_CHANNELS = "TooManyChannels", True, _LIMIT
    TOO_SHORT = "TooShort", True, "Leave recordings of under 25 ms out of the manifest"
    # Store, disks and workers: another attempt may succeed
    ACCESS_DENIED = (
        "AccessDenied",
        False,
        "Check the credentials and the bucket's policy, on the workers too",
    )
    ARCHIVED = "Archived", False, "Restore these objects from the archive tier of the store"
    CHANGED_WHILE_READ = (
        "ChangedWhileRead",
        False,
        "Run again when no program writes this audio any more",
    )
    FILE_MISSING = (
        "FileMissing",
        False,
        "Check the paths in the manifest, and that the workers mount the same disks",
    )
    NOT_ALLOWED = "NotAllowed", False, "Add the directory or bucket to allowed_roots"
    STORE_UNAVAILABLE = (
        "StoreUnavailable",
        False,
        "Check that the workers can reach the store, and whether the store throttles them",
    )
    WORKER_CRASH = (
        "WorkerCrash",
        False,
        "Read the last messages of the workers in Ray's logs; suspect memory and native libraries",
    )
    # Exceptions of Python and torch, by their class names
    OS_ERROR = "OSError", False, "Check the disks of the workers: space, permissions, mounts"
    MEMORY_ERROR = "MemoryError", False, "Give the workers more memory, or run fewer of them"
    OUT_OF_MEMORY_ERROR = (
        "OutOfMemoryError",
        False,
        "Lower label.batch_s, or run fewer workers on each GPU",
    )


PERMANENT: frozenset[str] = frozenset(kind.value for kind in ErrorType if kind.permanent)

_ADVICE: dict[str, str] = {kind.value: kind.advice for kind in ErrorType}
_OTHER = "See error_message of these rows in the recordings table"


def advice_for(kind: str) -> str:
    """What to do about an error type, as a sentence without its full stop.

    `kind` may also be the name of another library's exception.
    """
    return _ADVICE.get(kind, _OTHER)
