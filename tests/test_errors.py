"""Which error types a retry leaves alone: a decision, written down a second time."""

from pipeline.errors import PERMANENT, ErrorType, advice_for

IN_MANIFEST = {"BadManifestRow", "BadLanguage", "BadRange", "BadUri", "DuplicateId"}
IN_AUDIO = {
    *("EmptyFile", "NotAFile", "NotAudio", "NoAudioStream", "NoSamples", "NonFinite"),
    *("OutOfRange", "Truncated", "Undecodable"),
}
OVER_LIMITS = {"BadRate", "TooLarge", "TooLong", "TooManyChannels", "TooShort"}
MAY_PASS = {
    *("AccessDenied", "Archived", "ChangedWhileRead", "FileMissing", "NotAllowed"),
    *("StoreUnavailable", "WorkerCrash", "OSError", "MemoryError", "OutOfMemoryError"),
}


def test_errors_in_manifest_audio_and_limits_are_permanent() -> None:
    assert PERMANENT >= IN_MANIFEST | IN_AUDIO | OVER_LIMITS


def test_errors_of_stores_disks_and_workers_may_pass() -> None:
    assert not PERMANENT & MAY_PASS
    assert {kind.value for kind in ErrorType} >= MAY_PASS


def test_every_error_type_has_advice_of_its_own() -> None:
    unknown = advice_for("SomeoneElsesError")
    for kind in ErrorType:
        assert advice_for(kind.value) == kind.advice != unknown
        assert not kind.advice.endswith(".")
