"""Measures for an output that was labelled without them: the same, and nothing else changes."""

import shutil
from pathlib import Path

import pytest

from pipeline.maintenance.measure import add_measures
from pipeline.maintenance.verify import verify
from pipeline.schema import TABLES
from pipeline.storage.store import open_store
from pipeline.tables import connect, open_snapshot
from tests.support.bundle_rows import RUN
from tests.support.call import publish_call
from tests.support.demo import AUDIO, GOOD, demo_config, execute, write_manifest

NAMES = ("en_neutral", "zh_neutral", "ja_neutral")
FROM_VAD = ("snr_db", "snr_method", "noise_dbfs", "speech_s", "chars_per_s", "words_per_s")


def labelled(folder: Path, measure: str) -> str:
    folder.mkdir(exist_ok=True)
    rows = [
        {"audio": str(folder.parent / row["audio"]), "recording_id": row["recording_id"]}
        for row in GOOD
        if row["recording_id"].startswith(NAMES)
    ]
    for row in GOOD:
        if not (folder.parent / row["audio"]).exists():
            shutil.copy(AUDIO / row["audio"], folder.parent / row["audio"])
    settings = ("vad=silero", "ray.local=always", f"quality.measure={measure}")
    config = demo_config(folder / "out", f"manifest={write_manifest(folder, rows)}", *settings)
    assert execute(config).n_unfinished == 0
    return str(folder / "out")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return labelled(tmp_path_factory.mktemp("corpus") / "off", "false")


def test_an_output_is_measured_without_labelling_it(plain: str) -> None:
    before = open_snapshot(plain)
    done = add_measures(open_store(plain), before.fingerprint, {})
    assert (done.n_measured, done.n_there, done.n_changed, done.n_unreadable) == (3, 0, 0, 0)
    after = open_snapshot(plain)
    for table in TABLES:
        if table not in ("measures", "quality"):
            assert after.read(table).equals(before.read(table)), table
    assert verify(open_store(plain)).problems == []

    measured = open_snapshot(labelled(Path(plain).parents[1] / "on", "true"))
    assert after.read("measures").equals(measured.read("measures"))
    same = [name for name in TABLES["quality"].names if name not in FROM_VAD]
    assert after.read("quality", same).equals(measured.read("quality", same))

    again = add_measures(open_store(plain), before.fingerprint, {})
    assert (again.seq, again.n_measured, again.n_there) == (done.seq, 0, 3)


def test_audio_that_is_gone_or_changed_is_counted(tmp_path: Path) -> None:
    root = labelled(tmp_path / "off", "false")
    (tmp_path / "en_neutral.wav").unlink()
    shutil.copy(AUDIO / "en_happy.mp3", tmp_path / "zh_neutral_44k_stereo.wav")
    done = add_measures(open_store(root), open_snapshot(root).fingerprint, {})
    assert (done.n_measured, done.n_changed, done.n_unreadable) == (1, 1, 1)
    assert open_snapshot(root).read("measures").num_rows == 1
    assert verify(open_store(root)).problems == []


def test_each_channel_of_a_call_is_measured_on_its_own(tmp_path: Path) -> None:
    store = publish_call(tmp_path, has_version=True)
    done = add_measures(store, RUN.fingerprint, {})
    assert (done.n_measured, done.n_changed, done.n_unreadable) == (1, 0, 0)
    with connect(store.root) as connection:
        (row,) = connection.sql("SELECT channel_correlation, audio_sha256 FROM measures").fetchall()
        noises = connection.sql(
            "SELECT t.channel, q.noise_dbfs FROM quality q JOIN transcripts t USING (segment_id)"
        ).fetchall()
    assert abs(row[0]) < 0.1
    assert len(row[1]) == 64
    of_channel = dict(noises)
    assert of_channel[1] != of_channel[2]
