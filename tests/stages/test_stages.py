"""The stages without Ray: each bad recording becomes a row, each good one keeps its neighbours."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.audio.sources import open_source
from pipeline.audio.windows import decode
from pipeline.config import AudioConfig, LabelConfig, RunConfig, SegmentConfig
from pipeline.errors import BatchTooLarge
from pipeline.models.files import resolve_model
from pipeline.models.sensevoice.decoding import ClipOutput
from pipeline.models.sensevoice.model import Clip, SenseVoice, load_sensevoice
from pipeline.models.vad.load import load_vad
from pipeline.schema import BUNDLE, PLANNED, SAMPLE_RATE, SEGMENTED, WINDOW, Segment
from pipeline.stages import decode as stages
from pipeline.stages.decode import decode_recordings
from pipeline.stages.label import FindAndLabelSegments, LabelSegments, model_batch_s
from pipeline.stages.segment import FindSegments
from pipeline.storage.versions import MISSING, look_up_version, look_up_versions
from tests.support.demo import AUDIO, LONG, MODEL
from tests.support.sounds import encode, noise, silence

SEGMENT = SegmentConfig()


def plan_row(uri: Path | str, **fields: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "offset_s": 0.0,
        "length_s": 0.0,
        "channel": 0,
        "bytes": 0,
        "start": 0,
        "attempts": 1,
        "extra": {},
    }
    row = {name: empty.get(name, "") for name in PLANNED.names}
    return row | {"uri": str(uri), "recording_id": Path(uri).name, "work_key": "w"} | fields


def decode_rows(*rows: dict[str, Any], config: AudioConfig | None = None) -> list[dict[str, Any]]:
    planned = pa.Table.from_pylist(list(rows), schema=PLANNED)
    stage = partial(decode_recordings, config=config or AudioConfig(), options={}, run_id="run")
    tables = list(stage(planned))
    assert all(table.schema == WINDOW for table in tables)
    return [row for table in tables for row in table.to_pylist()]


@cache
def model() -> SenseVoice:
    return load_sensevoice(RunConfig(manifest="m", output="o", model=str(MODEL)))


def label_rows(
    *rows: dict[str, Any],
    vad: str = "none",
    config: LabelConfig | None = None,
    transcriber: Any = None,
) -> list[dict[str, Any]]:
    find = FindSegments(lambda: load_vad(vad, SEGMENT), SEGMENT)
    windows = pa.Table.from_pylist(decode_rows(*rows), schema=WINDOW)
    segmented = pa.concat_tables(find(windows))
    assert segmented.schema == SEGMENTED
    stage = LabelSegments(lambda: transcriber or model(), config or LabelConfig())
    labelled = stage(segmented)
    assert labelled.schema == BUNDLE
    return list(labelled.to_pylist())


def balance(row: dict[str, Any]) -> float:
    return float(row["labelled_s"] + row["silence_s"] + row["failed_s"] - row["duration_s"])


def test_a_missing_file_becomes_an_error_row_and_others_are_labelled() -> None:
    good, bad, also_good = label_rows(
        plan_row(AUDIO / "en_happy.mp3"),
        plan_row("/nowhere/lost.wav"),
        plan_row(AUDIO / "zh_angry.flac"),
    )
    assert (bad["error_stage"], bad["error_type"]) == ("decode", "FileMissing")
    assert "/nowhere/lost.wav" in bad["error_message"]
    assert good["segments"][0]["text"] == "2072."
    assert also_good["segments"][0]["text"] == "3234。"


def test_the_next_files_are_opened_while_one_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a file of a distant store takes time, here 20 ms."""
    waiting, most = 0, 0
    lock = threading.Lock()

    @contextmanager
    def open_slowly(*arguments: Any) -> Iterator[Any]:
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        time.sleep(0.02)
        with lock:
            waiting -= 1
        with open_source(*arguments) as source:
            yield source

    monkeypatch.setattr(stages, "open_source", open_slowly)
    names = [f"r{index}" for index in range(20)]
    rows = decode_rows(*(plan_row(AUDIO / "en_happy.mp3", recording_id=name) for name in names))
    assert [row["recording_id"] for row in rows] == names
    assert {row["error_type"] for row in rows} == {""}
    assert 4 < most <= 9


