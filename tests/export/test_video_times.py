"""Exports of video are in its time, and of the audio stream that was labelled."""

from pathlib import Path

from pipeline.export.write import export
from pipeline.storage.store import open_store
from pipeline.tables.bundles import write_bundle
from pipeline.tables.publisher import publish
from tests.support.bundle_rows import RUN, bundle, whole


def make_root(tmp_path: Path) -> str:
    """One recording whose sound starts 4 s after the picture, in the second audio stream."""
    rows = whole("film", 1)
    for row in rows:
        row |= {"start_offset_s": 4.0, "audio_streams": 2, "audio_stream": 1}
    store = open_store(str(tmp_path / "root"))
    write_bundle(store, RUN, bundle(*rows))
    publish(store, RUN)
    return store.root


def test_captions_count_from_the_start_of_the_picture(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    export(root, tmp_path / "srt", "srt")
    export(root, tmp_path / "rttm", "rttm")
    (srt,) = (tmp_path / "srt").glob("*.srt")
    first_s = float((tmp_path / "rttm" / "languages.rttm").read_text().split()[3])
    shown = srt.read_text().splitlines()[1].partition(" --> ")[0]
    hours, minutes, seconds = shown.replace(",", ".").split(":")
    shown_s = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    assert shown_s == first_s + 4.0


def test_kaldi_reads_the_stream_that_was_labelled(tmp_path: Path) -> None:
    export(make_root(tmp_path), tmp_path / "kaldi", "kaldi")
    command = (tmp_path / "kaldi" / "wav.scp").read_text()
    assert " -map 0:a:1 " in command
    assert "aresample=async=1" in command  # gaps are silence there, too
