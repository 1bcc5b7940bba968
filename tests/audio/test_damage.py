"""Any cut, gap or flipped byte in the commonest files: an account of seconds, or a typed error."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ErrorType, RecordingError
from tests.audio.test_real_files import PULSES, TOTAL_S, decode, pulses, starts_of
from tests.support.containers import PAIRS, TIMED, mux
from tests.support.sounds import noise

KINDS = sorted(PAIRS)
CHECKED = ("flac", "opus", "oggflac", "wv")  # formats with checksums
_WHOLE = {kind: mux(noise(TOTAL_S)[:, 0] + pulses(), kind) for kind in KINDS}
_ERRORS = {kind.value for kind in ErrorType}
LAWS = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("kind", KINDS)
@given(share=st.floats(0.0, 1.0))
@LAWS
def test_a_cut_file_is_shorter_or_a_typed_error(kind: str, share: float) -> None:
    data = _WHOLE[kind][: round(len(_WHOLE[kind]) * share)]
    try:
        done = decode(data)
    except RecordingError as error:
        assert error.kind in _ERRORS
    else:
        assert done.duration_s <= decode(_WHOLE[kind]).duration_s + 0.02


@pytest.mark.parametrize("kind", KINDS)
@given(places=st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=1, max_size=8))
@LAWS
def test_flipped_bytes_never_make_more_audio_than_there_was(kind: str, places: list[float]) -> None:
    data = bytearray(_WHOLE[kind])
    for place in places:
        data[int(place * len(data))] ^= 0xFF
    try:
        done = decode(bytes(data))
    except RecordingError as error:
        assert error.kind in _ERRORS
        return
    longest_s = 2 * TOTAL_S + 10
    assert done.duration_s <= longest_s


@pytest.mark.parametrize("kind", CHECKED)
@given(place=st.floats(0.2, 0.95))
@LAWS
def test_damage_is_told_where_the_format_has_checksums(kind: str, place: float) -> None:
    data = bytearray(_WHOLE[kind])
    data[int(place * len(data))] ^= 0xFF
    try:
        done = decode(bytes(data))
    except RecordingError as error:
        assert error.kind in _ERRORS
        return
    whole = decode(_WHOLE[kind])
    same = len(done.samples) == len(whole.samples) and np.array_equal(done.samples, whole.samples)
    assert same or done.last.warning != ""


@pytest.mark.parametrize("kind", TIMED)
@given(at_s=st.sampled_from([1.0, 2.0, 5.0]), gap_s=st.floats(0.1, 30.0))
@LAWS
def test_words_behind_any_gap_keep_their_time(kind: str, at_s: float, gap_s: float) -> None:
    whole = decode(mux(pulses(), kind))
    done = decode(mux(pulses(), kind, gap_at_s=at_s, gap_s=gap_s))
    assert done.duration_s == pytest.approx(whole.duration_s + gap_s, abs=0.02)
    moved = [
        start_s + (gap_s if pulse_s > at_s else 0.0)
        for start_s, pulse_s in zip(starts_of(whole.samples), PULSES, strict=True)
    ]
    assert starts_of(done.samples) == pytest.approx(moved, abs=0.025)