def test_short_recordings_share_a_table_and_long_windows_do_not(tmp_path: Path) -> None:
    """A table for each short one would cost more than its labels; see `collect`."""
    (tmp_path / "long.wav").write_bytes(encode(silence(150)))
    short = plan_row(AUDIO / "en_happy.mp3")
    rows = [*[short] * 5, plan_row(tmp_path / "long.wav"), *[short] * 3]
    planned = pa.Table.from_pylist(rows, schema=PLANNED)
    config = AudioConfig(window_s=70.0)
    tables = list(decode_recordings(planned, config=config, options={}, run_id="run"))
    assert [table.num_rows for table in tables] == [5, 1, 1, 4]
    assert [row["duration_s"] > 60 for table in tables[1:3] for row in table.to_pylist()] == [
        True,
        True,
    ]
    assert all(column.num_chunks == 1 for table in tables for column in table.columns)


def test_a_recording_needs_one_look_up_of_its_version_besides_its_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the last byte. Before the first, the version is that of the open file."""
    looked_up: list[str] = []

    def look_up(uri: str, options: Any) -> tuple[str, int]:
        looked_up.append(uri)
        return look_up_version(uri, options)

    monkeypatch.setattr(stages, "look_up_version", look_up)
    (row,) = decode_rows(plan_row(AUDIO / "en_happy.mp3"))
    ((version, n_bytes),) = look_up_versions([row["uri"]], {})
    assert (row["error_type"], row["version"], row["bytes"]) == ("", version, n_bytes)
    assert looked_up == [row["uri"]]


def test_a_file_that_was_lost_after_planning_has_the_version_of_missing_ones() -> None:
    """So the next run, whose plan finds it missing, too, does not try it again."""
    (row,) = decode_rows(plan_row("/nowhere/lost.wav", version="10-1"))
    assert (row["error_type"], row["version"]) == ("FileMissing", MISSING)


def test_a_file_rewritten_while_it_was_read_is_a_temporary_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes((AUDIO / "en_happy.mp3").read_bytes())

    @contextmanager
    def rewrite(*arguments: Any) -> Iterator[Any]:
        with open_source(*arguments) as source:
            path.write_bytes((AUDIO / "yue_neutral.mp3").read_bytes())
            yield source

    monkeypatch.setattr(stages, "open_source", rewrite)
    (row,) = decode_rows(plan_row(path))
    assert (row["error_stage"], row["error_type"]) == ("decode", "ChangedWhileRead")
    assert (row["n_windows"], row["duration_s"]) == (1, 0.0)


def test_an_error_from_the_plan_stays_unchanged() -> None:
    row = plan_row("x.wav", error_stage="manifest", error_type="BadRange", error_message="row 3")
    (got,) = label_rows(row)
    assert (got["error_type"], got["n_windows"], got["duration_s"]) == ("BadRange", 1, 0.0)


def test_a_failed_recording_says_what_was_decoded() -> None:
    (got,) = label_rows(plan_row(AUDIO / "broken_truncated.flac"))
    (whole,) = label_rows(plan_row(AUDIO / "zh_angry.flac"))
    assert got["error_type"] == "Truncated"
    assert got["codec"].startswith("flac/")
    names = ("sample_rate_hz", "channels", "audio_streams")
    assert [got[name] for name in names] == [whole[name] for name in names]
    assert got["error_message"].startswith(f"{got['duration_s']:.2f} s decoded")
    assert got["failed_s"] == got["duration_s"] > 0.5


def test_a_recording_that_fails_after_its_first_windows_counts_each_second_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cut.wav"
    whole = encode(silence(160))
    path.write_bytes(whole[: len(whole) // 2])
    rows = decode_rows(plan_row(path), config=AudioConfig(window_s=60.0))
    assert [row["error_type"] for row in rows] == ["", "Truncated"]
    assert sum(row["duration_s"] for row in rows) == pytest.approx(80.0, abs=0.01)
    assert rows[1]["window_start_s"] == rows[0]["duration_s"] > 0


def test_silence_is_a_good_row_without_segments() -> None:
    (got,) = label_rows(plan_row(AUDIO / "silence.wav"), vad="silero")
    assert (got["error_stage"], got["segments"]) == ("", [])
    assert got["silence_s"] == pytest.approx(got["duration_s"])


def test_the_seconds_of_every_row_add_up() -> None:
    for row in label_rows(plan_row(AUDIO / "long_mixed.mp3"), plan_row("lost"), vad="silero"):
        assert balance(row) == pytest.approx(0, abs=1e-6)


def test_the_windows_of_a_long_recording_join_to_all_its_samples() -> None:
    rows = decode_rows(plan_row(AUDIO / "long_mixed.mp3"), config=AudioConfig(window_s=20.0))
    (whole,) = decode_rows(plan_row(AUDIO / "long_mixed.mp3"))
    assert [row["window_index"] for row in rows] == list(range(len(rows)))
    assert [row["n_windows"] for row in rows] == [0] * (len(rows) - 1) + [len(rows)]
    assert len({row["attempt_id"] for row in rows}) == 1
    starts = np.cumsum([0.0, *(row["duration_s"] for row in rows)])[:-1]
    assert [row["window_start_s"] for row in rows] == pytest.approx(starts)
    assert b"".join(row["waveform"] for row in rows) == whole["waveform"]


def test_with_an_offset_times_still_count_from_the_start_of_the_file() -> None:
    (whole,) = label_rows(plan_row(AUDIO / "long_mixed.mp3"), vad="silero")
    (part,) = label_rows(
        plan_row(AUDIO / "long_mixed.mp3", offset_s=6.0, length_s=20.0), vad="silero"
    )
    second = whole["segments"][1]
    assert part["segments"][0]["start_s"] == pytest.approx(second["start_s"], abs=0.05)
    assert part["segments"][0]["text"] == second["text"]
    assert part["duration_s"] == pytest.approx(20.0)


def test_the_language_of_a_row_overrules_the_config() -> None:
    prompted, free = label_rows(
        plan_row(AUDIO / "yue_sad.ogg", language="zh"), plan_row(AUDIO / "yue_sad.ogg")
    )
    assert free["segments"][0]["language"] == "yue"
    assert prompted["segments"][0]["language"] == "zh"


def test_only_allowed_languages_are_labels() -> None:
    config = LabelConfig(allowed_languages=("zh", "en"))
    first, second = label_rows(
        plan_row(AUDIO / "yue_sad.ogg"), plan_row(AUDIO / "en_happy.mp3"), config=config
    )
    assert first["segments"][0]["language"] in ("zh", "en")
    assert first["segments"][0]["rich_text"].startswith(f"<|{first['segments'][0]['language']}|>")
    assert first["segments"][0]["language_probabilities"]["yue"] == 0
    assert second["segments"][0]["text"] == "2072."


class Choosy:
    """The demo model, which refuses batches that hold a clip of `n_frames` frames."""

    def __init__(self, n_frames: int) -> None:
        self.vocabulary = model().vocabulary
        self._n_frames = n_frames

    def transcribe(
        self, clips: list[np.ndarray], languages: list[str], use_itn: Sequence[bool]
    ) -> list[ClipOutput]:
        if any(len(clip) == self._n_frames for clip in clips):
            raise RuntimeError("CUDA out of memory")
        return model().transcribe(clips, languages, use_itn)


def test_a_clip_that_the_model_cannot_take_fails_alone(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "odd.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    odd_frames = 1 + (SAMPLE_RATE - 400) // 160
    names = ("en_happy.mp3", "zh_angry.flac", "yue_sad.ogg")
    rows = label_rows(
        *(plan_row(AUDIO / name) for name in names),
        plan_row(tmp_path / "odd.wav"),
        transcriber=Choosy(odd_frames),
    )
    assert [row["segments"][0]["text"] for row in rows[:3]] == ["2072.", "3234。", "454。"]
    assert (rows[3]["error_stage"], rows[3]["error_message"]) == ("label", "CUDA out of memory")
    assert (rows[3]["failed_s"], balance(rows[3])) == (1.0, 0.0)


class Small:
    """The demo model on a device with memory for `max_frames` per model batch."""

    def __init__(self, max_frames: int) -> None:
        self.vocabulary = model().vocabulary
        self.batches: list[int] = []
        self._max_frames = max_frames

    def transcribe(
        self, clips: Sequence[Clip], languages: Sequence[str], use_itn: Sequence[bool]
    ) -> list[ClipOutput]:
        self.batches.append(sum(map(len, clips)))
        if self.batches[-1] > self._max_frames:
            raise BatchTooLarge("CUDA out of memory")
        return model().transcribe(clips, languages, use_itn)


def test_a_device_without_memory_gets_smaller_batches_from_then_on() -> None:
    names = ("en_happy.mp3", "zh_angry.flac", "yue_sad.ogg")
    windows = pa.Table.from_pylist(
        decode_rows(*(plan_row(AUDIO / name) for name in names)), schema=WINDOW
    )
    segmented = pa.concat_tables(FindSegments(lambda: load_vad("none", SEGMENT), SEGMENT)(windows))
    longest = max(row[0]["n_frames"] for row in segmented["segments"].to_pylist())
    device = Small(max_frames=longest)
    label = LabelSegments(lambda: device, LabelConfig())
    texts = [row["segments"][0]["text"] for row in label(segmented).to_pylist()]
    assert texts == ["2072.", "3234。", "454。"]
    assert max(device.batches) > longest
    device.batches.clear()
    label(segmented)
    assert max(device.batches) <= longest


def test_a_clip_that_never_fits_is_an_error_row() -> None:
    (row,) = label_rows(plan_row(AUDIO / "en_happy.mp3"), transcriber=Small(max_frames=1))
    assert (row["error_stage"], row["error_type"]) == ("label", "BatchTooLarge")


def test_a_library_that_exits_makes_an_error_row() -> None:
    class Exits:
        def find_speech(self, waveforms: Any, log_mels: Any) -> list[Any]:
            raise SystemExit(3)

    find = FindSegments(Exits, SEGMENT)
    windows = pa.Table.from_pylist(decode_rows(plan_row(AUDIO / "en_happy.mp3")), schema=WINDOW)
    (row,) = pa.concat_tables(find(windows)).to_pylist()
    assert (row["error_stage"], row["error_type"]) == ("segment", "SystemExit")


def windows_of(*names: str) -> pa.Table:
    return pa.Table.from_pylist(
        decode_rows(*(plan_row(AUDIO / name) for name in names)), schema=WINDOW
    )


def test_vad_in_the_worker_of_the_model_gives_the_same_labels() -> None:
    windows = windows_of(
        *("en_happy.mp3", "broken_empty.wav", "silence.wav", "event_cough.flac", "yue_sad.ogg")
    )
    silero = partial(load_vad, "silero", SEGMENT)
    apart = LabelSegments(model, LabelConfig())(
        pa.concat_tables(FindSegments(silero, SEGMENT)(windows))
    )
    together = FindAndLabelSegments(silero, SEGMENT, model, LabelConfig(device="cpu"))(windows)
    assert together.schema == BUNDLE
    assert texts_of(together) == texts_of(apart)
    assert [len(texts) for texts in texts_of(together)] == [1, 0, 0, 0, 1]  # no speech in a cough
    assert together["error_type"].to_pylist() == ["", "EmptyFile", "", "", ""]


def texts_of(rows: pa.Table) -> list[list[str]]:
    return [[segment["text"] for segment in segments] for segments in rows["segments"].to_pylist()]


def test_a_recording_that_the_vad_cannot_take_fails_alone() -> None:
    class Choosy:
        def find_speech(self, waveforms: Any, log_mels: Any) -> list[list[Segment]]:
            if any(len(waveform) == refused for waveform in waveforms):
                raise ValueError("too odd")
            return [[Segment(0.0, len(waveform) / SAMPLE_RATE)] for waveform in waveforms]

    windows = windows_of("en_happy.mp3", "zh_angry.flac", "yue_sad.ogg")
    refused = len(windows["waveform"][1].as_py()) // 2
    rows = FindAndLabelSegments(Choosy, SEGMENT, model, LabelConfig(device="cpu"))(windows)
    assert texts_of(rows) == [["2072."], [], ["454。"]]
    assert rows["error_stage"].to_pylist() == ["", "segment", ""]
    assert rows["error_message"].to_pylist() == ["", "too odd", ""]


@pytest.mark.parametrize(
    ("config", "batch_s"),
    [
        (LabelConfig(device="cpu"), 60),
        (LabelConfig(device="cuda"), 1200),
        (LabelConfig(device="cuda", batch_s=7), 7),
    ],
)
def test_the_size_of_a_model_batch_depends_on_the_device(config: LabelConfig, batch_s: int) -> None:
    assert model_batch_s(config) == batch_s


def test_a_model_that_does_not_load_stops_the_worker(tmp_path: Path) -> None:
    config = RunConfig(manifest="m", output="o", model=str(tmp_path))
    with pytest.raises(Exception, match="lacks"):
        LabelSegments(lambda: SenseVoice(resolve_model(config.model)), LabelConfig())


def test_parts_of_one_file_are_opened_once_and_keep_their_own_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.mp3"
    path.write_bytes(encode(noise(30), "mp3"))
    opened: list[str] = []

    def noting(uri: str, *rest: Any) -> Any:
        opened.append(uri)
        return open_source(uri, *rest)

    monkeypatch.setattr(stages, "open_source", noting)
    parts = [(5.0, 2.0), (1.0, 2.0), (29.5, 2.0), (40.0, 1.0), (3.0, 0.001), (2.0, 2.0)]
    rows = [
        plan_row(path, recording_id=f"r{k}", work_key=f"w{k}", offset_s=offset, length_s=length)
        for k, (offset, length) in enumerate(parts)
    ]
    found = {row["recording_id"]: row for row in decode_rows(*rows)}
    assert opened == [str(path)]
    assert len(found) == len(parts)
    assert [found[f"r{k}"]["duration_s"] for k in (0, 1, 5)] == [2.0, 2.0, 2.0]
    assert found["r2"]["duration_s"] == pytest.approx(0.5, abs=0.06)
    assert "after the file" in found["r2"]["warning"]
    assert [found[f"r{k}"]["error_type"] for k in (3, 4)] == ["BadRange", "TooShort"]
    assert len({row["attempt_id"] for row in found.values()}) == len(parts)
    alone = {row["recording_id"]: decode_rows(row)[0] for row in rows}
    for name, row in found.items():
        ours, theirs = (np.frombuffer(one.pop("waveform"), np.int16) for one in (row, alone[name]))
        assert row == alone[name]
        assert ours.size == theirs.size
        assert not ours.size or np.abs(ours.astype(int) - theirs).max() <= 1


def test_parts_of_one_file_have_the_labels_of_files_that_were_cut_before(tmp_path: Path) -> None:
    path = AUDIO / LONG["audio"]
    samples = np.concatenate([w.waveform for w in decode(str(path), AudioConfig(), {})])
    parts = [(one["start_s"], one["end_s"] - one["start_s"]) for one in LONG["ref_segments"][:6]]
    cut = []
    for number, (offset_s, length_s) in enumerate(parts):
        start = round(offset_s * SAMPLE_RATE)
        piece = samples[start : start + round(length_s * SAMPLE_RATE)]
        soundfile.write(tmp_path / f"{number}.wav", piece, SAMPLE_RATE)
        cut.append(plan_row(tmp_path / f"{number}.wav"))
    ranges = [
        plan_row(path, recording_id=f"r{number}", offset_s=offset_s, length_s=length_s)
        for number, (offset_s, length_s) in enumerate(parts)
    ]
    labels, expected = (
        [
            [(one["text"], one["language"], one["emotion"]) for one in row["segments"]]
            for row in label_rows(*rows)
        ]
        for rows in (ranges, cut)
    )
    assert labels == expected
    assert any(label[0] for row in labels for label in row)
