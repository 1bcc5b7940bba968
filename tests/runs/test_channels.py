"""Corpora with several channels: the labels, the seconds and the ids of both speakers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.maintenance.verify import verify
from pipeline.storage.store import open_store
from pipeline.tables import Snapshot, open_snapshot
from tests.support.demo import AUDIO, GOOD, demo_config, execute, waveform_of, write_manifest

LENGTH = 8 * 16_000


def clip(number: int) -> np.ndarray:
    """A short clip of the demo corpus with silence behind it, int16 (LENGTH,)."""
    waveform = waveform_of(AUDIO / GOOD[number]["audio"])[:LENGTH]
    return np.pad(waveform, (0, LENGTH - len(waveform)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("channels")
    caller, agent = clip(0), clip(3)
    files = {
        "call": np.stack([caller, agent], axis=1),
        "dual": np.stack([caller, caller], axis=1),
        "caller": caller,
        "agent": agent,
    }
    for name, samples in files.items():
        soundfile.write(folder / f"{name}.wav", samples, 16_000)
    return folder


def label(folder: Path, name: str, rows: list[dict[str, Any]], *overrides: str) -> Snapshot:
    output = folder / name
    output.mkdir()
    manifest = write_manifest(output, rows)
    config = demo_config(output / "out", f"manifest={manifest}", "ray.local=always", *overrides)
    execute(config)
    return open_snapshot(str(output / "out"))


def texts(snapshot: Snapshot, recording_id: str) -> list[tuple[Any, ...]]:
    """(channel, start_s, end_s, text) of a recording, in the order of its segments."""
    rows = snapshot.read("transcripts").to_pylist()
    return [
        (row["channel"], row["start_s"], row["end_s"], row["text"])
        for row in rows
        if row["recording_id"] == recording_id
    ]


def recording(snapshot: Snapshot, recording_id: str) -> dict[str, Any]:
    rows = snapshot.read("recordings").to_pylist()
    (row,) = [row for row in rows if row["recording_id"] == recording_id]
    return dict(row)


@pytest.fixture(scope="module")
def mono(corpus: Path) -> Snapshot:
    rows = [
        {"recording_id": name, "audio": str(corpus / f"{name}.wav")} for name in ("caller", "agent")
    ]
    return label(corpus, "mono", rows)


@pytest.fixture(scope="module")
def split(corpus: Path) -> Snapshot:
    rows: list[dict[str, Any]] = [
        {"recording_id": "call", "audio": str(corpus / "call.wav")},
        {"recording_id": "dual", "audio": str(corpus / "dual.wav")},
        {"audio": str(corpus / "call.wav"), "channel": 2},
        {"audio": str(corpus / "call.wav"), "channel": 3, "recording_id": "third"},
    ]
    return label(corpus, "split", rows, "audio.channels=split")


def without_channel(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row[1:] for row in rows]


def test_each_channel_has_the_labels_of_a_file_of_its_own(split: Snapshot, mono: Snapshot) -> None:
    found = texts(split, "call")
    for channel, name in ((1, "caller"), (2, "agent")):
        of_channel = [row for row in found if row[0] == channel]
        assert without_channel(of_channel) == without_channel(texts(mono, name))
        assert any(row[3] for row in of_channel)
    assert [row[1] for row in found] == sorted(row[1] for row in found)
    ids = [row["segment_id"] for row in split.read("transcripts").to_pylist()]
    assert [one for one in ids if one.startswith("call-")] == [
        f"call-{number:06d}" for number in range(len(found))
    ]


def test_the_seconds_of_a_split_recording_are_those_of_all_its_channels(split: Snapshot) -> None:
    row = recording(split, "call")
    spent_s = row["labelled_s"] + row["silence_s"] + row["failed_s"]
    assert (row["n_streams"], row["channel"], row["channels"]) == (2, None, 2)
    assert row["duration_s"] == 2 * LENGTH / 16_000
    assert spent_s == pytest.approx(row["duration_s"], abs=1e-6)
    assert verify(open_store(split.store.root)).problems == []


def test_two_equal_channels_are_paid_once(split: Snapshot, mono: Snapshot) -> None:
    row = recording(split, "dual")
    assert (row["n_streams"], row["duration_s"]) == (1, LENGTH / 16_000)
    assert row["warning"] == "channel 2 has the signal of channel 1"
    assert texts(split, "dual") == texts(mono, "caller")


def test_a_channel_of_the_manifest_is_a_recording_of_its_own(
    split: Snapshot, mono: Snapshot, corpus: Path
) -> None:
    recording_id = f"{corpus}/call.wav#channel=2"
    row = recording(split, recording_id)
    assert (row["n_streams"], row["channel"], row["duration_s"]) == (1, 2, LENGTH / 16_000)
    found = texts(split, recording_id)
    assert {channel for channel, *_ in found} == {2}
    assert without_channel(found) == without_channel(texts(mono, "agent"))
    failed = recording(split, "third")
    assert (failed["status"], failed["error_type"]) == ("error", "BadChannel")
    assert failed["error_message"] == "channel 3 of a file with 2 channels"


def test_the_mixed_labels_keep_their_fingerprint_and_split_ones_have_their_own(
    split: Snapshot, mono: Snapshot
) -> None:
    assert split.fingerprint != mono.fingerprint
